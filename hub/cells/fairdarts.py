"""The sparse cell space of FairDARTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spacelang import LayerChoice
from spacelang.errors import SpaceError
from spacelang.graph import Wire, Wiring
from spacelang.language import (
    ALWAYS,
    Categorical,
    Condition,
    Decision,
    Relaxer,
    Tally,
    Value,
    current_architecture,
    tallied,
)
from spacelang.supernet import Group

from ..operations.cell_operations import DARTS_OPERATIONS, Channels, DropPath, Zero, make_operation
from ..operations.concat import Concat
from .cell_space import INPUTS, CellDesign, CellPlan, CellSpace


@dataclass(frozen=True)
class SparseNodes:
    """Nodes of a sparse cell, and which of them are in its output: all that are not empty.

    A node is empty when every edge into it is "none" or comes from an empty node.

    Args:
        kind: Label of the cell.
        operations: Candidates of every edge, "none" among them.
        num_nodes: Number of nodes.
        most: Largest number of edges into a node that are not "none"; None for no limit.
        apart: Whether each operation of an edge has a decision of its own: it, or "none".
    """

    kind: str
    operations: tuple[str, ...]
    num_nodes: int
    most: int | None
    apart: bool = False

    @cached_property
    def rows(self) -> list[list[tuple[int, Categorical]]]:
        """The edges into each node: source and decision."""
        return [
            [(source, decision) for source in range(node) for decision in self._between(source, node)]
            for node in range(INPUTS, INPUTS + self.num_nodes)
        ]

    def _between(self, source: int, node: int) -> list[Categorical]:
        label = f"{self.kind}/{source}_{node}"
        if not self.apart:
            return [Categorical(label, self.operations)]
        names = [name for name in self.operations if name != "none"]
        return [Categorical(f"{label}/{name}", (name, "none")) for name in names]

    @cached_property
    def places(self) -> list[tuple[int, bool]]:
        """Source of each edge in the order of `decisions`, and whether it is the last into its node."""
        return [(source, edge is row[-1]) for row in self.rows for edge in row for source, _ in [edge]]

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions on all edges."""
        return tuple(decision for row in self.rows for _, decision in row)

    def present(self, arch: Mapping[str, Any]) -> list[int]:
        """Return the positions of the nodes that are not empty."""
        full = [True] * INPUTS
        for row in self.rows:
            full.append(any(arch[decision.label] != "none" and full[source] for source, decision in row))
        return [k for k, present in enumerate(full[INPUTS:]) if present]

    def groups(self, builder: Relaxer) -> list[Group]:
        """Return the groups of the edges."""
        return [builder.group(decision) for decision in self.decisions()]

    def selected(self, groups: Sequence[Group]) -> list[int] | None:
        """Return `present` of the selected architecture; None in a mixture, where every node has inputs."""
        if not all(group.is_selected for group in groups):
            return None
        return self.present({group.label: group.selected for group in groups})

    def tallies(self) -> list[Tally]:
        """Return the number of nodes that are not empty."""
        return [PresentCount(self, self.num_nodes)]


@dataclass(frozen=True)
class Fill:
    """State of the edges of a sparse cell, read one after another.

    Args:
        full: Whether each node before the present one has something to pass on.
        edges: Number of edges into the present node that are not "none".
        fed: Whether one of them comes from a node with something to pass on.
    """

    full: tuple[bool, ...] = (True,) * INPUTS
    edges: int = 0
    fed: bool = False


@dataclass(frozen=True)
class PresentCount:
    """Number of the first nodes of a sparse cell that are not empty, a `Tally`.

    Args:
        nodes: Nodes of the cell.
        count: Number of nodes that are read.
    """

    nodes: SparseNodes
    count: int
    start: ClassVar[Fill] = Fill()

    def decisions(self) -> tuple[Categorical, ...]:
        """Return the decisions on the edges into these nodes."""
        return tuple(decision for row in self.nodes.rows[: self.count] for _, decision in row)

    def step(self, state: Fill, position: int, value: str) -> Fill | None:
        """Read an edge; a node has as many as the constraints allow."""
        source, last = self.nodes.places[position]
        if value != "none":
            state = replace(state, edges=state.edges + 1, fed=state.fed or state.full[source])
        first = len(state.full) == INPUTS
        most = self.nodes.most
        if (most is not None and state.edges > most) or (first and last and not state.edges):
            return None
        return Fill((*state.full, state.fed)) if last else state

    def result(self, state: Fill) -> int:
        """Return the number."""
        return sum(state.full[INPUTS:])

    def __str__(self) -> str:
        limit = "" if self.nodes.most is None else f", at most {self.nodes.most} edges"
        return f"present({self.nodes.kind}, {self.count}{limit})"


@dataclass(frozen=True)
class Present(PresentCount):
    """A node of a sparse cell is not empty: the last of the nodes that are read."""

    @property
    def labels(self) -> frozenset[str]:
        """Labels of the edges into the node and those before it."""
        return frozenset(decision.label for decision in self.decisions())

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Return whether it has something to add under `arch`."""
        return self.labels <= arch.keys() and bool(tallied(self, arch))

    def result(self, state: Fill) -> bool:
        """Return whether the node has something to pass on."""
        return state.full[-1]

    def __str__(self) -> str:
        return f"node {INPUTS + self.count - 1} of {self.nodes.kind} is not empty"


class EdgesIn(Value):
    """The number of edges that are not "none"."""

    def __init__(self, edges: Sequence[Categorical]) -> None:
        self.edges = tuple(edges)

    def decisions(self) -> tuple[Decision, ...]:
        return self.edges

    def evaluate(self, arch: Mapping[str, Any]) -> int:
        return sum(edge.parse(arch[edge.label]) != "none" for edge in self.edges)

    def possible(self) -> tuple[int, ...]:
        return tuple(range(len(self.edges) + 1))

    def __str__(self) -> str:
        return f"edges({', '.join(edge.label for edge in self.edges)})"


class FairDARTS(CellSpace):
    """FairDARTS: cells whose nodes have up to two inputs; empty nodes are not in the output.

    Every edge has its own decision, `{cell}/{source}_{node}`: an operation or "none". A node without inputs
    is empty, and edges from it add nothing. The first node of a cell must have an input, so that no cell is
    empty. Drop path acts on the sum in a node. See `CellSpace` for the arguments; `merge_op` and
    `distinct_inputs` change nothing. Source: arXiv:1911.12126.
    """

    design: ClassVar[CellDesign] = CellDesign(
        (*DARTS_OPERATIONS, "none"), num_nodes=4, merge_op="all", distinct_inputs=True
    )
    most_inputs: ClassVar[int | None] = 2
    apart: ClassVar[bool] = False

    def _cell(self, plan: CellPlan, channels: Channels, inputs: nn.Module) -> nn.Module:
        if "none" not in self._design.operations:
            name = type(self).__name__
            raise SpaceError(f"{name} needs 'none' among its operations, got {self._design.operations!r}.")
        design = self._design
        nodes = SparseNodes(plan.kind, design.operations, design.num_nodes, self.most_inputs, self.apart)
        self._constrain(nodes)
        edges = [
            [self._edge(decision, plan, channels, source) for source, decision in row] for row in nodes.rows
        ]
        with_drop_path = self.affine or self.drop_path_prob > 0
        return SparseCell(nodes, inputs, edges, self.drop_path_prob if with_drop_path else None)

    def _edge(self, decision: Categorical, plan: CellPlan, channels: Channels, source: int) -> nn.Module:
        stride = 2 if plan.reduction and source < INPUTS else 1
        build = partial(make_operation, channels=channels, stride=stride, affine=self.affine)
        return LayerChoice({name: partial(build, name) for name in decision.candidates}, label=decision.label)

    def _constrain(self, nodes: SparseNodes) -> None:
        """Limit the inputs of each node, edge by edge, so that counting stops early."""
        rows = [[decision for _, decision in row] for row in nodes.rows]
        for position, row in enumerate(rows):
            name = f"node {INPUTS + position} of cell {nodes.kind!r}"
            most = len(row) if nodes.most is None else nodes.most
            for end in range(most + 1, len(row) + 1):
                text = f"{name} must have at most {most} edges that are not 'none'."
                self._require(EdgesIn(row[:end]) <= most, text)
        self._require(
            EdgesIn(rows[0]) >= 1,
            f"node {INPUTS} of cell {nodes.kind!r} must have an edge that is not 'none'.",
        )

    def _require(self, expression: Value, message: str) -> None:
        arch = current_architecture()
        if arch is None:
            self.constrain(expression, message)
        elif all(decision.label in arch for decision in expression.decisions()):
            self.constrain(expression.evaluate(arch), message)

    def _output(self, cell: Any, channels: Channels) -> Channels | Concat:
        if isinstance(cell.edges[0][0], LayerChoice):
            return Concat(self._design.num_nodes, cell.nodes, channels)
        return cell.num_outputs * channels  # type: ignore[no-any-return]


class SNAS(FairDARTS):
    """The cells of SNAS: a node keeps every edge that is not "none", however many these are.

    Decisions are those of `FairDARTS`. Source: arXiv:1812.09926, section 3.1; its authors list all 14 edges.
    """

    most_inputs: ClassVar[int | None] = None


class FairDARTSEdges(FairDARTS):
    """FairDARTS' cells whose edges may have several operations: each of them is there or not.

    The decision on an operation is `{cell}/{source}_{node}/{operation}`: it, or "none". A node adds them all.
    What the authors' code derives by "threshold_edge", up to two operations of any edge, is in this space.
    Source: arXiv:1911.12126.
    """

    most_inputs: ClassVar[int | None] = None
    apart: ClassVar[bool] = True


class SparseCell(nn.Module):
    """Cell whose nodes add the edges that are not "none"; its output is every node that is not empty.

    Args:
        nodes: Decisions on the edges.
        inputs: Preprocessing of the two inputs.
        edges: Operations into each node, in the order of `nodes`.
        drop_path: Initial probability of a `DropPath` on each node's sum; None for no such module.
    """

    def __init__(
        self,
        nodes: SparseNodes,
        inputs: nn.Module,
        edges: Sequence[Sequence[nn.Module]],
        drop_path: float | None,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.inputs = inputs
        self.edges = nn.ModuleList(map(nn.ModuleList, edges))
        self.drop_path = nn.Identity() if drop_path is None else DropPath(drop_path)

    def wiring(self) -> Wiring:
        """Return the graph of the cell."""
        count = self.nodes.num_nodes
        edges = [
            Wire(source, INPUTS + position, f"edges.{position}.{k}", self._passes(source), absent="none")
            for position, row in enumerate(self.nodes.rows)
            for k, (source, _) in enumerate(row)
        ]
        joined = [Wire(INPUTS + k, INPUTS + count, when=Present(self.nodes, k + 1)) for k in range(count)]
        return Wiring(self.nodes.kind, INPUTS, count, (*edges, *joined))

    def _passes(self, source: int) -> Condition:
        """Return the condition under which a node has something to pass on."""
        return ALWAYS if source < INPUTS else Present(self.nodes, source - INPUTS + 1)

    @property
    def num_outputs(self) -> int:
        """Return the number of nodes in the output of a fixed cell."""
        full = [True] * INPUTS
        for row, wires in zip(self.edges, self.nodes.rows, strict=True):
            edges = zip(wires, row.children(), strict=True)
            full.append(any(full[source] and not _absent(edge) for (source, _), edge in edges))
        return sum(full[INPUTS:])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the n nodes that are not empty side by side, two maps (B, C, H, W) -> (B, n C, H, W)."""
        states: list[Tensor | None] = list(self.inputs(inputs))
        for row, wires in zip(self.edges, self.nodes.rows, strict=True):
            total: Tensor | None = None
            for (source, _), edge in zip(wires, row.children(), strict=True):
                state = states[source]
                if state is not None and not _absent(edge):
                    total = edge(state) if total is None else total + edge(state)
            states.append(None if total is None else self.drop_path(total))
        return torch.cat([state for state in states[INPUTS:] if state is not None], dim=1)


def _absent(edge: nn.Module) -> bool:
    """Return whether "none" was chosen: when freezing, or by the architecture selected in a supernet."""
    group: Group | None = getattr(edge, "group", None)
    return isinstance(edge, Zero) or (group is not None and group.is_selected and group.selected == "none")
