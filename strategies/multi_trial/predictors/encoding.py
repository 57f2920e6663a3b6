"""Architectures as vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spacelang import ModelSpace
from spacelang.language import Cell, CellTopology

from .predictor import Array, Encoding


def one_hot(space: ModelSpace) -> Encoding:
    """Return `space.encode`: an indicator for every candidate of every decision."""
    return space.encode


def partial_one_hot(space: ModelSpace) -> Encoding:
    """Return a one-hot encoding for architectures that may lack labels, for which zeros stand."""
    decisions = space.decisions

    def encode(arch: Mapping[str, Any]) -> Array:
        parts = [
            d.indicator(arch[d.label]) if d.label in arch else [0.0] * len(d.candidates) for d in decisions
        ]
        return np.array([x for part in parts for x in part], dtype=np.float32)

    return encode


def path_encoding(space: ModelSpace, *, max_paths: int = 1000) -> Encoding:
    """Return an encoding by the paths of operations that lead from each input of a cell to its output.

    A cell with n operations has sum_l n^l paths of up to as many operations as it has nodes; each of its
    inputs has an indicator for each of them. Paths too long for `max_paths` features per input are left out
    (the truncated encoding). Decisions outside cells are added one-hot, so a space without cells gets the
    one-hot encoding.

    Args:
        space: Space whose architectures are encoded.
        max_paths: Largest number of features for each input of a cell.

    Source: White et al. 2021, arXiv:1910.11858, section 3.
    """
    cells = cells_by_label(space)
    in_cells = {d.label for cell in cells.values() for d in cell.topology.decisions()}
    lengths = {label: _longest(cell.topology, max_paths) for label, cell in cells.items()}
    outside = np.array([d.label not in in_cells for d in space.decisions for _ in d.candidates], dtype=bool)

    def encode(arch: Mapping[str, Any]) -> Array:
        parts: list[Array] = [space.encode(arch)[outside]]
        for label, cell in cells.items():
            parts += _path_features(cell, arch, lengths[label])
        return np.concatenate(parts)

    return encode


def cells_by_label(space: ModelSpace) -> dict[str, Cell]:
    """Return a cell of each label, in the order of the network."""
    return {cell.topology.label: cell for cell in space.modules() if isinstance(cell, Cell)}


def path_index(operations: Sequence[int], count: int) -> int:
    """Return the number of a path: sum_i count^i (operation_i + 1); 0 is the path without operations.

    >>> path_index([1, 2, 0], count=3)
    20
    """
    return sum(count**i * (operation + 1) for i, operation in enumerate(operations))


def number_of_paths(count: int, length: int) -> int:
    """Return how many paths have up to `length` operations out of `count`."""
    return sum(count**i for i in range(length + 1))


def _longest(topology: CellTopology, max_paths: int) -> int:
    """Return the length of the longest paths that are told apart; at least 1."""
    count = len(topology.operations)
    lengths = range(1, topology.num_nodes + 1)
    return max((n for n in lengths if number_of_paths(count, n) <= max_paths), default=1)


def _path_features(cell: Cell, arch: Mapping[str, Any], longest: int) -> list[Array]:
    """Return indicators of the paths of each input of a cell; zeros where the cell does not exist."""
    topology = cell.topology
    count = len(topology.operations)
    features = [
        np.zeros(number_of_paths(count, longest), np.float32) for _ in range(topology.num_predecessors)
    ]
    if topology.decisions()[0].label in arch:
        for source, operations in _paths(topology, arch, loose_end=cell.frame.merge_op == "loose_end"):
            if len(operations) <= longest:
                features[source][path_index(operations, count)] = 1
    return list(features)


def _paths(
    topology: CellTopology, arch: Mapping[str, Any], *, loose_end: bool
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield every path to the output of a cell: the input it begins at, and its operations in order."""
    chosen = topology.chosen(arch)
    reaching: dict[int, set[tuple[int, tuple[int, ...]]]] = {
        i: {(i, ())} for i in range(topology.num_predecessors)
    }
    for node, slots in chosen.items():
        reaching[node] = {
            (first, (*path, operation)) for source, operation in slots for first, path in reaching[source]
        }
    read = {source for slots in chosen.values() for source, _ in slots} if loose_end else set()
    for node in chosen:
        if node not in read:
            yield from reaching[node]
