"""Architectures as vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from spacelang import ModelSpace
from spacelang.graph import Wire, Wired, Wiring
from spacelang.language import Cell, Decision

from .predictor import Array, Encoding

Link: TypeAlias = tuple[int, int, int | None]
"""Source, target, and number of the operation; None where a feature map is passed on."""


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

    With n operations there are sum_l n^l paths of up to as many operations as the longest path can have; each
    input of a cell has an indicator for each of them. Paths too long for `max_paths` features per input are
    left out (the truncated encoding). A candidate that stands for no edge, such as "none", ends a path.
    Decisions outside cells are added one-hot, so a space without cells gets the one-hot encoding.

    Cells are `Cell`s and modules with a `wiring`, as those of NAS-Bench-101 and NAS-Bench-201.

    Args:
        space: Space whose architectures are encoded.
        max_paths: Largest number of features for each input of a cell.

    Source: White et al. 2021, arXiv:1910.11858, section 3.
    """
    graphs = list(path_graphs(space).values())
    in_cells = {label for graph in graphs for label in graph.labels}
    lengths = [_longest(graph, max_paths) for graph in graphs]
    outside = np.array([d.label not in in_cells for d in space.decisions for _ in d.candidates], dtype=bool)

    def encode(arch: Mapping[str, Any]) -> Array:
        parts: list[Array] = [space.encode(arch)[outside]]
        for graph, longest in zip(graphs, lengths, strict=True):
            parts += _path_features(graph, arch, longest)
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


def path_graphs(space: ModelSpace) -> dict[str, PathGraph]:
    """Return the graph of a cell of each label, in the order of the network."""
    found: dict[str, PathGraph] = {}
    for module in space.modules():
        if isinstance(module, Cell):
            found.setdefault(module.topology.label, _graph_of_cell(module))
        elif isinstance(module, Wired):
            found.setdefault(module.wiring().label, _graph_of_wiring(module, module.wiring()))
    return found


@dataclass(frozen=True)
class PathGraph:
    """Cell as paths see it: nodes joined by links, each with an operation or none.

    Args:
        num_inputs: Number of inputs, which are the first nodes.
        output: Number of the output node.
        count: Number of operations.
        length: Most operations on one path.
        labels: Labels of the decisions that the links follow from.
        links: Function that returns the links of an architecture.
    """

    num_inputs: int
    output: int
    count: int
    length: int
    labels: frozenset[str]
    links: Callable[[Mapping[str, Any]], list[Link]]

    def paths(self, arch: Mapping[str, Any]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield every path to the output: the input it begins at, and its operations in order."""
        reaching: dict[int, set[tuple[int, tuple[int, ...]]]] = {i: {(i, ())} for i in range(self.num_inputs)}
        for source, target, operation in sorted(self.links(arch), key=lambda link: link[0]):
            added = () if operation is None else (operation,)
            longer = {(first, (*path, *added)) for first, path in reaching.get(source, ())}
            reaching.setdefault(target, set()).update(longer)
        yield from reaching.get(self.output, ())


def _graph_of_cell(cell: Cell) -> PathGraph:
    topology = cell.topology
    first, output = topology.decisions()[0].label, max(topology.nodes) + 1

    def links(arch: Mapping[str, Any]) -> list[Link]:
        if first not in arch:
            return []
        chosen = topology.chosen(arch)
        found: list[Link] = [(source, node, k) for node, slots in chosen.items() for source, k in slots]
        return found + [(state, output, None) for state in cell.frame.ends([link[0] for link in found])]

    labels = frozenset(decision.label for decision in topology.decisions())
    count = len(topology.operations)
    return PathGraph(topology.num_predecessors, output, count, topology.num_nodes, labels, links)


def _graph_of_wiring(module: nn.Module, wiring: Wiring) -> PathGraph:
    decisions = [_decision_on(module, wire) for wire in wiring.wires]
    absent = {wire.absent for wire in wiring.wires}
    names = dict.fromkeys(x for d in decisions if d for x in d.candidates if x not in absent)
    number = {name: k for k, name in enumerate(names)}

    def links(arch: Mapping[str, Any]) -> list[Link]:
        found: list[Link] = []
        for wire, decision in zip(wiring.wires, decisions, strict=True):
            if decision is None:
                found += [(wire.source, wire.target, None)] if wire.when.holds(arch) else []
            elif arch.get(decision.label) in number:
                found.append((wire.source, wire.target, number[arch[decision.label]]))
        return found

    labels = frozenset(d.label for d in decisions if d).union(*(wire.when.labels for wire in wiring.wires))
    return PathGraph(wiring.num_inputs, wiring.output, len(number), _most_choices(wiring), labels, links)


def _decision_on(module: nn.Module, wire: Wire) -> Decision | None:
    if not wire.choice:
        return None
    choice: Any = module.get_submodule(wire.choice)
    (decision,) = choice.decisions()
    assert isinstance(decision, Decision)
    return decision


def _most_choices(wiring: Wiring) -> int:
    """Return the largest number of choices on one path."""
    most = [0] * (wiring.output + 1)
    for wire in sorted(wiring.wires, key=lambda wire: wire.source):
        most[wire.target] = max(most[wire.target], most[wire.source] + bool(wire.choice))
    return most[wiring.output]


def _longest(graph: PathGraph, max_paths: int) -> int:
    """Return the length of the longest paths that are told apart; at least 1."""
    lengths = range(1, graph.length + 1)
    return max((n for n in lengths if number_of_paths(graph.count, n) <= max_paths), default=1)


def _path_features(graph: PathGraph, arch: Mapping[str, Any], longest: int) -> list[Array]:
    """Return indicators of the paths of each input of a cell; zeros where the cell does not exist."""
    features = [np.zeros(number_of_paths(graph.count, longest), np.float32) for _ in range(graph.num_inputs)]
    for source, operations in graph.paths(arch):
        if len(operations) <= longest:
            features[source][path_index(operations, graph.count)] = 1
    return list(features)
