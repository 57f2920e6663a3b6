"""The graph of a supernet: pruned edges gone, the mixture as weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..graph.regions import live_nodes
from .group import Group

if TYPE_CHECKING:
    import networkx as nx


def weighted_copy(graph: nx.MultiDiGraph, groups: Mapping[str, Group]) -> nx.MultiDiGraph:
    """Copy a space graph without pruned edges, each edge with the `weight` a supernet gives it.

    A candidate weighs what its group's mixture says, 0 when it is not executed; a depth that several
    decisions make weighs the sum over their combinations of the product; a block weighs as much as all
    depths that reach it; an edge into a nested choice as much as the candidate it is in. Everything else
    weighs 1. Nodes that pruning leaves without input or without reader are gone.

    Args:
        graph: Graph made by `space_graph`.
        groups: The supernet's groups, by label.
    """
    import networkx as nx  # late: 0.1 s that declaring a space should not cost

    tables = {label: _table(group) for label, group in groups.items()}
    weighted = nx.MultiDiGraph(**graph.graph)
    weighted.add_nodes_from((name, dict(attributes)) for name, attributes in graph.nodes(data=True))
    for source, target, key, attributes in graph.edges(keys=True, data=True):
        weight = _weight(attributes, graph.nodes[source], groups, tables)
        if weight is not None:
            weighted.add_edge(source, target, key=key, **attributes, weight=weight)
    alive = live_nodes(graph.nodes, graph.edges(), weighted.edges())
    weighted.remove_nodes_from([name for name in graph.nodes if name not in alive])
    return weighted


def _table(group: Group) -> list[list[float | None]]:
    """Return the weight of each entry of a group: None where pruned, 0 where not executed."""
    rows, columns = range(len(group.rows)), range(len(group.columns))
    mixture = [[1.0] * len(columns) for _ in rows] if group.weights is None else group.weights.tolist()
    active = [set(row) for row in group.active]
    return [
        [(float(mixture[r][k]) if k in active[r] else 0.0) if group.alive[r][k] else None for k in columns]
        for r in rows
    ]


def _weight(
    attributes: Mapping[str, Any],
    source: Mapping[str, Any],
    groups: Mapping[str, Group],
    tables: Mapping[str, list[list[float | None]]],
) -> float | None:
    """Return the weight of one edge, or None when it is pruned."""
    labels = json.loads(attributes.get("groups", "[]"))
    if not labels or any(label not in tables for label in labels):
        return 1.0
    if attributes["kind"] == "concat":
        return _concat_weight(groups[labels[0]], source["index"])
    row, columns = attributes["row"], json.loads(attributes["columns"])
    combinations = [columns[i : i + len(labels)] for i in range(0, len(columns), len(labels))]
    entries = [[tables[x][row][k] for x, k in zip(labels, c, strict=True)] for c in combinations]
    left = [[w for w in entry if w is not None] for entry in entries if None not in entry]
    return sum(map(math.prod, left)) if left else None


def _concat_weight(group: Group, node: int) -> float:
    """Return the weight of an edge to a cell's output: an architecture joins only the nodes nobody reads."""
    if not group.is_selected or group.kind != "cell":
        return 1.0
    read = {source for (source, _), active in zip(group.cell.edges, group.active, strict=True) if active}
    return 0.0 if node in read else 1.0
