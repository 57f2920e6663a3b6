"""Every Python example of the README and the guide runs, each page as one program; links and files exist."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from spacelang import strategies

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)")
CODE = re.compile(r"^```.*?^```$|^    [^\n]*$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SCRIPT = re.compile(r"`(?:python )?([\w/]+\.py)\b")
FOLDERS = ("benchmarks", "docs", "evaluators", "examples", "hub", "spacelang", "strategies", "tests")
ALL_PAGES = [*sorted(ROOT.glob("*.md")), *sorted(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))]
READMES = [page for page in ALL_PAGES if page.name == "README.md" and page.parent != ROOT]

# One epoch of few images shows whether an example works; its accuracy does not matter here.
FEWER_EPOCHS = (re.compile(r"max_epochs=\d+"), "max_epochs=1")


def relative(path: Path) -> str:
    """Return a path as test ids show it."""
    return path.relative_to(ROOT).as_posix()


def programs() -> list[tuple[str, str]]:
    """Return each page with Python examples: its name, and the examples on their lines."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [""] * text.count("\n")
        for match in FENCE.finditer(text):
            first = text.count("\n", 0, match.start(1))
            block = match.group(1).splitlines()
            lines[first : first + len(block)] = block
        if any(lines):
            name = relative(page).removeprefix("docs/")
            found.append((name, FEWER_EPOCHS[0].sub(FEWER_EPOCHS[1], "\n".join(lines))))
    return found


def few_digits(**kwargs: Any) -> Any:
    """Return scikit-learn's handwritten digits, the first 400 of 1,797."""
    whole = load_digits(**kwargs)
    for name in ("data", "images", "target"):
        whole[name] = whole[name][:400]
    return whole


@pytest.mark.parametrize(("name", "program"), programs(), ids=[name for name, _ in programs()])
def test_examples_run(name: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples write where the user stands
    monkeypatch.setattr("sklearn.datasets.load_digits", few_digits)
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, name, "exec", dont_inherit=True), scope)
    check_numbers(name, scope)


def check_numbers(name: str, scope: Mapping[str, Any]) -> None:
    """Compare the numbers in a page's comments with the results of its program."""
    if name == "README.md":
        assert scope["net"].size() == 24
        assert sum(parameter.numel() for parameter in scope["model"].parameters()) == 3_349_342
    elif name == "language.md":
        assert scope["net"].size() == 24
        assert scope["net"].default() == {"stem": "linear", "depth": 0, "skip": 0, "hidden": 8}
        assert (scope["expected"].item(), scope["cost"].of(scope["small"].architecture)) == (279, 139)
    elif name == "existing_models.md":
        assert list(scope["choices"])[-1] == "layer*.*.conv1.out_channels"
        assert scope["difference"] < 1e-4
        assert scope["same"]


def test_there_are_examples() -> None:
    pages = {"README.md", "index.md", "language.md", "oneshot.md", "results.md", "tutorials/own_data.md"}
    assert {name for name, _ in programs()} >= pages


@pytest.mark.parametrize("page", ALL_PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings have on GitHub."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READMES, ids=relative)
def test_files_named_in_a_readme_exist(page: Path) -> None:
    named = set(SCRIPT.findall(page.read_text(encoding="utf-8")))
    missing = [name for name in named if not (ROOT / name).exists() and not any(page.parent.rglob(name))]
    assert missing == []


def test_every_strategy_is_in_the_table_of_algorithms() -> None:
    """The page names each public strategy, extra and wrapper, and the file that defines it."""
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    missing = []
    for name, item in public_strategies():
        file = inspect.getsourcefile(item)
        assert file is not None
        if not any(f"`{name}`" in row and Path(file).name in row for row in rows):
            missing.append(f"{name} ({Path(file).name})")
    assert missing == []


def public_strategies() -> list[tuple[str, type]]:
    """Return the strategies, extras and wrappers among the public names, by name."""
    bases = (strategies.OneShot, strategies.Extra)
    parts = ("OneShot", "Differentiable", "PathSampling", "Extra", "LogitsExtra")
    found = []
    for name in sorted(strategies.__all__):
        item = getattr(strategies, name)
        if not isinstance(item, type) or name in parts:
            continue
        if issubclass(item, bases) or (hasattr(item, "start") and "multi_trial" in item.__module__):
            found.append((name, item))
    return found
