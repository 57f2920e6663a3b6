"""The tables of docs/hub.md."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from spacelang import hub

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "hub.md"
hub_page = SimpleNamespace(**runpy.run_path(str(DOCS / "hub_page.py")))


def test_the_page_is_up_to_date() -> None:
    """If not: `python docs/hub_page.py docs/hub.md`."""
    text = PAGE.read_text(encoding="utf-8")
    assert hub_page.updated(text) == text


def test_every_entry_has_a_row() -> None:
    tables = hub_page.tables()
    for name in hub.list_models():
        assert tables.count(f"\n| `{name}`") == 1
    assert (
        "| `darts-v2` | 3,349,342 | 528,359,040 at 3x32x32 | CIFAR-10: test error 2.76 ± 0.09 %[^" in tables
    )
    assert "\n| `darts-digits` (weights) | 29,210 |" in tables
    assert "137,247,488 at 3x224x224<br>13,188,608 at 3x64x64" in tables
    assert "\n\nNo entries; `DigitsCells.table` has the results of all" in tables
    assert "## NASBench101\n\nCells that are graphs of up to 7 vertices and 9 edges" in tables


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("test_error_percent", "2.46 +- 0.03", "test error 2.46 ± 0.03 %"),
        ("parameters_million", 3.75, "3.75 M parameters"),
        ("flops_million", 578, "578 M FLOPs"),
        ("latency", "5.1 ms on a V100", "latency 5.1 ms on a V100"),
    ],
)
def test_quantities(key: str, value: object, text: str) -> None:
    assert hub_page._quantity(key, value) == text
