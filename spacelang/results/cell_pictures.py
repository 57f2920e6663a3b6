"""Contents of a picture: cells as graphs, and every other decision as a row of a table."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import SpaceError
from ..graph import architecture_graph, space_graph
from ..graph.reading import region_graph
from ..language import Decision, Space, Subset, cells_in
from ..supernet import Group, Supernet
from .chain_pictures import Chain, chain_of
from .painting import value_text

if TYPE_CHECKING:
    import networkx as nx

MergeOp: TypeAlias = Literal["all", "loose_end"]

_PASSED = ("data", "concat", "mean", "sum")  # kinds of edges without an operation
Row: TypeAlias = tuple[str, str]
"""(label, value), as texts."""

_TITLES = {"cell": "Cell", "normal": "Normal cell", "reduce": "Reduction cell", "reduction": "Reduction cell"}
_MOST_SHOWN = 6  # candidates in a row of the table


@dataclass(frozen=True, slots=True)
class CellNode:
    """A feature map; or an operation that stands on a node of its own, then `text` is its name."""

    kind: Literal["input", "node", "operation", "output"]
    text: str


@dataclass(frozen=True, slots=True)
class CellEdge:
    """An arrow from one node to another, by their positions.

    Args:
        source: Position of the node that it leaves.
        target: Position of the node that it enters.
        label: Operation on it; an empty string where the feature map is passed on.
        weight: Its weight next to the others, from 0 to 1; None where there are no weights.
    """

    source: int
    target: int
    label: str = ""
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class CellPicture:
    """A cell.

    Args:
        title: Heading.
        nodes: Inputs, intermediate nodes, output; every edge leads from an earlier to a later one.
        edges: Operations by node, and what leads to the output.
        notes: Lines below the cell.
    """

    title: str
    nodes: tuple[CellNode, ...]
    edges: tuple[CellEdge, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """Cells in order of appearance, a chain, and the other decisions as rows of a table with two headings."""

    cells: tuple[CellPicture, ...]
    rows: tuple[Row, ...]
    headings: Row
    chain: Chain | None = None


# -- from a graph ----------------------------------------------------------------------------------------


def picture_of_architecture(arch: Mapping[str, Any], space: Space) -> Picture:
    """Show what an architecture of a space selects; labels that the space lacks are rows of the table.

    Raises:
        SpaceError: `arch` is not an architecture of the space.
    """
    known = space.decision_space.by_label
    own = space.canonical({label: value for label, value in arch.items() if label in known})
    cells = tuple(_cells(architecture_graph(space, own), _operations).values())
    others = {label: value for label, value in arch.items() if label not in known}
    drawn = _labels_of_cells(space)
    chain = None if cells else chain_of(space, own)
    drawn |= set() if chain is None else chain.labels
    rows = [(label, value_text(value)) for label, value in (own | others).items() if label not in drawn]
    return Picture(cells, tuple(rows), ("decision", "choice"), chain)


def picture_of_space(space: Space) -> Picture:
    """Show every edge that may be chosen, and below a cell the candidates of its edges, once."""
    slots = {r.name: r.topology.num_ops_per_node for r in region_graph(space).regions if r.topology}
    cells = [
        _candidates_noted(cell, (_slots_note(slots[name]),) if name in slots else ())
        for name, cell in _cells(space_graph(space), _names).items()
    ]
    drawn = _labels_of_cells(space)
    chain = None if cells else chain_of(space)
    drawn |= set() if chain is None else chain.labels
    rows = [(d.label, _candidates_text(d)) for d in space.decisions if d.label not in drawn]
    return Picture(tuple(cells), tuple(rows), ("decision", "candidates"), chain)


def picture_of_supernet(supernet: Supernet) -> Picture:
    """Show the strongest candidate of each edge that is left, with its weight in the present mixture."""
    drawn = _labels_of_cells(supernet._space[0])
    choices = {label: group for label, group in supernet.groups.items() if group.kind != "cell"}
    rows = [(label, _mixture_text(group)) for label, group in choices.items() if label not in drawn]
    notes = ("each edge shows its strongest candidate and its weight",)
    cells = [replace(cell, notes=notes) for cell in _cells(supernet.graph, _strongest).values()]
    return Picture(tuple(cells), tuple(rows), ("decision", "mixture"))


def _labels_of_cells(space: Space) -> set[str]:
    """Return the labels that the edges of cells depend on."""
    return {
        label
        for edge in region_graph(space).edges
        if edge.source.region.is_cell and edge.kind != "contains"
        for label in edge.attributes.get("decisions", ())
    }


Attributes: TypeAlias = Mapping[str, Any]
Describe: TypeAlias = Callable[[Sequence[Attributes]], Iterable[tuple[str, float | None]]]
"""Makes (label, weight) of each arrow to draw from the operations between two nodes."""


def _cells(graph: nx.MultiDiGraph, describe: Describe) -> dict[str, CellPicture]:
    """Read every cell of a graph, by the name of its region."""
    regions: dict[str, list[str]] = {}
    for name, node in graph.nodes(data=True):
        if "cell" in node:
            regions.setdefault(node["region"], []).append(name)
    return {region: _cell(graph, region, names, describe) for region, names in regions.items()}


def _cell(graph: nx.MultiDiGraph, region: str, names: list[str], describe: Describe) -> CellPicture:
    nodes = {name: graph.nodes[name] for name in names}
    order = {"input": 0, "node": 1, "output": 2}
    ranked = sorted(names, key=lambda name: (order[nodes[name]["kind"]], nodes[name].get("index", 0)))
    position = {name: at for at, name in enumerate(ranked)}
    between: dict[tuple[int, int], list[Attributes]] = {}
    for source in ranked:
        for _, target, edge in graph.out_edges(source, data=True):
            if target in position and edge["kind"] != "contains":
                between.setdefault((position[target], position[source]), []).append(edge)
    arrows: list[CellEdge] = []
    for (end, start), edges in sorted(between.items()):
        operations = [edge for edge in edges if edge["kind"] in ("candidate", "layer")]
        passed = [edge for edge in edges if edge["kind"] in _PASSED and edge.get("weight", 1)]
        described = describe(operations) if operations else ()
        arrows += [CellEdge(start, end, label, weight) for label, weight in described]
        arrows += [CellEdge(start, end)] * bool(passed)
    inputs = sum(node["kind"] == "input" for node in nodes.values())
    drawn = tuple(CellNode(nodes[name]["kind"], _node_text(nodes[name], inputs)) for name in ranked)
    label = nodes[ranked[0]]["cell"]
    return _tidied(
        CellPicture(_TITLES.get(label, label) if region == label else region, drawn, tuple(arrows))
    )


def _node_text(node: Attributes, inputs: int) -> str:
    if node["kind"] == "output":
        return "$c_{k}$"
    return _numbered(node["index"], inputs)


def _numbered(index: int, inputs: int) -> str:
    """Return the name of an input, counted backwards as in the DARTS paper, or of an intermediate node."""
    return f"$c_{{k-{inputs - index}}}$" if index < inputs else str(index - inputs)


def _slots_note(slots: int) -> str:
    return f"{slots} of these edges {'are' if slots > 1 else 'is'} chosen for each node"


def _operations(edges: Sequence[Attributes]) -> Iterator[tuple[str, None]]:
    """Yield every operation of an architecture, one that two slots apply twice; "none" is no arrow."""
    for edge in edges:
        if not edge.get("absent", False):
            yield from [(_operation_text(edge), None)] * edge["count"]


def _operation_text(edge: Attributes) -> str:
    name = str(edge["candidate"])
    return f"{name}({edge['arguments']})" if edge["kind"] == "layer" else name


def _names(edges: Sequence[Attributes]) -> Iterator[tuple[str, None]]:
    """Yield the candidates of an edge as one text."""
    yield " | ".join(str(edge["candidate"]) for edge in edges), None


def _candidates_noted(cell: CellPicture, notes: tuple[str, ...]) -> CellPicture:
    """Write each set of candidates once below a cell; where there are several, edges have their letters."""
    sets = list(dict.fromkeys(edge.label for edge in cell.edges if edge.label))
    if len(sets) == 1:
        edges = tuple(replace(edge, label="") for edge in cell.edges)
        return replace(cell, edges=edges, notes=(*notes, f"candidates of an edge: {sets[0]}"))
    letters = {text: _letter(at) for at, text in enumerate(sets)}
    edges = tuple(replace(e, label=letters[e.label]) if e.label else e for e in cell.edges)
    return replace(cell, edges=edges, notes=(*notes, *(f"{letters[text]}: {text}" for text in sets)))


def _letter(position: int) -> str:
    """Return A to Z, then A1, B1, ..."""
    return string.ascii_uppercase[position % 26] + (str(position // 26) if position >= 26 else "")


def _strongest(edges: Sequence[Attributes]) -> Iterator[tuple[str, float]]:
    """Yield the candidate of the largest weight, or nothing where none is executed."""
    strongest = max(edges, key=lambda edge: float(edge["weight"]))
    if strongest["weight"]:
        yield f"{strongest['candidate']} {strongest['weight']:.2f}", float(strongest["weight"])


def _tidied(cell: CellPicture) -> CellPicture:
    """Put operations that a node of their own leads to into boxes, and leave out nodes without edges."""
    texts: dict[int, str] = {}
    moved: dict[int, int] = {}
    into, out = (Counter(end) for end in ((e.target for e in cell.edges), (e.source for e in cell.edges)))
    read = {edge.target for edge in cell.edges if edge.label}
    for edge in cell.edges:
        inner = cell.nodes[edge.source].kind == cell.nodes[edge.target].kind == "node"
        alone = out[edge.source] == into[edge.target] == 1 and into[edge.source] and edge.source not in read
        if edge.label and inner and alone:
            texts[edge.source], moved[edge.target] = edge.label, edge.source
    edges = [e for e in cell.edges if e.target not in moved]
    edges = [replace(e, source=moved.get(e.source, e.source)) for e in edges]
    used = {end for edge in edges for end in (edge.source, edge.target)}
    kept = [at for at, node in enumerate(cell.nodes) if at in used or node.kind in ("input", "output")]
    place = {at: new for new, at in enumerate(kept)}
    nodes = [CellNode("operation", texts[at]) if at in texts else cell.nodes[at] for at in kept]
    return replace(
        cell,
        nodes=tuple(nodes),
        edges=tuple(replace(e, source=place[e.source], target=place[e.target]) for e in edges),
    )


# -- from an architecture dict alone -----------------------------------------------------------------------


def picture_of_labels(arch: Mapping[str, Any], merge_op: MergeOp) -> Picture:
    """Show an architecture dict whose space is not known: its cells are recognised by their labels.

    Raises:
        SpaceError: not a dict with str keys, or a cell whose keys contradict each other.
    """
    if not all(isinstance(label, str) for label in arch):
        raise SpaceError("draw got a dict with keys that are not str; expected an architecture dict.")
    found, others = cells_in(arch)
    cells = tuple(_slots_picture(cell, slots, merge_op) for cell, slots in found.items())
    rows = tuple((label, value_text(arch[label])) for label in others)
    return Picture(cells, rows, ("decision", "choice"))


def _slots_picture(cell: str, slots: Sequence[tuple[int, int, str]], merge_op: MergeOp) -> CellPicture:
    inputs, output = slots[0][0], slots[-1][0] + 1
    edges = [CellEdge(source, node, operation) for node, source, operation in slots]
    read = {edge.source for edge in edges}
    edges += [CellEdge(n, output) for n in range(inputs, output) if merge_op == "all" or n not in read]
    nodes = [CellNode("input" if n < inputs else "node", _numbered(n, inputs)) for n in range(output)]
    return CellPicture(_TITLES.get(cell, cell), (*nodes, CellNode("output", "$c_{k}$")), tuple(edges))


# -- texts in the table ------------------------------------------------------------------------------------


def _candidates_text(decision: Decision) -> str:
    shown = _shortened([str(candidate) for candidate in decision.candidates])
    if isinstance(decision, Subset):
        return f"{decision.n_chosen or 'any number'} of {shown}"
    return shown


def _shortened(texts: Sequence[str]) -> str:
    return " | ".join(texts if len(texts) <= _MOST_SHOWN else [*texts[: _MOST_SHOWN - 2], "...", texts[-1]])


def _mixture_text(group: Group) -> str:
    """Return the candidates that are left with their weights, or the selected value."""
    if group.weights is None:
        return value_text(group.selected) if group.is_selected else "not selected"
    weights = group.weights[0].tolist()
    left = [k for k, alive in enumerate(group.alive[0]) if alive]
    return _shortened([f"{group.columns[k]} {weights[k]:.2f}" for k in left])
