"""Notations of the NAS benchmarks, to and from architecture dicts; parsed, never evaluated.

| notation | of |
|---|---|
| an adjacency matrix and the vertices' operations | a NAS-Bench-101 cell |
| `\\|nor_conv_3x3~0\\|+\\|none~0\\|skip_connect~1\\|+...` | a NAS-Bench-201 cell: the edges into each node |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from spacelang.errors import SpaceError, require_one_of, short

from ..nasbench.nasbench101 import OPERATIONS as NASBENCH101_OPERATIONS
from ..nasbench.nasbench201 import NODES
from ..nasbench.nasbench201 import OPERATIONS as NASBENCH201_OPERATIONS

_EDGE = re.compile(r"(\w{1,64})~(\d)", re.ASCII)


def from_nasbench101(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> dict[str, Any]:
    """Translate an upper triangular adjacency matrix and its vertices' operations to an architecture dict.

    The first and last operations are the input and the output; they may have any name. Vertices without a way
    from the input or to the output are left out, as in the benchmark.

    Raises:
        SpaceError: the matrix is malformed, an operation is unknown, or no way leads from the first vertex to
            the last.
    """
    edges = _edges(matrix, operations)
    count = len(operations)
    forward, backward = {0}, {count - 1}
    for source, target in sorted(edges):
        forward |= {target} if source in forward else set()
    for source, target in sorted(edges, reverse=True):
        backward |= {source} if target in backward else set()
    kept = sorted(forward & backward)
    if count - 1 not in forward:
        raise SpaceError("from_nasbench101: no edges lead from the first vertex to the last.")
    arch: dict[str, Any] = {"cell/num_vertices": len(kept)}
    for vertex, old in enumerate(kept[1:], start=1):
        if vertex < len(kept) - 1:
            arch[f"cell/op_{vertex}"] = operations[old]
        arch[f"cell/input_{vertex}"] = [k for k, source in enumerate(kept) if (source, old) in edges]
    return arch


def to_nasbench101(architecture: Mapping[str, Any]) -> tuple[list[list[int]], list[str]]:
    """Translate an architecture dict to a matrix and operations, "input" and "output" first and last."""
    count = architecture["cell/num_vertices"]
    matrix = [[0] * count for _ in range(count)]
    for vertex in range(1, count):
        for source in architecture[f"cell/input_{vertex}"]:
            matrix[source][vertex] = 1
    inner = [architecture[f"cell/op_{vertex}"] for vertex in range(1, count - 1)]
    return matrix, ["input", *inner, "output"]


def _edges(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> set[tuple[int, int]]:
    """Return the edges of a matrix, checked."""
    count = len(operations)
    if count < 2 or len(matrix) != count or any(len(row) != count for row in matrix):
        raise SpaceError(
            f"from_nasbench101: {count} operations, two at least, need a {count} x {count} matrix."
        )
    for name in operations[1:-1]:
        require_one_of("operation", name, NASBENCH101_OPERATIONS)
    edges = {(i, j) for i, row in enumerate(matrix) for j, entry in enumerate(row) if entry}
    if any(i >= j for i, j in edges):
        raise SpaceError("from_nasbench101: edges must lead to later vertices (an upper triangular matrix).")
    return edges


def from_nasbench201(text: str) -> dict[str, str]:
    """Translate a NAS-Bench-201 string to an architecture dict of `NASBench201`.

    Raises:
        SpaceError: the text is malformed; the message names the node.
    """
    form = "'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'"
    rows = text.split("+") if isinstance(text, str) else []
    if len(rows) != NODES - 1:
        raise SpaceError(f"a NAS-Bench-201 cell is written {form}, got {short(text)}.")
    arch: dict[str, str] = {}
    for node, row in enumerate(rows, start=1):
        edges = [_EDGE.fullmatch(edge) for edge in row.strip().split("|")[1:-1]]
        found = [(match[1].removeprefix("nor_"), int(match[2])) for match in edges if match]
        known = all(operation in NASBENCH201_OPERATIONS for operation, _ in found)
        if [source for _, source in found] != list(range(node)) or len(edges) != node or not known:
            raise SpaceError(f"a NAS-Bench-201 cell is written {form}; node {node} is {short(row)}.")
        arch |= {f"cell/{source}_{node}": operation for operation, source in found}
    return arch


def to_nasbench201(architecture: Mapping[str, str]) -> str:
    """Translate an architecture dict of `NASBench201` to its string; inverse of `from_nasbench201`."""
    rows = []
    for node in range(1, NODES):
        operations = (architecture[f"cell/{source}_{node}"] for source in range(node))
        names = (f"nor_{name}" if name.startswith("conv") else name for name in operations)
        rows.append("|" + "".join(f"{name}~{source}|" for source, name in enumerate(names)))
    return "+".join(rows)
