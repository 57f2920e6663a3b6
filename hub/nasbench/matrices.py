"""The graphs of NAS-Bench-101 cells, and the limits that make a graph legal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from spacelang.language import Categorical, Choice, Condition, Decision, Is, Subset, Value

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")


@dataclass(frozen=True)
class CellGraph:
    """A cell: vertex 0 is its input, the last vertex its output, and the inner vertices have operations.

    Args:
        inputs: Vertices that each vertex except the first reads, increasing.
        operations: Operations of the inner vertices.
    """

    inputs: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    @property
    def output(self) -> int:
        """Return the index of the last vertex."""
        return len(self.inputs)

    def reads(self, vertex: int) -> tuple[int, ...]:
        """Return the vertices that `vertex` reads."""
        return self.inputs[vertex - 1]

    def channels(self, width: int) -> list[int]:
        """Return the channels of every vertex of a cell with `width` output channels.

        The vertices that the output concatenates share its channels; where the division leaves a rest, the
        first vertices have one more each. Any other vertex has as many channels as its widest reader.
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
        """Return the benchmark's hash, which isomorphic cells share: labels refined by the neighbours'."""
        labels = [-1, *map(OPERATIONS.index, self.operations), -2]
        readers = [
            [r for r in range(v + 1, self.output + 1) if v in self.reads(r)] for v in range(self.output + 1)
        ]
        read = [(), *self.inputs]
        colours = [_digest(str((len(readers[v]), len(read[v]), label))) for v, label in enumerate(labels)]
        for _ in labels:
            before, after = (
                ["".join(sorted(colours[n] for n in ns)) for ns in near] for near in (read, readers)
            )
            colours = [_digest("|".join(texts)) for texts in zip(before, after, colours, strict=True)]
        return _digest(str(sorted(colours)))


def _digest(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class GraphLimits:
    """Limits on the size of a cell, and the decisions that make a cell."""

    max_vertices: int
    max_edges: int

    @property
    def num_vertices(self) -> Categorical:
        """Return the decision on the number of vertices."""
        return Categorical("cell/num_vertices", range(2, self.max_vertices + 1))

    def operation(self, vertex: int) -> Categorical:
        """Return the decision on the operation of an inner vertex."""
        return Categorical(f"cell/op_{vertex}", OPERATIONS)

    def inputs(self, vertex: int) -> Subset:
        """Return the decision on the vertices that `vertex` reads."""
        return Subset(f"cell/input_{vertex}", range(vertex), None)

    def conditional(self) -> Iterator[tuple[Condition, Decision]]:
        """Yield every other decision, with the condition on the number of vertices under which it exists."""
        count = Choice(self.num_vertices)
        for vertex in range(1, self.max_vertices):
            inner = tuple(range(vertex + 2, self.max_vertices + 1))
            if inner:
                yield Is(count, inner), self.operation(vertex)
            yield Is(count, (vertex + 1, *inner)), self.inputs(vertex)

    def graph(self, arch: Mapping[str, Any]) -> CellGraph:
        """Return the cell of an architecture."""
        count = self.num_vertices.parse(arch[self.num_vertices.label])
        inputs = (self.inputs(vertex) for vertex in range(1, count))
        operations = (self.operation(vertex) for vertex in range(1, count - 1))
        return CellGraph(
            tuple(decision.parse(arch[decision.label]) for decision in inputs),
            tuple(decision.parse(arch[decision.label]) for decision in operations),
        )

    def allows(self, inputs: Sequence[Sequence[int]]) -> bool:
        """Return whether there are few enough edges, and every vertex except the output is read."""
        read = set().union(*map(set, inputs))
        return sum(map(len, inputs)) <= self.max_edges and read == set(range(len(inputs)))

    def size(self) -> int:
        """Return the number of architectures."""
        return sum(self._architectures(n) for n in self.num_vertices.candidates)

    def sample(self, rng: np.random.Generator) -> CellGraph:
        """Draw a graph; all architectures have the same probability."""
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
        """Return the number of architectures with so many vertices."""
        wirings = _completions(vertices, 1, self.max_edges, frozenset())
        return wirings * int(len(OPERATIONS) ** (vertices - 2))

    def architecture(self, graph: CellGraph) -> dict[str, Any]:
        """Return the architecture dict of a cell; `graph` is the inverse."""
        arch: dict[str, Any] = {self.num_vertices.label: graph.output + 1}
        for vertex in range(1, graph.output + 1):
            if vertex < graph.output:
                arch[self.operation(vertex).label] = graph.operations[vertex - 1]
            arch[self.inputs(vertex).label] = list(graph.reads(vertex))
        return arch


@dataclass(frozen=True)
class Reads:
    """A vertex of a cell reads another.

    Args:
        limits: Decisions of the cell.
        vertex: Vertex that reads; one above 0.
        source: Vertex that is read.
        is_output: Whether the vertex is the output of the cell, or lies before it.
    """

    limits: GraphLimits
    vertex: int
    source: int
    is_output: bool

    @property
    def labels(self) -> frozenset[str]:
        """Labels of the number of vertices and of what the vertex reads."""
        return frozenset((self.limits.num_vertices.label, self.limits.inputs(self.vertex).label))

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Return whether the cell of `arch` has the edge."""
        if not self.labels <= arch.keys():
            return False
        graph = self.limits.graph(arch)
        inside = graph.output == self.vertex if self.is_output else graph.output > self.vertex
        return inside and self.source in graph.reads(self.vertex)

    def __str__(self) -> str:
        output = f"the output is {'' if self.is_output else 'behind '}vertex {self.vertex}"
        return f"{self.limits.inputs(self.vertex).label} contains {self.source} and {output}"


@cache
def _completions(vertices: int, vertex: int, edges: int, read: frozenset[int]) -> int:
    """Count the inputs possible from `vertex` on, with so many edges left and these vertices read."""
    if edges < 0:
        return 0
    if vertex == vertices:
        return int(len(read) == vertices - 1)
    return sum(
        _completions(vertices, vertex + 1, edges - len(chosen), read | set(chosen))
        for chosen in _subsets(vertex)
    )


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Yield the non-empty subsets of 0 .. count - 1."""
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
    """Value that is true when a cell of so many vertices is within its limits; true for any other number."""

    def __init__(self, limits: GraphLimits, vertices: int) -> None:
        self.limits = limits
        self.vertices = vertices

    def decisions(self) -> tuple[Decision, ...]:
        return (self.limits.num_vertices, *self._inputs())

    def _inputs(self) -> list[Subset]:
        return [self.limits.inputs(vertex) for vertex in range(1, self.vertices)]

    def evaluate(self, arch: Mapping[str, Any]) -> bool:
        count = self.limits.num_vertices
        other = count.parse(arch[count.label]) != self.vertices
        return other or self.limits.allows([d.parse(arch[d.label]) for d in self._inputs()])

    def possible(self) -> tuple[bool, ...]:
        return (True, False)

    def __str__(self) -> str:
        return f"allowed({self.vertices} vertices, {self.limits})"
