"""Relaxed cells, which compute once what the edges that leave one node have in common.

An operation is usually a sequence that begins without parameters: a ReLU before a convolution, a pooling
with its normalisation. On the edges that leave one node these beginnings see the same input and give the
same output, so a cell computes each of them once per node.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..language import CellFrame, FrozenCell
from .group import Group
from .mixed import Mixed, Pruned, add_weighted

# Exact types whose `__constants__` say all there is to know about what they compute.
_PURE = (nn.Identity, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d)


def _signature(module: nn.Module) -> Hashable | None:
    """Return a key for what a parameter-free module computes; None when it is not known to be one."""
    if type(module) not in _PURE or getattr(module, "inplace", False) or getattr(module, "affine", False):
        return None
    settings = tuple((name, getattr(module, name)) for name in getattr(module, "__constants__", ()))
    return type(module), settings


@dataclass(frozen=True)
class Steps:
    """An operation as a shared beginning and the rest.

    Args:
        shared: `(key, module)` of each shared step; the key stands for the whole beginning up to it.
        rest: Modules after it.
    """

    shared: tuple[tuple[Hashable, nn.Module], ...]
    rest: tuple[nn.Module, ...]

    def __call__(self, x: Tensor, cache: dict[Hashable, Tensor]) -> Tensor:
        """Apply to a node's feature map `x`; `cache` holds the shared results of that node."""
        for key, module in self.shared:
            if key not in cache:
                cache[key] = module(x)
            x = cache[key]
        for module in self.rest:
            x = module(x)
        return x


def split(operation: nn.Module) -> Steps:
    """Separate the shared beginning of an operation."""
    # A subclass of Sequential may compute anything, and a hook must see every call.
    plain = type(operation) is nn.Sequential and not operation._forward_hooks
    modules = list(operation.children()) if plain else [operation]
    shared: list[tuple[Hashable, nn.Module]] = []
    key: tuple[Hashable, ...] = ()
    for module in modules:
        signature = _signature(module)
        if signature is None or module._forward_hooks:
            break
        key = (*key, signature)
        shared.append((key, module))
    return Steps(tuple(shared), tuple(modules[len(shared) :]))


def unify(operations: list[nn.Module]) -> None:
    """Let operations on one node hold the same module objects in their shared beginnings.

    Running statistics of a shared normalisation are then updated once and seen by every edge. Beginnings
    whose statistics already differ are left apart.
    """
    owners: dict[Hashable, nn.Module] = {}
    for operation in operations:
        if type(operation) is not nn.Sequential:
            continue
        for position, (key, module) in enumerate(split(operation).shared):
            owner = owners.setdefault(key, module)
            if not _same_buffers(owner, module):
                break
            operation[position] = owner


def _same_buffers(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


class MixedCell(Mixed):
    """A cell whose edges compute mixtures: node_i = sum_{j<i} sum_k w_{ij,k} f_k(node_j).

    Args:
        group: Mixture, one row per edge.
        frame: Preprocessing, merging and postprocessing.
        edges: Candidates of each edge, in row order.

    Source: DARTS, arXiv:1806.09055, eq. 1 and 2.
    """

    def __init__(self, group: Group, frame: CellFrame, edges: nn.ModuleList) -> None:
        super().__init__()
        self.group = group
        self.topology = group.cell
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
            terms += self.edge_terms(row, states[source], caches[source])
        gates = [gate for row in rows for gate in self.group.gates(row)]
        total: Tensor = add_weighted(terms, f"node {node} of cell {self.group.label!r}", gates)
        return total

    def edge_terms(self, row: int, x: Tensor, cache: dict[Hashable, Tensor]) -> list[tuple[object, Tensor]]:
        """Return the terms an edge adds to its node: `(name, weighted output)` of each executed candidate."""
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
                    edge[k] = Pruned()  # type: ignore[operator]
        self._steps = None


class EdgeByEdgeCell(MixedCell):
    """The same cell computed plainly, every operation on every edge by itself.

    This is the reference that tests and benchmarks compare with.
    """

    def _operation(self, row: int, column: int, x: Tensor, cache: dict[Hashable, Tensor]) -> Tensor:
        return self.edges[row][column](x)  # type: ignore[index, no-any-return]
