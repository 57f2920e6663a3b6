"""Entropy of the probabilities in the loss of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.language import Subset
from spacelang.supernet import Group, Supernet

from ..framework.gradient import GradientSearch
from ..framework.search import Extra, OneShot, check_ends
from ..one_shot.gumbel import annealed


@dataclass(frozen=True)
class EntropyPenalty(Extra):
    """Add weight * H to the loss of the logits, H the mean entropy of the undecided edges and choices.

    H = -sum_k p_k log p_k of the distribution over the candidates of an edge that are not none, in nats; of
    a choice of any set of inputs the sum over inputs of -p log p - (1 - p) log (1 - p). A positive weight
    urges the search to decide, a negative one to explore.

    Args:
        weight: in the first and in the last epoch, linear in between.
    """

    weight: tuple[float, float]

    def __post_init__(self) -> None:
        check_ends("weight", self.weight)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        self.require_probabilities(strategy)

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        weight = annealed(*self.weight, search.moment.epoch, search.moment.epochs)
        groups = search.supernet.groups
        tables = search.probability_tables().items()
        entropies = torch.cat([entropy(groups[label], table) for label, table in tables])
        return loss + weight * entropies.mean() if len(entropies) else loss


def entropy(group: Group, table: Tensor) -> Tensor:
    """Entropy of each row with more than one candidate left, (undecided rows,)."""
    decision = group.decisions[0]
    if isinstance(decision, Subset) and decision.n_chosen is None:
        return _entropy(torch.stack([table, 1 - table], dim=-1)).sum(dim=1)
    undecided = [r for r, row in enumerate(group.alive) if sum(row) > 1]
    rows = table[undecided]
    return _entropy(rows / rows.sum(dim=1, keepdim=True))


def _entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last dimension; candidates of probability zero count nothing."""
    return -(p * torch.where(p > 0, p, 1).log()).sum(dim=-1)
