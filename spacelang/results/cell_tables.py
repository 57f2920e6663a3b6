"""What a picture of an architecture or a space shows: cells as graphs, everything else as rows of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import SpaceError, quoted
from ..language import Categorical, Subset

MergeOp = Literal["all", "loose_end"]

_KEY = re.compile(r"(?P<cell>.+)/(?P<kind>op|input)_(?P<node>[0-9]{1,6})_(?P<slot>[0-9]{1,6})\Z", re.ASCII)
_TITLES = {"normal": "Normal cell", "reduce": "Reduction cell", "reduction": "Reduction cell"}


@dataclass(frozen=True, slots=True)
class CellEdge:
    """An operation that reads node `source` and adds to node `target`."""

    source: int
    target: int
    label: str


@dataclass(frozen=True, slots=True)
class CellPicture:
    """A cell: nodes 0..num_predecessors-1 are its inputs, the others are intermediate.

    Attributes:
        title: heading.
        num_predecessors: number of inputs.
        num_nodes: number of intermediate nodes.
        edges: operations, in node order.
        outputs: intermediate nodes that lead to the output.
        note: a line below the cell, or an empty string.
    """

    title: str
    num_predecessors: int
    num_nodes: int
    edges: tuple[CellEdge, ...]
    outputs: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Cells in order of appearance, and the other decisions as (label, value) texts."""

    cells: tuple[CellPicture, ...]
    rows: tuple[tuple[str, str], ...]
    headings: tuple[str, str]


def picture_of_architecture(arch: Mapping[str, Any], merge_op: MergeOp) -> Picture:
    """Read the cells of an architecture dict.

    Raises:
        SpaceError: not a dict with str keys, or a cell whose keys contradict each other.
    """
    if not all(isinstance(label, str) for label in arch):
        raise SpaceError("draw got a dict with keys that are not str; expected an architecture dict.")
    cells, others = _group(list(arch))
    pictures = []
    for cell, slots in cells.items():
        edges = []
        for node, slot in slots:
            source = _source(arch[f"{cell}/input_{node}_{slot}"], f"{cell}/input_{node}_{slot}", node)
            edges.append(CellEdge(source, node, str(arch[f"{cell}/op_{node}_{slot}"])))
        pictures.append(_cell(cell, slots, edges, merge_op))
    rows = tuple((label, _value_text(arch[label])) for label in others)
    return Picture(tuple(pictures), rows, ("decision", "choice"))


def picture_of_space(decisions: Sequence[Categorical | Subset], merge_op: MergeOp) -> Picture:
    """Read the cells of a space: every edge that may be chosen, with its number of candidates."""
    by_label = {decision.label: decision for decision in decisions}
    cells, others = _group(list(by_label))
    pictures = []
    for cell, slots in cells.items():
        counts: dict[tuple[int, int], int] = {}
        for node, slot in slots:
            number = len(by_label[f"{cell}/op_{node}_{slot}"].candidates)
            for source in by_label[f"{cell}/input_{node}_{slot}"].candidates:
                source = _source(source, f"{cell}/input_{node}_{slot}", node)
                counts[source, node] = max(number, counts.get((source, node), 0))
        edges = [
            CellEdge(source, node, f"{number} candidate{'s' if number > 1 else ''}")
            for (source, node), number in sorted(counts.items(), key=lambda entry: entry[0][::-1])
        ]
        per_node = len(slots) // len({node for node, _ in slots})
        note = f"{per_node} of these edges {'are' if per_node > 1 else 'is'} chosen for each node"
        pictures.append(_cell(cell, slots, edges, merge_op, note))
    rows = tuple((label, _candidates_text(by_label[label])) for label in others)
    return Picture(tuple(pictures), rows, ("decision", "candidates"))


def _group(labels: Sequence[str]) -> tuple[dict[str, list[tuple[int, int]]], list[str]]:
    """Return `{cell label: sorted (node, slot)}` and the labels that belong to no cell."""
    found: dict[str, dict[str, set[tuple[int, int]]]] = {}
    for label in labels:
        if match := _KEY.match(label):
            kinds = found.setdefault(match["cell"], {"op": set(), "input": set()})
            kinds[match["kind"]].add((int(match["node"]), int(match["slot"])))
    cells = {}
    for cell, kinds in found.items():
        if not kinds["op"] or not kinds["input"]:
            continue  # labels that only look like a cell's
        for node, slot in sorted(kinds["op"] ^ kinds["input"]):
            lacking = "input" if (node, slot) in kinds["op"] else "op"
            raise SpaceError(
                f"cell {cell!r} has no '{cell}/{lacking}_{node}_{slot}'; each slot needs op and input."
            )
        cells[cell] = sorted(kinds["op"])
    others = [label for label in labels if not ((match := _KEY.match(label)) and match["cell"] in cells)]
    return cells, others


def _source(value: Any, label: str, node: int) -> int:
    """Return an input choice, an int or a list of one, as a node index below `node`."""
    single = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if type(single) is not int or not 0 <= single < node:
        raise SpaceError(
            f"{label!r} got {value!r:.60}; expected an int from 0 to {node - 1}, or a list of one."
        )
    return single


def _cell(
    label: str, slots: list[tuple[int, int]], edges: list[CellEdge], merge_op: MergeOp, note: str = ""
) -> CellPicture:
    nodes = sorted({node for node, _ in slots})
    missing = [node for node in range(nodes[0], nodes[-1] + 1) if node not in nodes][:3]
    if missing:
        raise SpaceError(f"cell {label!r} has nodes {quoted(nodes)} and none numbered {quoted(missing)}.")
    used = {edge.source for edge in edges}
    outputs = nodes if merge_op == "all" else [node for node in nodes if node not in used]
    return CellPicture(_TITLES.get(label, label), nodes[0], len(nodes), tuple(edges), tuple(outputs), note)


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _candidates_text(decision: Categorical | Subset) -> str:
    texts = [str(candidate) for candidate in decision.candidates]
    shown = " | ".join(texts if len(texts) <= 6 else [*texts[:4], "...", texts[-1]])
    if hasattr(decision, "n_chosen"):
        chosen = decision.n_chosen or "any number"
        return f"{chosen} of {shown}"
    return shown
