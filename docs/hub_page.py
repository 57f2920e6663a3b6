"""Write the tables of docs/hub.md from the entries: `python docs/hub_page.py docs/hub.md`.

The text above `MARKER` is written by hand and stays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

from spacelang.hub.cells import SNAS, FairDARTSEdges, HierarchicalCells
from spacelang.hub.loading import SPACES
from spacelang.hub.nasbench import DigitsCells, StagedCells
from spacelang.hub.plain import PlainCNN
from spacelang.hub.published import Entry, list_models, read_entry
from spacelang.hub.recurrent import RNNCell
from spacelang.hub.tabular import MLP
from spacelang.hub.transformers import GPT

MARKER = "<!-- Everything below is written by `python docs/hub_page.py docs/hub.md`. -->\n"
WITHOUT_ENTRIES = (
    SNAS,
    FairDARTSEdges,
    HierarchicalCells,
    StagedCells,
    DigitsCells,
    RNNCell,
    GPT,
    MLP,
    PlainCNN,
)
HEADER = "| name | parameters | multiply-accumulates | published | source |\n|---|---|---|---|---|\n"


def updated(page: str) -> str:
    """Return the page with new tables."""
    by_hand, marker, _ = page.partition(MARKER)
    return f"{by_hand}{marker}\n{tables()}"


def tables() -> str:
    """Return a section for every space, and the sources as footnotes."""
    entries = [read_entry(name) for name in list_models()]
    notes: dict[str, int] = {}
    sections = [
        _section(space, [entry for entry in entries if entry.space == name], notes)
        for name, space in [*SPACES.items(), *((space.__name__, space) for space in WITHOUT_ENTRIES)]
    ]
    return "\n".join(sections) + "".join(f"\n[^{number}]: {text}" for text, number in notes.items()) + "\n"


def _section(space: type, entries: list[Entry], notes: dict[str, int]) -> str:
    summary = (getdoc(space) or "").partition("\n")[0]
    if entries:
        body = HEADER + "".join(_row(entry, notes) for entry in entries)
    elif hasattr(space, "table"):
        table = f"`{space.__name__}.table`"
        body = f"No entries; {table} has the results of all architectures, for the evaluator `Tabular`.\n"
    else:
        body = "No entries.\n"
    return f"## {space.__name__}\n\n{summary}\n\n{body}"


def _row(entry: Entry, notes: dict[str, int]) -> str:
    """Return the table row of an entry, with the counts of `load(name)` without further arguments."""
    counts = [row for row in entry.counts if not row["arguments"]]
    cells = (
        f"`{entry.name}`{' (weights)' if entry.weights else ''}",
        f"{counts[0]['parameters']:,}",
        "<br>".join(f"{row['macs']:,} {_of(row)}" for row in counts if "macs" in row),
        "<br>".join(f"{_result(row)}{_note(row['evidence'], notes)}" for row in entry.published),
        _note(entry.source, notes),
    )
    return f"| {' | '.join(cells)} |\n"


def _of(row: Mapping[str, Any]) -> str:
    """Return for what a row counts: "at 3x32x32" for an image, or "a token"."""
    return f"at {'x'.join(map(str, row['image']))}" if "image" in row else "a token"


def _result(published: Mapping[str, Any]) -> str:
    """Write a published result in words: "CIFAR-10: test error 2.76 ± 0.09 %"."""
    told = (_quantity(key, value) for key, value in published.items() if key not in ("dataset", "evidence"))
    return f"{published['dataset']}: {', '.join(told)}"


def _quantity(key: str, value: object) -> str:
    text = str(value).replace("+-", "±")
    if key.endswith("_million"):
        unit = key.removesuffix("_million")
        return f"{text} M {'FLOPs' if unit == 'flops' else unit}"
    words = key.removesuffix("_percent").replace("_", " ")
    return f"{words} {text} %" if key.endswith("_percent") else f"{words} {text}"


def _note(text: str, notes: dict[str, int]) -> str:
    """Return the mark of the footnote with this text; equal texts share a footnote."""
    return f"[^{notes.setdefault(text, len(notes) + 1)}]"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(updated(file.read_text(encoding="utf-8")), encoding="utf-8")
