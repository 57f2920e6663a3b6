"""The relaxed cell: every operation on every edge, run from its graph."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from ..language import CellFrame, FrozenCell
from ._group import Group
from ._mixed import Mixed, Pruned, add_weighted
from ._sharing import Steps, split, unify


class MixedCell(Mixed):
    """A cell whose edges compute mixtures: node_i = sum_{j<i} sum_k w_{ij,k} f_k(node_j).

    Args:
        group: mixture, one row per edge.
        frame: preprocessing, merging and postprocessing.
        edges: candidates of each edge, in row order.

    Source: DARTS, arXiv:1806.09055, eq. 1 and 2.
    """

    def __init__(self, group: Group, frame: CellFrame, edges: nn.ModuleList) -> None:
        super().__init__()
        assert group.topology is not None
        self.group = group
        self.topology = group.topology
        self.frame = frame
        self.edges = edges
        self._steps: list[list[Steps]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_steps": None}

    def share(self) -> None:
        """Find what the edges leaving each node have in common."""
        for source in range(self.topology.nodes.stop):
            rows = [r for r, (start, _) in enumerate(self.topology.edges) if start == source]
            unify([operation for r in rows for operation in self.edges[r].children()])
        self._steps = [[split(operation) for operation in edge.children()] for edge in self.edges]

    def forward(self, *inputs: Any) -> Any:
        given, states = self.frame.states(inputs)
        caches: list[dict[Hashable, Tensor]] = [{} for _ in range(self.topology.nodes.stop)]
        for node in self.topology.nodes:
            states.append(self._node(node, states, caches))
        return self.frame.merge(states, self._sources(), given)

    def _node(self, node: int, states: list[Tensor], caches: list[dict[Hashable, Tensor]]) -> Tensor:
        rows = self.topology.rows_into(node)
        terms: list[tuple[object, Tensor]] = []
        for source, row in enumerate(rows):
            terms += self._edge(row, states[source], caches[source])
        gates = [gate for row in rows for gate in self.group.gates(row)]
        return add_weighted(terms, f"node {node} of cell {self.group.label!r}", gates)

    def _edge(self, row: int, x: Tensor, cache: dict[Hashable, Tensor]) -> list[tuple[object, Tensor]]:
        """What an edge adds to its node: `(name, weighted output)` of each executed candidate."""
        group = self.group
        terms: list[tuple[object, Tensor]] = []
        for k in dict.fromkeys(group.active[row]):
            output = group.apply(self.edges[row][k], self._operation(row, k, x, cache))  # type: ignore[index]
            # Two slots with the same choice add it twice, as their frozen model does.
            terms += [(group.columns[k], group.weighted(row, k, output))] * group.active[row].count(k)
        return terms

    def _operation(self, row: int, column: int, x: Tensor, cache: dict[Hashable, Tensor]) -> Tensor:
        if self._steps is None:
            self.share()
        assert self._steps is not None
        return self._steps[row][column](x, cache)

    def _sources(self) -> set[int]:
        """Nodes read by others; in a soft mixture every node is kept in the output."""
        if not self.group.is_selected:
            return set()
        return {source for r, (source, _) in enumerate(self.topology.edges) if self.group.active[r]}

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        slots: dict[int, list[tuple[int, int, nn.Module]]] = {}
        for node, chosen in self.topology.chosen(arch).items():
            rows = self.topology.rows_into(node)
            # Copied one by one: beginnings that edges share here are every slot's own in a frozen model.
            slots[node] = [(source, k, copy.deepcopy(self.edges[rows[source]][k])) for source, k in chosen]  # type: ignore[index]
        return FrozenCell(self.frame, slots)

    def drop_pruned(self) -> None:
        for edge, row in zip(self.edges, self.group.alive, strict=True):
            for k, alive in enumerate(row):
                if not alive:
                    edge[k] = Pruned()  # type: ignore[operator]
        self._steps = None


class EdgeByEdgeCell(MixedCell):
    """The same cell computed plainly, every operation on every edge by itself.

    This is the reference that tests and benchmarks compare with.
    """

    def _operation(self, row: int, column: int, x: Tensor, cache: dict[Hashable, Tensor]) -> Tensor:
        return self.edges[row][column](x)  # type: ignore[index, no-any-return]
