"""Architectures as sequences of tokens, which recurrent networks read and write."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from spacelang import ModelSpace
from spacelang.language import Architecture, CellTopology, Decision, Interval, Subset

from .encoding import cells_by_label

_END = object()  # stands for the output vertex of a graph
_POINTS = 16  # of a range
_ORDER: Mapping[Hashable, int] = {"input": 0, "operation": 1}  # of kinds in a vocabulary; others follow


class TokenEncoding(Protocol):
    """Writes architectures as sequences of tokens of one length, and reads them again.

    Token 0 stands for what an architecture does not have; decoders begin with it.

    Attributes:
        legal: Tokens that a decoder may write at each place.
        vocabulary: Number of tokens, 0 included.
        group: Number of neighbouring tokens that an encoder may read as one.
    """

    @property
    def legal(self) -> Sequence[Sequence[int]]: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def group(self) -> int: ...

    def encode(self, arch: Mapping[str, Any]) -> list[int]:
        """Return the tokens of an architecture."""
        ...

    def decode(self, tokens: Sequence[int]) -> Architecture | None:
        """Return the canonical architecture of tokens; None if they are none of the space."""
        ...

    def rewritten(self, tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return tokens that say the same in another way, if there is one."""
        ...


def token_encoding(space: ModelSpace) -> TokenEncoding:
    """Return `GraphTokens` for cells like those of NAS-Bench-101, else `DecisionTokens`."""
    return GraphTokens(space) if GraphTokens.reads(space) else DecisionTokens(space)


@dataclass(frozen=True)
class _Place:
    """One token: the value of a decision, or whether a set contains one of its candidates.

    Args:
        label: Label of the decision.
        kind: Tells apart values that are equal and mean different things.
        values: Values that the token may have.
        member: Candidate of a set; None for a decision.
        interval: Range, of which the token has the nearest value; None for other decisions.
    """

    label: str
    kind: Hashable
    values: tuple[Any, ...]
    member: Any = None
    interval: Interval | None = None

    def value(self, arch: Mapping[str, Any]) -> Any:
        """Return the value in an architecture that has the label."""
        if self.interval is not None:
            place = self.interval.place
            return min(self.values, key=lambda value: abs(place(value) - place(arch[self.label])))
        return arch[self.label] if self.member is None else self.member in arch[self.label]


def _numbered(places: Iterable[_Place]) -> dict[tuple[Hashable, Any], int]:
    """Return numbers of kinds and values from 1, in order of appearance."""
    numbers: dict[tuple[Hashable, Any], int] = {}
    for place in places:
        for value in place.values:
            numbers.setdefault((place.kind, value), len(numbers) + 1)
    return numbers


def _members(decision: Subset) -> list[_Place]:
    return [_Place(decision.label, "member", (False, True), c) for c in decision.candidates]


class DecisionTokens:
    """The tokens of any space: a decision is one, and a set one for each candidate.

    A number of a range is written as the nearest of 16 at equal distances on its scale, or of all its values
    if they are fewer, so what is decoded has these numbers alone.

    A cell is written node by node, slot by slot, its input before its operation, as the authors of NAO do:
    the tokens of inputs come first, then those of operations, and both are shared by all nodes and cells.

    Args:
        space: Space whose architectures are written.

    Source: Luo et al. 2018, arXiv:1808.07233; numbers of tokens as in its authors' code.
    """

    def __init__(self, space: ModelSpace) -> None:
        self._space = space.decision_space
        cells = {label: cell.topology for label, cell in cells_by_label(space).items()}
        owner = {d.label: topology for topology in cells.values() for d in topology.decisions()}
        self._places: list[_Place] = []
        self._nodes: list[list[list[int]]] = []  # by cell and node: where the tokens of each slot begin
        written: set[str] = set()
        for label, decision in self._space.by_label.items():
            if label in written:
                continue
            if label in owner:
                self._add_cell(owner[label])
            else:
                self._places += _of_decision(decision)
            written |= {place.label for place in self._places}
        self._numbers = _numbered(sorted(self._places, key=lambda p: _ORDER.get(p.kind, len(_ORDER))))
        self._values = {number: value for (_, value), number in self._numbers.items()}
        self.legal = [[self._numbers[p.kind, value] for value in p.values] for p in self._places]
        self.vocabulary = len(self._numbers) + 1
        self.group = 2 if owner.keys() >= self._space.by_label.keys() else 1

    def _add_cell(self, topology: CellTopology) -> None:
        nodes = []
        for node in topology.nodes:
            slots = []
            for op, source in topology.slots(node):
                slots.append(len(self._places))
                self._places.append(_Place(source.label, "input", tuple(source.candidates)))
                self._places.append(_Place(op.label, "operation", tuple(op.candidates)))
            nodes.append(slots)
        self._nodes.append(nodes)

    def encode(self, arch: Mapping[str, Any]) -> list[int]:
        """See `TokenEncoding`."""
        return [
            self._numbers[place.kind, place.value(arch)] if place.label in arch else 0
            for place in self._places
        ]

    def decode(self, tokens: Sequence[int]) -> Architecture | None:
        """See `TokenEncoding`."""
        arch: Architecture = {}
        for place, token in zip(self._places, tokens, strict=True):
            value = self._values.get(int(token))
            if place.member is None:
                arch[place.label] = value
            else:
                arch.setdefault(place.label, []).extend([place.member] if value else [])
        return None if self._space.problems(arch) else self._space.canonical(arch)

    def rewritten(self, tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Exchange two slots of a node in every cell, which leaves the architecture the same."""
        changed = list(tokens)
        for nodes in self._nodes:
            slots = nodes[rng.integers(len(nodes))]
            if len(slots) > 1:
                one, other = (slots[k] for k in rng.choice(len(slots), 2, replace=False))
                changed[one : one + 2], changed[other : other + 2] = (
                    changed[other : other + 2],
                    changed[one : one + 2],
                )
        return changed


def _of_decision(decision: Decision) -> list[_Place]:
    if isinstance(decision, Subset):
        return _members(decision)
    if isinstance(decision, Interval):
        count = int(min(_POINTS, decision.cardinality))
        return [_Place(decision.label, decision.candidates, tuple(decision.points(count)), interval=decision)]
    return [_Place(decision.label, decision.candidates, tuple(decision.candidates))]


_VERTICES = re.compile(r"(?P<cell>.+)/num_vertices\Z")


class GraphTokens:
    """The tokens of a cell that is a graph: of each vertex, which earlier ones it reads, then its operation.

    Token 1 means no edge, 2 an edge, then come the operations by name, and last the output. Vertices that a
    graph does not have are written as zeros. The decisions are those of NAS-Bench-101: `{cell}/num_vertices`,
    and `{cell}/op_{i}` and `{cell}/input_{i}` of vertex i.

    Args:
        space: Space whose architectures are written.

    Source: SemiNAS, Luo et al. 2020, arXiv:2002.10389; numbers of tokens as in its authors' code.
    """

    group: ClassVar[int] = 1

    def __init__(self, space: ModelSpace) -> None:
        self._space = space.decision_space
        decisions = self._space.by_label
        self._cell = _graph_cell(space)
        self._count = f"{self._cell}/num_vertices"
        self._columns = list(self._columns_of(decisions))
        numbers = _numbered(place for column in self._columns for place in column)
        self._numbers = numbers
        self._values = {number: value for (_, value), number in numbers.items()}
        self.legal = [[numbers[p.kind, v] for v in p.values] for column in self._columns for p in column]
        self.vocabulary = len(numbers) + 1

    @staticmethod
    def reads(space: ModelSpace) -> bool:
        """Return whether a space decides such a cell and nothing else."""
        return bool(_graph_cell(space))

    def _columns_of(self, decisions: Mapping[str, Decision]) -> Iterator[list[_Place]]:
        """Yield the tokens of each vertex except the first."""
        most = max(decisions[self._count].candidates)
        names = [d.candidates for label, d in decisions.items() if label.startswith(f"{self._cell}/op_")]
        operations = tuple(sorted({name for candidates in names for name in candidates}))
        for vertex in range(1, most):
            inputs = decisions[f"{self._cell}/input_{vertex}"]
            assert isinstance(inputs, Subset)
            yield [
                *_members(inputs),
                _Place(f"{self._cell}/op_{vertex}", "operation", (*operations, _END)),
            ]

    def encode(self, arch: Mapping[str, Any]) -> list[int]:
        """See `TokenEncoding`."""
        tokens = []
        last = arch[self._count] - 1
        for vertex, column in enumerate(self._columns, start=1):
            *inputs, operation = column
            if vertex > last:
                tokens += [0] * len(column)
                continue
            tokens += [self._numbers["member", place.value(arch)] for place in inputs]
            tokens.append(self._numbers["operation", _END if vertex == last else operation.value(arch)])
        return tokens

    def decode(self, tokens: Sequence[int]) -> Architecture | None:
        """See `TokenEncoding`; what follows the first output is not read."""
        left = iter(tokens)
        arch: Architecture = {}
        for vertex, column in enumerate(self._columns, start=1):
            *inputs, operation = column
            read = [place.member for place in inputs if self._values.get(int(next(left)))]
            arch[f"{self._cell}/input_{vertex}"] = read
            name = self._values.get(int(next(left)))
            if name is _END:
                arch[self._count] = vertex + 1
                return None if self._space.problems(arch) else self._space.canonical(arch)
            arch[operation.label] = name
        return None

    def rewritten(self, tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
        """See `TokenEncoding`; a graph is written in one way."""
        return list(tokens)


def _graph_cell(space: ModelSpace) -> str:
    """Return the label of the graph that a space decides; empty if it decides something else."""
    labels = space.decision_space.by_label
    cells = [match["cell"] for label in labels if (match := _VERTICES.match(label))]
    if len(cells) != 1 or not all(label.startswith(f"{cells[0]}/") for label in labels):
        return ""
    return cells[0]
