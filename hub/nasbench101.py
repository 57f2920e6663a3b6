"""The cell space of NAS-Bench-101: small graphs with an operation on every inner vertex."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from spacelang.errors import SpaceError, closest, quoted
from spacelang.language import (
    Architecture,
    Categorical,
    Condition,
    Constraint,
    Decision,
    Primitive,
    Subset,
    Value,
)
from spacelang.supernet import Builder, Group, Mixed

from ._conditions import OneOf
from ._images import Dataset, check_positive, resolve_images
from ._published import PublishedSpace

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
MOST_VERTICES = 7
MOST_EDGES = 9


@dataclass(frozen=True)
class CellGraph:
    """A cell: vertex 0 is its input, the last its output, those between have operations.

    Args:
        inputs: vertices each vertex but the first reads, increasing.
        operations: of the vertices between.
    """

    inputs: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    @property
    def output(self) -> int:
        """Index of the last vertex."""
        return len(self.inputs)

    def reads(self, vertex: int) -> tuple[int, ...]:
        """What a vertex reads."""
        return self.inputs[vertex - 1]

    def channels(self, width: int) -> list[int]:
        """Channels of every vertex of a cell with `width` output channels.

        The vertices that the output concatenates share its channels, the first of them one more each where
        these do not divide; any other vertex has as many as the widest that reads it.
        """
        joined = [vertex for vertex in self.reads(self.output) if vertex > 0]
        channels = [0] * self.output + [width]
        for rank, vertex in enumerate(joined):
            channels[vertex] = width // len(joined) + (rank < width % len(joined))
        for vertex in reversed(range(1, self.output)):
            if vertex not in joined:
                readers = (r for r in range(vertex + 1, self.output) if vertex in self.reads(r))
                channels[vertex] = max(channels[reader] for reader in readers)
        return channels

    def fingerprint(self) -> str:
        """Hash that isomorphic cells share: labels refined by those of neighbours, as in the benchmark."""
        labels = ["input", *self.operations, "output"]
        readers = [
            [r for r in range(v + 1, self.output + 1) if v in self.reads(r)] for v in range(self.output + 1)
        ]
        read = [(), *self.inputs]
        colours = [_digest(len(readers[v]), len(read[v]), label) for v, label in enumerate(labels)]
        for _ in labels:
            colours = [
                _digest(*(sorted(colours[n] for n in near[v]) for near in (read, readers)), colours[v])
                for v in range(len(labels))
            ]
        return _digest(sorted(colours))


def _digest(*parts: object) -> str:
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class NASBench101(PublishedSpace):
    """Cells that are graphs of up to 7 vertices and 9 edges; 423,624 are different.

    Three stacks of cells; a max pool halves the map and the channels double between two. A cell's output
    concatenates what it reads; a vertex adds what it reads, cut to its own channels; what reads the cell's
    input reads a 1x1 convolution of it. Decisions are `cell/num_vertices`, `cell/op_{i}` of the inner
    vertices and `cell/input_{i}`, the vertices that vertex i reads. Every vertex but the output is read by
    another, so a cell has no part without effect. `hash(arch)` is the same for isomorphic cells; `sample`
    gives all architectures of the `size()` the same probability. Source: arXiv:1902.09635.

    Args:
        width: channels of the first stack (128 in the benchmark).
        num_cells: cells of each stack (3 in the benchmark).
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: overrides the dataset's.
        num_stacks: number of stacks.
        max_vertices: of a cell, 2 to 7.
        max_edges: of a cell.

    Raises:
        SpaceError: an argument is out of range; says what is legal.
    """

    def __init__(
        self,
        width: int = 128,
        num_cells: int = 3,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        num_stacks: int = 3,
        max_vertices: int = MOST_VERTICES,
        max_edges: int = MOST_EDGES,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "num_cells": num_cells, "num_stacks": num_stacks, "max_edges": max_edges}
        for name, value in sizes.items():
            check_positive(name, value)
        if type(max_vertices) is not int or not 2 <= max_vertices <= MOST_VERTICES:
            raise SpaceError(f"max_vertices must be 2 to {MOST_VERTICES}, got {max_vertices!r}.")
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError("NASBench101 has no stem for 'imagenet'; give (channels, size, classes).")
        self._limits = GraphLimits(max_vertices, max_edges)
        layers: list[nn.Module] = [conv_bn_relu(data.channels, width, 3)]
        channels = width
        for stack in range(num_stacks):
            if stack > 0:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(num_cells):
                layers.append(GraphCellChoice(self._limits, channels, width * 2**stack))
                channels = width * 2**stack
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.layers(images)).flatten(1))
        return logits

    def size(self) -> int:
        """Exact number of architectures; isomorphic ones count apart."""
        return self._limits.size()

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture, all of the `size()` alike."""
        return self._limits.architecture(self._limits.sample(rng))

    def hash(self, arch: Mapping[str, Any]) -> str:
        """Fingerprint of the cell: equal for isomorphic ones."""
        return self._limits.graph(self.canonical(arch)).fingerprint()


@dataclass(frozen=True)
class GraphLimits:
    """How large a cell may be, and the decisions that make one."""

    max_vertices: int
    max_edges: int

    @property
    def num_vertices(self) -> Categorical:
        """Decision on the number of vertices."""
        return Categorical("cell/num_vertices", range(2, self.max_vertices + 1))

    def operation(self, vertex: int) -> Categorical:
        """Decision on the operation of an inner vertex."""
        return Categorical(f"cell/op_{vertex}", OPERATIONS)

    def inputs(self, vertex: int) -> Subset:
        """Decision on what a vertex reads."""
        return Subset(f"cell/input_{vertex}", range(vertex), None)

    def conditional(self) -> Iterator[tuple[OneOf, Decision]]:
        """Every other decision, with the numbers of vertices that have it."""
        for vertex in range(1, self.max_vertices):
            inner = tuple(range(vertex + 2, self.max_vertices + 1))
            if inner:
                yield OneOf(self.num_vertices, inner), self.operation(vertex)
            yield OneOf(self.num_vertices, (vertex + 1, *inner)), self.inputs(vertex)

    def graph(self, arch: Mapping[str, Any]) -> CellGraph:
        """The cell of an architecture."""
        count = self.num_vertices.parse(arch[self.num_vertices.label])
        inputs = (self.inputs(vertex) for vertex in range(1, count))
        operations = (self.operation(vertex) for vertex in range(1, count - 1))
        return CellGraph(
            tuple(decision.parse(arch[decision.label]) for decision in inputs),
            tuple(decision.parse(arch[decision.label]) for decision in operations),
        )

    def allows(self, inputs: Sequence[Sequence[int]]) -> bool:
        """Whether there are few enough edges, and every vertex but the output is read."""
        read = set().union(*map(set, inputs))
        return sum(map(len, inputs)) <= self.max_edges and read == set(range(len(inputs)))

    def size(self) -> int:
        """Number of architectures."""
        return sum(self._architectures(n) for n in self.num_vertices.candidates)

    def sample(self, rng: np.random.Generator) -> CellGraph:
        """Draw a graph, all architectures alike."""
        sizes = {n: self._architectures(n) for n in self.num_vertices.candidates}
        count = _draw(sizes, rng)
        inputs: list[tuple[int, ...]] = []
        left, read = self.max_edges, frozenset[int]()
        for vertex in range(1, count):
            ways = {
                chosen: _completions(count, vertex + 1, left - len(chosen), read | set(chosen))
                for chosen in _subsets(vertex)
            }
            inputs.append(_draw(ways, rng))
            left, read = left - len(inputs[-1]), read | set(inputs[-1])
        operations = rng.choice(OPERATIONS, size=count - 2)
        return CellGraph(tuple(inputs), tuple(map(str, operations)))

    def _architectures(self, vertices: int) -> int:
        """Number of architectures with so many vertices."""
        wirings = _completions(vertices, 1, self.max_edges, frozenset())
        return wirings * int(len(OPERATIONS) ** (vertices - 2))

    def architecture(self, graph: CellGraph) -> dict[str, Any]:
        """The architecture dict of a cell; `graph` is the inverse."""
        arch: dict[str, Any] = {self.num_vertices.label: graph.output + 1}
        for vertex in range(1, graph.output + 1):
            if vertex < graph.output:
                arch[self.operation(vertex).label] = graph.operations[vertex - 1]
            arch[self.inputs(vertex).label] = list(graph.reads(vertex))
        return arch


@cache
def _completions(vertices: int, vertex: int, edges: int, read: frozenset[int]) -> int:
    """Ways to choose the inputs of `vertex` and those after it, with so many edges left and vertices read."""
    if edges < 0:
        return 0
    if vertex == vertices:
        return int(len(read) == vertices - 1)
    return sum(
        _completions(vertices, vertex + 1, edges - len(chosen), read | set(chosen))
        for chosen in _subsets(vertex)
    )


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Non-empty subsets of 0 .. count - 1."""
    return (chosen for size in range(1, count + 1) for chosen in combinations(range(count), size))


T = TypeVar("T")


def _draw(weights: Mapping[T, int], rng: np.random.Generator) -> T:
    """Draw a key with probability proportional to its weight."""
    position = int(rng.integers(sum(weights.values())))
    for key, weight in weights.items():
        position -= weight
        if position < 0:
            return key
    raise AssertionError("weights are positive")


class Allowed(Value):
    """Whether a cell keeps to its limits, for one number of vertices; true for any other."""

    def __init__(self, limits: GraphLimits, vertices: int) -> None:
        self.limits = limits
        self.vertices = vertices

    def decisions(self) -> tuple[Decision, ...]:
        inputs = (self.limits.inputs(vertex) for vertex in range(1, self.vertices))
        return (self.limits.num_vertices, *inputs)

    def evaluate(self, arch: Mapping[str, Any]) -> bool:
        count, *inputs = self.decisions()
        other = count.parse(arch[count.label]) != self.vertices
        return other or self.limits.allows([d.parse(arch[d.label]) for d in inputs])

    def possible(self) -> tuple[bool, ...]:
        return (True, False)

    def __str__(self) -> str:
        return f"allowed({self.vertices} vertices, {self.limits})"


class GraphCell(nn.Module):
    """The cell of one graph: (B, C_in, H, W) -> (B, C_out, H, W).

    Source: arXiv:1902.09635, section 2.
    """

    def __init__(self, graph: CellGraph, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.graph = graph
        self.channels = graph.channels(out_channels)
        readers = [vertex for vertex in range(1, graph.output + 1) if 0 in graph.reads(vertex)]
        self.projections = nn.ModuleDict(
            {str(vertex): conv_bn_relu(in_channels, self.channels[vertex], 1) for vertex in readers}
        )
        self.operations = nn.ModuleDict(
            {
                str(vertex): nn.ModuleDict({name: _operation(name, self.channels[vertex])})
                for vertex, name in enumerate(graph.operations, start=1)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output vertex."""
        states = [x]
        for vertex, name in enumerate(self.graph.operations, start=1):
            width = self.channels[vertex]
            read = [states[source][:, :width] for source in self.graph.reads(vertex) if source > 0]
            total = self._sum(vertex, x, read)
            states.append(self.operations[str(vertex)][name](total))  # type: ignore[index]
        joined = [states[source] for source in self.graph.reads(self.graph.output) if source > 0]
        return self._sum(self.graph.output, x, [torch.cat(joined, dim=1)] if joined else [])

    def _sum(self, vertex: int, x: Tensor, terms: list[Tensor]) -> Tensor:
        """Sum of what a vertex reads, the projected input of the cell first."""
        if str(vertex) in self.projections:
            terms = [self.projections[str(vertex)](x), *terms]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class LargestCell(nn.Module):
    """Weights of every vertex and operation at full width, named as `GraphCell` names its own."""

    def __init__(self, limits: GraphLimits, in_channels: int, out_channels: int) -> None:
        super().__init__()
        last = limits.max_vertices
        self.projections = nn.ModuleDict(
            {str(vertex): conv_bn_relu(in_channels, out_channels, 1) for vertex in range(1, last)}
        )
        self.operations = nn.ModuleDict(
            {
                str(vertex): nn.ModuleDict({name: _operation(name, out_channels) for name in OPERATIONS})
                for vertex in range(1, last - 1)
            }
        )

    def cut(self, cell: GraphCell) -> dict[str, Tensor]:
        """Parameters and buffers of a cell as views of these."""
        return {name: _first(self.get_parameter(name), like) for name, like in cell.named_parameters()} | {
            name: _first(self.get_buffer(name), like) for name, like in cell.named_buffers()
        }

    def frozen(self, cell: GraphCell) -> GraphCell:
        """The cell with copies of its part of these weights."""
        cell.load_state_dict(
            {name: tensor.detach().clone() for name, tensor in self.cut(cell).items()}, assign=True
        )
        for name, parameter in cell.named_parameters():
            parameter.requires_grad_(self.get_parameter(name).requires_grad)
        return cell.train(self.training)


class GraphCellChoice(Primitive):
    """A cell whose graph is chosen; its weights are slices of those of every vertex at full width.

    Args:
        limits: how large the graph may be.
        in_channels: C_in.
        out_channels: C_out.
        fresh: hold no weights, and freeze to a newly initialised cell.
    """

    def __init__(
        self, limits: GraphLimits, in_channels: int, out_channels: int, *, fresh: bool = False
    ) -> None:
        super().__init__()
        self.limits = limits
        self.sizes = in_channels, out_channels
        self.conditional = nn.ModuleList(Held(decision) for _, decision in limits.conditional())
        self.largest = None if fresh else LargestCell(limits, in_channels, out_channels)

    @classmethod
    def build(cls, context: Any, *args: Any, **kwargs: Any) -> nn.Module | None:
        return super().build(context, *args, **{**kwargs, "fresh": True})

    def decisions(self) -> tuple[Decision, ...]:
        return (self.limits.num_vertices,)

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        yield from (branch for branch in super().branches() if branch[1] == "largest")
        for index, (condition, _) in enumerate(self.limits.conditional()):
            yield condition, f"conditional.{index}", self.conditional[index]

    def constraints(self) -> Iterable[Constraint]:
        for vertices in range(2, self.limits.max_vertices + 1):
            yield Constraint(
                Allowed(self.limits, vertices),
                f"a cell of {vertices} vertices has at most {self.limits.max_edges} edges, and every vertex "
                "but the last is read.",
            )

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        graph = self.limits.graph(arch)
        if self.largest is None:
            return GraphCell(graph, *self.sizes)
        return self.largest.frozen(_without_memory(graph, self.sizes))

    def relax(self, builder: Builder) -> nn.Module:
        assert self.largest is not None
        decisions = [self.limits.num_vertices, *(decision for _, decision in self.limits.conditional())]
        return MixedGraphCell(list(map(builder.group, decisions)), self.limits, self.sizes, self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with the smallest graph, input to output."""
        y: Tensor = self.freeze({self.limits.num_vertices.label: 2, self.limits.inputs(1).label: [0]})(x)
        return y


class Held(Primitive):
    """A decision of a cell, apart because it exists under a condition."""

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.decision = decision

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Identity()

    def relax(self, builder: Builder) -> nn.Module:
        return nn.Identity()


class MixedGraphCell(Mixed):
    """A `GraphCellChoice` in a supernet: it computes one graph at a time."""

    def __init__(
        self, groups: list[Group], limits: GraphLimits, sizes: tuple[int, int], largest: LargestCell
    ) -> None:
        super().__init__()
        self.groups = groups
        self.limits = limits
        self.sizes = sizes
        self.largest = largest
        self._plain: dict[CellGraph, GraphCell] = {}
        self.soft_refusal = (
            "'cell/num_vertices': channels follow from the graph, which is computed one at a time"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plain": {}}

    def forward(self, x: Tensor) -> Tensor:
        if not self.groups[0].is_selected:
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        graph = self.limits.graph({g.label: _value(g) for g in self.groups if g.is_selected})
        if graph not in self._plain:
            self._plain[graph] = _without_memory(graph, self.sizes)
        cell = self._plain[graph].train(self.training)
        y: Tensor = functional_call(cell, self.largest.cut(cell), (x,))
        return y

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.largest.frozen(_without_memory(self.limits.graph(arch), self.sizes))


def _value(group: Group) -> Any:
    return list(group.selected) if group.is_subset else group.selected


def _without_memory(graph: CellGraph, sizes: tuple[int, int]) -> GraphCell:
    with torch.device("meta"):
        return GraphCell(graph, *sizes)


def _first(source: Tensor, like: Tensor) -> Tensor:
    """The first entries of `source` in every dimension, as many as `like` has; a view."""
    for dim, size in enumerate(like.shape):
        source = source.narrow(dim, 0, size)
    return source


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _operation(name: str, channels: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return conv_bn_relu(channels, channels, 3 if name.startswith("conv3x3") else 1)


def from_matrix(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> dict[str, Any]:
    """Translate an upper triangular adjacency matrix and its vertices' operations to an architecture dict.

    The first and last operation are the input and the output and may have any name. Vertices that lead
    nowhere, or come from nowhere, are left out, as the benchmark does.

    Raises:
        SpaceError: not such a matrix, an unknown operation, or no way from the first vertex to the last.
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
        raise SpaceError("from_matrix: no edges lead from the first vertex to the last.")
    arch: dict[str, Any] = {"cell/num_vertices": len(kept)}
    for vertex, old in enumerate(kept[1:], start=1):
        if vertex < len(kept) - 1:
            arch[f"cell/op_{vertex}"] = operations[old]
        arch[f"cell/input_{vertex}"] = [k for k, source in enumerate(kept) if (source, old) in edges]
    return arch


def to_matrix(architecture: Mapping[str, Any]) -> tuple[list[list[int]], list[str]]:
    """Translate an architecture dict to a matrix and operations, "input" and "output" first and last."""
    count = architecture["cell/num_vertices"]
    matrix = [[0] * count for _ in range(count)]
    for vertex in range(1, count):
        for source in architecture[f"cell/input_{vertex}"]:
            matrix[source][vertex] = 1
    inner = [architecture[f"cell/op_{vertex}"] for vertex in range(1, count - 1)]
    return matrix, ["input", *inner, "output"]


def _edges(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> set[tuple[int, int]]:
    """The edges of a matrix, checked."""
    count = len(operations)
    if count < 2 or len(matrix) != count or any(len(row) != count for row in matrix):
        raise SpaceError(f"from_matrix: {count} operations, two at least, need a {count} x {count} matrix.")
    for name in operations[1:-1]:
        if name not in OPERATIONS:
            known = f"known names are {quoted(OPERATIONS)}.{closest(name, OPERATIONS)}"
            raise SpaceError(f"from_matrix: unknown operation {name!r}; {known}")
    edges = {(i, j) for i, row in enumerate(matrix) for j, entry in enumerate(row) if entry}
    if any(i >= j for i, j in edges):
        raise SpaceError("from_matrix: edges must lead to later vertices (an upper triangular matrix).")
    return edges
