"""The shape of a cell: its nodes and edges, and the decisions on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ..errors import SpaceError, quoted, require_integer
from .conditions import AllOf, AnyOf, Condition, Constraint, Is
from .decisions import Categorical, Decision
from .functions import distinct
from .values import Choice, Value


@dataclass(frozen=True)
class CellTopology:
    """Shape of a cell's graph, and the decisions on it.

    Nodes `0 .. num_predecessors - 1` are the cell's inputs; each later node adds the results of
    `num_ops_per_node` slots, a slot being one operation on one earlier node.

    Args:
        label: Prefix of every label.
        operations: Candidate names, or indices, of all edges together.
        num_nodes: Number of intermediate nodes.
        num_ops_per_node: Number of slots of each.
        num_predecessors: Number of inputs of the cell.
        distinct_inputs: Whether two slots of one node must read different nodes.
        offered: Ranks in `operations` of the candidates of each edge, by row; None where every edge has all.
    """

    label: str
    operations: tuple[Any, ...]
    num_nodes: int
    num_ops_per_node: int
    num_predecessors: int
    distinct_inputs: bool
    offered: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("num_nodes", "num_ops_per_node", "num_predecessors"):
            require_integer(f"cell {self.label!r}: {name}", getattr(self, name), least=1)
        if self.distinct_inputs and self.num_ops_per_node > self.num_predecessors:
            raise SpaceError(
                f"cell {self.label!r}: num_ops_per_node={self.num_ops_per_node} different inputs do not "
                f"exist for the first node, which sees num_predecessors={self.num_predecessors}; "
                "write distinct_inputs=False."
            )
        for node in self.nodes if self.offered is not None else ():
            least = self.num_ops_per_node if self.distinct_inputs else 1
            if len(self._readable(node)) < least:
                raise SpaceError(
                    f"cell {self.label!r}: op_candidates gives {len(self._readable(node))} of the edges into "
                    f"node {node} candidates; at least {least} must have some."
                )

    @property
    def nodes(self) -> range:
        """Indices of the intermediate nodes."""
        return range(self.num_predecessors, self.num_predecessors + self.num_nodes)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every possible `(source, node)`, node by node: the row order of a cell's mixture."""
        return tuple((source, node) for node in self.nodes for source in range(node))

    def rows_into(self, node: int) -> range:
        """Return the rows of the edges that enter an intermediate node, by source."""
        first = sum(range(self.num_predecessors, node))
        return range(first, first + node)

    def ranks(self, row: int) -> Sequence[int]:
        """Return the ranks of the operations that are candidates on an edge, increasing."""
        return range(len(self.operations)) if self.offered is None else self.offered[row]

    def _readable(self, node: int) -> list[int]:
        """Return the nodes from which an edge with candidates leads to `node`."""
        return [source for source, row in enumerate(self.rows_into(node)) if self.ranks(row)]

    def op(self, node: int, slot: int) -> Categorical:
        """Return the decision on the operation of a slot: the candidates of every edge into its node."""
        found = {rank for row in self.rows_into(node) for rank in self.ranks(row)}
        names = [self.operations[rank] for rank in sorted(found)]
        return Categorical(_label(self.label, "op", node, slot), names)

    def input(self, node: int, slot: int) -> Categorical:
        """Return the decision on the node a slot reads."""
        return Categorical(_label(self.label, "input", node, slot), range(node))

    @cached_property
    def _slots(self) -> dict[int, list[tuple[Categorical, Categorical]]]:
        slots = range(self.num_ops_per_node)
        return {node: [(self.op(node, k), self.input(node, k)) for k in slots] for node in self.nodes}

    def slots(self, node: int) -> list[tuple[Categorical, Categorical]]:
        """Return the `(operation, input)` decisions of a node."""
        return list(self._slots[node])

    def decisions(self) -> tuple[Decision, ...]:
        """Return every decision, node by node."""
        return tuple(decision for node in self.nodes for slot in self.slots(node) for decision in slot)

    def constraints(self) -> Iterable[Constraint]:
        """Yield that slots choose candidates of their edges, and with `distinct_inputs` different edges."""
        for node in self.nodes:
            inputs = [source for _, source in self.slots(node)]
            if self.distinct_inputs:
                yield Constraint(
                    distinct(*map(Choice, inputs)),
                    f"node {node} of cell {self.label!r} must read different inputs in "
                    f"{', '.join(repr(d.label) for d in inputs)}.",
                )
            if len({self.ranks(row) for row in self.rows_into(node)}) > 1:
                yield from (self._offer(node, *slot) for slot in self.slots(node))

    def _offer(self, node: int, op: Categorical, source: Categorical) -> Constraint:
        """Return the constraint that the operation of a slot is a candidate on the edge that it reads."""
        edges = [
            f"{start}: {quoted(self.operations[k] for k in self.ranks(row)) or 'none'}"
            for start, row in enumerate(self.rows_into(node))
        ]
        message = f"{op.label!r} must be a candidate of the edge from {source.label!r}; {'; '.join(edges)}."
        return Constraint(Offered(self, node, op, source), message, gives_way=op.label)

    def chosen(self, arch: Mapping[str, Any]) -> dict[int, list[tuple[int, int]]]:
        """Return `{node: [(source, rank of the operation) of each slot]}` under `arch`."""
        return {
            node: [
                (source.parse(arch[source.label]), self.operations.index(op.parse(arch[op.label])))
                for op, source in self.slots(node)
            ]
            for node in self.nodes
        }

    def first(self) -> dict[str, Any]:
        """Return the architecture of first candidates."""
        found: dict[str, Any] = {}
        for node in self.nodes:
            readable = self._readable(node)
            for k, (op, source) in enumerate(self.slots(node)):
                found[source.label] = read = readable[k if self.distinct_inputs else 0]
                found[op.label] = self.operations[self.ranks(self.rows_into(node)[read])[0]]
        return found

    def used(self, source: int, node: int, operation: int) -> Condition:
        """Return the condition that some slot of `node` applies the operation to `source`."""
        name = self.operations[operation]
        return AnyOf(
            tuple(
                AllOf((Is(Choice(op), (name,)), Is(Choice(chosen), (source,))))
                for op, chosen in self.slots(node)
            )
        )


class Offered(Value):
    """Whether the operation of a slot is a candidate on the edge that the slot reads.

    Args:
        topology: Topology of the cell.
        node: Node of the slot.
        op: Decision on its operation.
        source: Decision on the node that it reads.
    """

    def __init__(self, topology: CellTopology, node: int, op: Categorical, source: Categorical) -> None:
        self.op, self.source = op, source
        rows = topology.rows_into(node)
        self.candidates = [{topology.operations[k] for k in topology.ranks(row)} for row in rows]

    def decisions(self) -> tuple[Decision, ...]:
        return self.op, self.source

    def evaluate(self, arch: Mapping[str, Any]) -> bool:
        source = self.source.parse(arch[self.source.label])
        return self.op.parse(arch[self.op.label]) in self.candidates[source]

    def __str__(self) -> str:
        edges = [sorted(map(repr, names)) for names in self.candidates]
        return f"offered({self.op.label}, {self.source.label}, {edges})"


def _label(cell: str, kind: str, node: int, slot: int) -> str:
    return f"{cell}/{kind}_{node}_{slot}"


_LABEL = re.compile(r"(?P<cell>.+)/(?P<kind>op|input)_(?P<node>[0-9]{1,6})_(?P<slot>[0-9]{1,6})\Z", re.ASCII)


def cells_in(arch: Mapping[str, Any]) -> tuple[dict[str, list[tuple[int, int, str]]], list[str]]:
    """Recognise the cells of an architecture whose space is not known, by the labels of `CellTopology`.

    Returns:
        `{cell: [(node, source, operation) of each slot]}`, node by node, and the labels of no cell.

    Raises:
        SpaceError: the labels of a cell contradict each other, or an input is not an earlier node.
    """
    found: dict[str, dict[str, set[tuple[int, int]]]] = {}
    for label in arch:
        if match := _LABEL.match(label):
            kinds = found.setdefault(match["cell"], {"op": set(), "input": set()})
            kinds[match["kind"]].add((int(match["node"]), int(match["slot"])))
    # One kind alone: labels that only look like a cell's.
    found = {cell: kinds for cell, kinds in found.items() if kinds["op"] and kinds["input"]}
    cells: dict[str, list[tuple[int, int, str]]] = {}
    for cell, kinds in found.items():
        _check_slots(cell, kinds["op"], kinds["input"])
        cells[cell] = []
        for node, slot in sorted(kinds["op"]):
            source = _source(arch, _label(cell, "input", node, slot), node)
            cells[cell].append((node, source, str(arch[_label(cell, "op", node, slot)])))
    others = [label for label in arch if not ((match := _LABEL.match(label)) and match["cell"] in cells)]
    return cells, others


def _check_slots(cell: str, operations: set[tuple[int, int]], inputs: set[tuple[int, int]]) -> None:
    for node, slot in sorted(operations ^ inputs):
        lacking = "input" if (node, slot) in operations else "op"
        raise SpaceError(
            f"cell {cell!r} has no {_label(cell, lacking, node, slot)!r}; each slot needs op and input."
        )
    nodes = sorted({node for node, _ in operations})
    missing = [node for node in range(nodes[0], nodes[-1] + 1) if node not in nodes][:3]
    if missing:
        raise SpaceError(f"cell {cell!r} has nodes {quoted(nodes)} and none numbered {quoted(missing)}.")


def _source(arch: Mapping[str, Any], label: str, node: int) -> int:
    """Return an input choice, an int or a list of one, as a node index below `node`."""
    value = arch[label]
    single = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if type(single) is not int or not 0 <= single < node:
        raise SpaceError(
            f"{label!r} got {value!r:.60}; expected an int from 0 to {node - 1}, or a list of one."
        )
    return single


class LooseEnds(Value):
    """Number of intermediate nodes of a cell that no other node reads."""

    def __init__(self, topology: CellTopology) -> None:
        self.topology = topology

    def decisions(self) -> tuple[Categorical, ...]:
        nodes = self.topology.nodes
        return tuple(source for node in nodes for _, source in self.topology.slots(node))

    def evaluate(self, arch: Mapping[str, Any]) -> int:
        sources = {d.parse(arch[d.label]) for d in self.decisions()}
        return len(loose_ends(self.topology, sources))

    def possible(self) -> tuple[int, ...]:
        return tuple(range(1, self.topology.num_nodes + 1))

    # As a `Tally`, a state is the nodes nobody has read yet, and what the present node has read.
    start: ClassVar[tuple[frozenset[int], frozenset[int]]] = (frozenset(), frozenset())

    def step(
        self, state: tuple[frozenset[int], frozenset[int]], position: int, value: int
    ) -> tuple[frozenset[int], frozenset[int]] | None:
        (unread, read), slots = state, self.topology.num_ops_per_node
        if self.topology.distinct_inputs and value in read:
            return None
        if (position + 1) % slots:
            return unread, read | {value}
        return unread - read - {value} | {self.topology.nodes[position // slots]}, frozenset()

    def result(self, state: tuple[frozenset[int], frozenset[int]]) -> int:
        return len(state[0])

    def __str__(self) -> str:
        kind = ", distinct inputs" if self.topology.distinct_inputs else ""
        return f"loose_ends({self.topology.label}{kind})"


def loose_ends(topology: CellTopology, sources: Iterable[int]) -> list[int]:
    """Return the intermediate nodes that are nobody's source."""
    read = set(sources)
    return [node for node in topology.nodes if node not in read]
