"""Every Python example of the README and the guide runs, page by page, each page one program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, name, "exec"), scope)
    check_numbers(name, scope)


def check_numbers(name: str, scope: Mapping[str, Any]) -> None:
    """Compare the numbers a page states in its comments with what its program made."""
    if name == "README.md":
        assert scope["net"].size() == 24
        assert sum(parameter.numel() for parameter in scope["model"].parameters()) == 3_349_342
    elif name == "language.md":
        assert scope["net"].size() == 24
        assert scope["net"].default() == {"stem": "linear", "depth": 0, "skip": 0, "hidden": 8}
        assert (scope["expected"].item(), scope["cost"].of(scope["small"].architecture)) == (279, 139)


def test_there_are_examples() -> None:
    assert {name for name, _ in programs()} >= {"README.md", "language.md", "oneshot.md", "results.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []
