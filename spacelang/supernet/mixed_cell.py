"""Relaxed cells: mixtures of operations, computed as the cell's plan says."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..language import Absent, CellFrame, FrozenCell, Further
from .bundle_call import BundleCall, Bundled
from .execution import Resolved
from .group import Group
from .mixed import Mixed, add_weighted
from .plan import CellPlan, Planned, cell_plan
from .recompute import Recompute
from .steps import Steps, separate, split, unify

if TYPE_CHECKING:
    import networkx as nx

Cache: TypeAlias = dict[Hashable, Any]
"""Results that the edges leaving one feature map share: those of steps by their key, and of the bundle."""

_BUNDLE = "bundle"
_CALLS = 512  # sets of active candidates that a cell remembers; sampled paths have one for each source


class MixedCell(Mixed):
    """A cell whose edges compute mixtures: node_i = sum_{j<i} sum_k w_{ij,k} f_k(node_j).

    Args:
        group: Mixture, one row per edge.
        frame: Preprocessing, merging and postprocessing.
        edges: Candidates of each edge, in row order.

    Attributes:
        recompute: Computes the cell again in the backward pass; None to keep what that needs.

    Source: DARTS, arXiv:1806.09055, eq. 1 and 2.
    """

    def __init__(self, group: Group, frame: CellFrame, edges: nn.ModuleList) -> None:
        super().__init__()
        self.group = group
        self.topology = group.cell
        self.frame = frame
        self.edges = edges
        self.recompute: Recompute | None = None
        self.plan: CellPlan | None = None
        self.execution = Resolved("plain", torch.contiguous_format)
        self._steps: list[list[Steps]] | None = None
        self._calls: dict[Hashable, BundleCall | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_steps": None, "_calls": {}}

    def make_plan(self, path: str, graph: nx.MultiDiGraph) -> CellPlan:
        """Make the plan from the graph of the space, and return it."""
        self._calls = {}
        projected = self.frame.projection is not None
        self.plan = cell_plan(path, self.group.label, self.edges, graph, projected)  # type: ignore[arg-type]
        return self.plan

    def execute(self, execution: Resolved) -> None:
        """Compute with an execution from now on; edges share modules unless it is plain."""
        self.execution, self._steps, self._calls = execution, None, {}
        for rows in self._reading_one_state():
            operations = [operation for r in rows for operation in self.edges[r].children()]
            separate(operations)
            if execution.name != "plain":
                unify(operations)

    def _reading_one_state(self) -> list[list[int]]:
        """Return the rows of the edges whose candidates get the same state."""
        edges = list(enumerate(self.topology.edges))
        if self.frame.projection is not None:
            return [[row] for row, _ in edges]
        return [[r for r, (start, _) in edges if start == state] for state in range(self.topology.nodes.stop)]

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if self.recompute is not None:
            return self.recompute(self, self._compute, inputs, kwargs)
        return self._compute(*inputs, **kwargs)

    def _compute(self, *inputs: Any, **kwargs: Any) -> Any:
        given, states, further = self.frame.states(inputs, kwargs)
        caches: list[Cache] = [{} for _ in range(self.topology.nodes.stop)]
        for node in self.topology.nodes:
            states.append(self._node(node, states, caches, further))
        return self.frame.merge(states, self._sources(), given)

    def _node(self, node: int, states: list[Any], caches: list[Cache], further: Further) -> Any:
        rows = self.topology.rows_into(node)
        terms: list[tuple[object, Any]] = []
        for source, row in enumerate(rows):
            if self.frame.projection is None:
                terms += self.edge_terms(row, states[source], caches[source], further)
            elif self.group.active[row]:
                terms += self.edge_terms(row, self.frame.read(node, states[source], further), {}, further)
        if not terms and self.group.weights is not None:
            terms = self._nothing(node, states, further)
        gates = [gate for row in rows for gate in self.group.gates(row)]
        total = add_weighted(terms, f"node {node} of cell {self.group.label!r}", gates)
        return self.frame.state(node, self.summed(total))

    def summed(self, total: Any) -> Any:
        """Return what a node gets for the sum of all terms of `edge_terms`: the sum itself."""
        return total

    def _nothing(self, node: int, states: list[Any], further: Further) -> list[tuple[object, Any]]:
        """Return the zeros of a node whose mixture runs no candidate; nothing if it has no candidate left."""
        for source, row in enumerate(self.topology.rows_into(node)):
            for k, alive in enumerate(self.group.alive[row]):
                if alive:
                    x = self.frame.read(node, states[source], further)
                    return [("nothing", self.zeros(row, k, x, further))]
        return []

    def zeros(self, row: int, column: int, x: Any, further: Further) -> Any:
        """Return zeros in the shape of a candidate's term; the candidate stays as it is."""
        candidate: nn.Module = self.edges[row][column]  # type: ignore[index]
        with torch.no_grad():
            output = further.apply(copy.deepcopy(candidate).eval(), x)
        return tree_map_only(Tensor, torch.zeros_like, output)

    def edge_terms(self, row: int, x: Any, cache: Cache, further: Further) -> list[tuple[object, Any]]:
        """Return the terms an edge adds to its node: `(name, weighted output)`, the bundle's first.

        Args:
            row: Row of the edge.
            x: State that its candidates get.
            cache: Results of that state which edges share.
            further: Arguments that every candidate gets beside it.
        """
        group, columns = self.group, self.group.active[row]
        terms: list[tuple[object, Any]] = []
        # Nothing that runs in a bundle, or is shared, takes further arguments.
        bundle = None if further else self._bundle(self.topology.edges[row][0], x, cache)
        if bundle is not None:
            columns = bundle.apart.get(row, ())
            if row in bundle.sums:
                terms.append((f"the bundle of edge {group.rows[row]}", bundle.sums[row]))
        for k in dict.fromkeys(columns):
            output = group.apply(self.edges[row][k], self._operation(row, k, x, cache, further))  # type: ignore[index]
            # Two slots with the same choice add it twice, as their frozen model does.
            terms += [(group.columns[k], group.weighted(row, k, output))] * columns.count(k)
        return terms

    def _bundle(self, source: int, x: Any, cache: Cache) -> Bundled | None:
        """Return what a source's bundle gives its edges, computed for the first of them; None without one."""
        if _BUNDLE not in cache:
            is_path = self.group.weights is None
            exact = is_path and self.group.is_exact
            engine = None if exact else self.execution.engine(x, is_path=is_path)
            call = None if engine is None else self._bundle_call(source)
            cache[_BUNDLE] = None
            if call is not None and engine is not None:
                cache[_BUNDLE] = call(x, self.group, cache, engine, self.execution.layout)
        found: Bundled | None = cache[_BUNDLE]
        return found

    def _bundle_call(self, source: int) -> BundleCall | None:
        """Return how the active candidates of a source run together; None if nothing does."""
        group = self.group
        if self.plan is None:
            return None
        leaving = self.plan.leaving.get(source, ())
        active = [planned for planned in leaving if planned.column in group.active[planned.row]]
        if group.transform is not None:
            active = [self._transformed(planned) for planned in active]
        key = tuple((p.row, p.column, p.how, group.is_silent(p.row, p.column)) for p in active)
        if key not in self._calls:
            if len(self._calls) == _CALLS:
                self._calls.clear()
            bundled = any(planned.how == "bundle" for planned in active)
            silent = {(row, column) for row, column, _, is_silent in key if is_silent}
            pools = self.execution.pools
            self._calls[key] = BundleCall(active, silent, group.shape, pools) if bundled else None
        return self._calls[key]

    def _transformed(self, planned: Planned) -> Planned:
        """Let a candidate run apart if its output is transformed."""
        candidate: nn.Module = self.edges[planned.row][planned.column]  # type: ignore[index]
        changed = self.group.changes(candidate)
        why = "its output is transformed"
        return replace(planned, blocks=(), pooled=None, reason=why) if changed else planned

    def _operation(self, row: int, column: int, x: Any, cache: Cache, further: Further) -> Any:
        if self.execution.name == "plain" or further:
            return further.apply(self.edges[row][column], x)  # type: ignore[index]
        if self._steps is None:
            self._steps = [[split(operation) for operation in edge.children()] for edge in self.edges]
        return self._steps[row][column](x, cache)

    def _sources(self) -> set[int]:
        """Return the nodes read by others; in a soft mixture every node is kept in the output."""
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
                    edge[k] = Absent()  # type: ignore[operator]
        self._steps, self._calls, self.plan = None, {}, None
