"""FairDARTS: operations that do not compete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spacelang.errors import require_integer, require_number, require_one_of
from spacelang.language import Architecture
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Phase,
    Relaxation,
    alive_mask,
    top_architectures,
)


@dataclass(frozen=True, kw_only=True)
class FairDARTS(Differentiable):
    """Search with a sigmoid for every candidate, which a zero-one loss drives to a decision.

    Logits begin at zero and follow loss + zero_one_weight * L01. An edge keeps its candidate of the largest
    sigmoid. In spaces whose candidates include "none", candidates below `threshold` give way to it. So the
    space says by which rule of the authors' code is derived. "threshold_sparse": in `spacelang.hub.FairDARTS`
    a node keeps two edges or fewer. "threshold_edge": in `spacelang.hub.FairDARTSEdges` every edge keeps its
    best operations that reach the threshold, `per_edge` at most. "darts": elsewhere a node keeps as many
    edges as the space says. In `spacelang.hub.SNAS` a node keeps the best operation of each edge.

    It ends with few skip connections. Prefer DARTS where exactly two operations a node are wanted and the
    search is short: sigmoids take long to leave 1/2.

    Args:
        zero_one_weight: Factor of L01.
        zero_one: Form of L01, see `zero_one_loss`.
        threshold: Smallest sigmoid of an operation that is kept.
        per_edge: Most operations of an edge where each has a decision of its own.

    Source: FairDARTS, Chu et al. 2020, arXiv:1911.12126, and the authors' code.
    """

    zero_one_weight: float = 10.0
    zero_one: Literal["squared", "absolute"] = "squared"
    threshold: float = 0.85
    per_edge: int = 2
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    init_scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("zero_one_weight", self.zero_one_weight, least=0)
        require_one_of("zero_one", self.zero_one, ("squared", "absolute"))
        require_number("threshold", self.threshold, above=0, below=1)
        require_integer("per_edge", self.per_edge, least=1)

    @property
    def relaxation(self) -> Sigmoid:
        return Sigmoid()

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        if phase == "weights":  # it does not depend on them
            return loss
        groups, logits = search.supernet.groups, search.parameters.logits
        there = [table[_operations(groups[label], table)] for label, table in logits.items()]
        return loss + self.zero_one_weight * zero_one_loss(there, self.zero_one)

    def architectures(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        tables = {label: table.clone() for label, table in probabilities.items()}
        edges: dict[str, list[Tensor]] = {}
        for label, table in tables.items():
            columns = supernet.groups[label].columns
            if "none" not in columns:
                continue
            table[:, columns.index("none")] = self.threshold  # preferred to what is below it, to nothing else
            edge, _, operation = label.rpartition("/")
            if operation == columns[0] and len(columns) == 2:  # one of several operations of this edge
                edges.setdefault(edge, []).append(table[:, :1])
        for sigmoids in edges.values():
            for weak in sorted(sigmoids, key=float, reverse=True)[self.per_edge :]:
                weak.zero_()
        return top_architectures(supernet, tables, count)


def _operations(group: Group, logits: Tensor) -> Tensor:
    """Return where the logits of operations are that were not pruned and are not "none"."""
    named = torch.tensor([name != "none" for name in group.columns], device=logits.device)
    return alive_mask(group, logits) & named


@dataclass(frozen=True)
class Sigmoid(Relaxation):
    """w_k = sigmoid(alpha_k): each candidate is weighted by itself, so rows need not sum to one."""

    def shape(self, group: Group) -> tuple[int, int]:
        return group.shape

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        return logits.sigmoid() * alive_mask(group, logits)

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        return Mixture(self.probabilities(group, logits))


def zero_one_loss(logits: Iterable[Tensor], form: Literal["squared", "absolute"] = "squared") -> Tensor:
    """Return L01 = -mean((sigmoid(alpha) - 1/2)^2), or -mean|sigmoid(alpha) - 1/2|, over all entries."""
    distance = torch.cat([table.sigmoid().flatten() for table in logits]) - 0.5
    return -(distance**2 if form == "squared" else distance.abs()).mean()
