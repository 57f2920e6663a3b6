"""Layered layout of a small graph, left to right, in which nothing overlaps by construction.

Nodes stand in columns by their longest path from a source; between two node columns is a column for edge
labels. An edge that passes a column holds a place of its own there (a dummy), so no curve runs through a box
or a label. Columns are ordered by barycentre sweeps and neighbour swaps (fewest crossings seen wins), heights
are the least-squares positions nearest to each item's neighbours, and way points that a smooth curve can do
without are dropped. Everything is deterministic and in plain Python.

Source: Sugiyama, Tagawa and Toda, IEEE Trans. SMC 11 (1981); isotonic regression by pool adjacent violators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]

_LABEL_GAP = 0.10  # inches between neighbours in a column
_NODE_GAP = 0.26
_LINE_GAP = 0.15
_PORT_SPACING = 0.10
_CLEARANCE = 0.07  # between a curve and a box it does not belong to


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its centre, in inches; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge between two nodes given by index; `label` is the size (width, height) of its label, if any."""

    source: int
    target: int
    label: Point | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Placed graph.

    Attributes:
        nodes: a box for each node.
        labels: a box for each edge, or None.
        routes: way points of each edge, joined by `s_curve`s.
        width: Whole width, inches.
        height: Whole height, inches.
    """

    nodes: tuple[Box, ...]
    labels: tuple[Box | None, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


@dataclass(eq=False, slots=True)
class _Item:
    """One place in a column: a node, the label of an edge, or an edge passing by."""

    column: int
    width: float = 0.0
    height: float = 0.0
    gap: float = _LINE_GAP
    y: float = 0.0
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)


def layered_layout(sizes: Sequence[Point], edges: Sequence[Edge], sinks: Sequence[int] = ()) -> Layout:
    """Place an acyclic graph.

    Args:
        sizes: (width, height) of each node; every edge goes from a lower to a higher index.
        edges: parallel edges are allowed.
        sinks: nodes that stand in the last column whatever leads to them.
    """
    nodes = _node_items(sizes, edges, sinks)
    chains, labels = _edge_items(nodes, edges)
    columns = _columns(nodes, chains)
    _order(columns)
    _set_heights(columns)
    starts, ends = _ports(nodes, chains)
    lefts, rights, width = _column_places(columns, chains, starts, ends)

    def box(item: _Item) -> Box:
        left, right = lefts[item.column], rights[item.column]
        return Box((left + right) / 2, item.y, item.width, item.height)

    routes: list[tuple[Point, ...]] = [()] * len(edges)
    for _ in range(2):  # a curve made smooth may make room for another
        for index, chain in enumerate(chains):
            first, last = box(chain[0]), box(chain[-1])
            start = (first.x + first.width / 2, starts[index])
            end = (last.x - last.width / 2, ends[index])
            routes[index] = _route(chain, start, end, columns, (lefts, rights))
    height = max(item.y + item.height / 2 for column in columns for item in column)
    return Layout(
        nodes=tuple(map(box, nodes)),
        labels=tuple(None if item is None else box(item) for item in labels),
        routes=tuple(routes),
        width=width,
        height=height,
    )


def s_curve(start: Point, end: Point) -> tuple[Point, Point]:
    """Return the control points of the cubic Bezier curve that leaves and arrives level."""
    bend = (end[0] - start[0]) / 2
    return (start[0] + bend, start[1]), (end[0] - bend, end[1])


def _height_at(x: float, start: Point, end: Point) -> float:
    """Height of the S-curve at `x`, which lies between its ends."""
    low, high = 0.0, 1.0
    for _ in range(30):
        t = (low + high) / 2
        share = 1.5 * t * (1 - t) + t**3  # x on a curve from 0 to 1: 3(1-t)^2 t/2 + 3(1-t) t^2/2 + t^3
        low, high = (t, high) if start[0] + (end[0] - start[0]) * share < x else (low, t)
    return start[1] + (end[1] - start[1]) * (3 * low**2 - 2 * low**3)


def _route(
    chain: Sequence[_Item],
    start: Point,
    end: Point,
    columns: Sequence[Sequence[_Item]],
    places: tuple[Sequence[float], Sequence[float]],
) -> tuple[Point, ...]:
    """Return the way points of an edge: its ends, both sides of its label, and the dummies it needs.

    A curve skips a column if it passes there between the same neighbours as the dummy it replaces; the dummy
    is moved to the curve.
    """
    lefts, rights = places
    points, at = [start], 0
    while at < len(chain) - 1:
        stop = next(to for to in range(at + 1, len(chain)) if chain[to].width)
        for to in range(stop, at, -1):
            item = chain[to]
            goal = end if to == len(chain) - 1 else (lefts[item.column], item.y)
            crossed = [
                (other, [_height_at(x[other.column], points[-1], goal) for x in places])
                for other in chain[at + 1 : to]
            ]
            if all(_fits(other, heights, columns[other.column]) for other, heights in crossed):
                break
        for other, heights in crossed:
            other.y = sum(heights) / 2
        points.append(goal)
        if to < len(chain) - 1:
            points.append((rights[item.column], item.y))
        at = to
    return tuple(points)


def _fits(item: _Item, heights: Sequence[float], column: Sequence[_Item]) -> bool:
    """Whether `item` may pass its column at these heights, between the neighbours it has."""
    at = column.index(item)
    above = column[at - 1] if at else None
    below = column[at + 1] if at + 1 < len(column) else None
    return all(
        (above is None or above.y + above.height / 2 + _CLEARANCE <= y)
        and (below is None or y <= below.y - below.height / 2 - _CLEARANCE)
        for y in heights
    )


def _node_items(sizes: Sequence[Point], edges: Sequence[Edge], sinks: Sequence[int]) -> list[_Item]:
    ranks = [0] * len(sizes)
    for edge in sorted(edges, key=lambda edge: edge.source):
        ranks[edge.target] = max(ranks[edge.target], ranks[edge.source] + 1)
    last = max(rank for node, rank in enumerate(ranks) if node not in sinks) + 1 if sinks else 0
    for node in sinks:
        ranks[node] = last
    return [
        _Item(2 * rank, width, height, _NODE_GAP) for rank, (width, height) in zip(ranks, sizes, strict=True)
    ]


def _edge_items(
    nodes: Sequence[_Item], edges: Sequence[Edge]
) -> tuple[list[list[_Item]], list[_Item | None]]:
    """Return each edge's chain of items from source to target, and the item that is its label.

    A label may stand in any label column on its way: edges with one way are settled first, each of the others
    takes the emptiest column, the nearest to the target among equals.
    """
    chains: list[list[_Item]] = [[] for _ in edges]
    labels: list[_Item | None] = [None] * len(edges)
    load: dict[int, float] = {}

    def length(index: int) -> int:
        return nodes[edges[index].target].column - nodes[edges[index].source].column

    for index in sorted(range(len(edges)), key=length):
        edge = edges[index]
        source, target = nodes[edge.source], nodes[edge.target]
        passed = [_Item(column) for column in range(source.column + 1, target.column)]
        if edge.label is not None:
            item = min(passed[::2][::-1], key=lambda item: load.get(item.column, 0.0))
            item.width, item.height, item.gap = *edge.label, _LABEL_GAP
            labels[index] = item
        for item in passed:
            load[item.column] = load.get(item.column, 0.0) + item.height + item.gap
        chains[index] = [source, *passed, target]
    for chain in chains:
        for one, other in pairwise(chain):
            one.after.append(other)
            other.before.append(one)
    return chains, labels


def _columns(nodes: Sequence[_Item], chains: Sequence[Sequence[_Item]]) -> list[list[_Item]]:
    columns: list[list[_Item]] = [[] for _ in range(max(item.column for item in nodes) + 1)]
    for item in (*nodes, *(item for chain in chains for item in chain[1:-1])):
        columns[item.column].append(item)
    return columns


def _order(columns: list[list[_Item]], sweeps: int = 12) -> None:
    """Order each column so that few edges cross; the first column keeps its order."""
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        for index in range(1, len(columns)) if forward else range(len(columns) - 2, 0, -1):
            neighbours = {item: at for at, item in enumerate(columns[index - 1 if forward else index + 1])}
            columns[index] = _by_barycentre(columns[index], neighbours, forward)
        _swap_neighbours(columns)
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    columns[:] = best


def _by_barycentre(column: list[_Item], neighbours: dict[_Item, int], forward: bool) -> list[_Item]:
    def key(at: int) -> float:
        linked = column[at].before if forward else column[at].after
        return sum(neighbours[item] for item in linked) / len(linked) if linked else float(at)

    return [column[at] for at in sorted(range(len(column)), key=key)]


def _swap_neighbours(columns: list[list[_Item]]) -> None:
    for index in range(1, len(columns)):
        near = columns[index - 1 : index + 2]
        column = columns[index]
        for at in range(len(column) - 1):
            before = _crossings(near)
            column[at], column[at + 1] = column[at + 1], column[at]
            if _crossings(near) >= before:
                column[at], column[at + 1] = column[at + 1], column[at]


def _crossings(columns: Sequence[Sequence[_Item]]) -> int:
    """Number of pairs of links between neighbouring columns that cross."""
    total = 0
    for left, right in pairwise(columns):
        place = {item: at for at, item in enumerate(right)}
        ends = [sorted(place[other] for other in item.after) for item in left]
        flat = [end for targets in ends for end in targets]
        total += sum(flat[i] > flat[j] for i in range(len(flat)) for j in range(i + 1, len(flat)))
    return total


def _set_heights(columns: Sequence[Sequence[_Item]], sweeps: int = 60) -> None:
    """Move every item towards the mean of its neighbours while the order and the gaps hold."""
    for column in columns:
        _place(column, [0.0] * len(column))
    for sweep in range(sweeps):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            _place(column, _wanted(column))
    top = min(item.y - item.height / 2 for column in columns for item in column)
    for column in columns:
        for item in column:
            item.y -= top


def _wanted(column: Sequence[_Item]) -> list[float]:
    """Mean height of each item's neighbours; an item without any wants to be with the others."""
    linked = [item.before + item.after for item in column]
    means = [sum(other.y for other in others) / len(others) for others in linked if others]
    alone = sum(means) / len(means) if means else 0.0
    rest = iter(means)
    return [next(rest) if others else alone for others in linked]


def _place(column: Sequence[_Item], wanted: Sequence[float]) -> None:
    """Set y nearest to `wanted` in least squares, keeping order and gaps (pool adjacent violators)."""
    offsets = [0.0]
    for one, other in pairwise(column):
        offsets.append(offsets[-1] + (one.height + other.height) / 2 + max(one.gap, other.gap))
    blocks: list[tuple[float, int]] = []  # (mean, number of items)
    for want, offset in zip(wanted, offsets, strict=False):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            above, number = blocks.pop()
            mean, count = (mean * count + above * number) / (count + number), count + number
        blocks.append((mean, count))
    levels = [mean for mean, count in blocks for _ in range(count)]
    for item, level, offset in zip(column, levels, offsets, strict=False):
        item.y = level + offset


def _ports(nodes: Sequence[_Item], chains: Sequence[Sequence[_Item]]) -> tuple[list[float], list[float]]:
    """Return the height at which each edge leaves its source and enters its target, spread over the side."""
    starts, ends = [0.0] * len(chains), [0.0] * len(chains)
    for node in nodes:
        leaving = [index for index, chain in enumerate(chains) if chain[0] is node]
        entering = [index for index, chain in enumerate(chains) if chain[-1] is node]
        _spread(node, sorted(leaving, key=lambda index: chains[index][1].y), starts)
        _spread(node, sorted(entering, key=lambda index: chains[index][-2].y), ends)
    return starts, ends


def _spread(node: _Item, indices: Sequence[int], ports: list[float]) -> None:
    spacing = min(_PORT_SPACING, 0.6 * node.height / max(1, len(indices) - 1))
    for at, index in enumerate(indices):
        ports[index] = node.y + spacing * (at - (len(indices) - 1) / 2)


def _column_places(
    columns: Sequence[Sequence[_Item]],
    chains: Sequence[Sequence[_Item]],
    starts: Sequence[float],
    ends: Sequence[float],
) -> tuple[list[float], list[float], float]:
    """Return left and right x of every column and the total width; steep curves get wider gaps."""
    rise = [0.0] * len(columns)
    for chain, start, end in zip(chains, starts, ends, strict=True):
        heights = [start, *(item.y for item in chain[1:-1]), end]
        for item, one, other in zip(chain, heights, heights[1:], strict=False):
            rise[item.column] = max(rise[item.column], abs(one - other))
    lefts, rights, x = [], [], 0.0
    for column, steepest in zip(columns, rise, strict=True):
        lefts.append(x)
        rights.append(x + max((item.width for item in column), default=0.0))
        x = rights[-1] + min(0.75, 0.26 + 0.18 * steepest)
    return lefts, rights, rights[-1]
