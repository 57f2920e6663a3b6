"""Every Python example of the README and the guide runs, page by page, each page one program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")

# One epoch tells whether an example works; how well it does is not the question here.
FEWER_EPOCHS = (re.compile(r"max_epochs=\d+"), "max_epochs=1")


def programs() -> list[tuple[str, str]]:
    """Each page with Python examples: its name, and the examples at the lines they stand on."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [""] * text.count("\n")
        for match in FENCE.finditer(text):
            first = text.count("\n", 0, match.start(1))
            block = match.group(1).splitlines()
            lines[first : first + len(block)] = block
        if any(lines):
            found.append((page.name, FEWER_EPOCHS[0].sub(FEWER_EPOCHS[1], "\n".join(lines))))
    return found


@pytest.mark.parametrize(("name", "program"), programs(), ids=[name for name, _ in programs()])
def test_examples_run(name: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples write where the user stands
    exec(compile(program, name, "exec"), {"__name__": "example"})


def test_there_are_examples() -> None:
    assert {name for name, _ in programs()} >= {"README.md", "language.md", "oneshot.md", "results.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []
