"""Entropy of the probabilities in the loss of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.supernet import Group

from ..framework import GradientSearch, LogitsExtra, Rate, rate_at, require_rate


@dataclass(frozen=True)
class EntropyPenalty(LogitsExtra):
    """A term weight * H in the loss of the logits, H the mean entropy of the undecided edges and choices.

    H = -sum_k p_k log p_k in nats, p being `Relaxation.distribution`; in a choice of any set of inputs it is
    the sum over inputs of -p log p - (1 - p) log (1 - p). A positive weight urges the search to decide, a
    negative one to explore.

    Args:
        weight: Factor of H: one number, or those of the first and of the last epoch, linear in between.
    """

    weight: Rate

    def __post_init__(self) -> None:
        require_rate("weight", self.weight)

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        weight, groups = rate_at(self.weight, search.moment), search.supernet.groups
        tables = search.distributions().items()
        entropies = torch.cat([entropy(groups[label], table) for label, table in tables])
        return loss + weight * entropies.mean() if len(entropies) else loss


def entropy(group: Group, table: Tensor) -> Tensor:
    """Return the entropy of each row with more than one candidate left, (undecided rows,).

    Args:
        group: Says which candidates are left.
        table: Distribution, (rows, columns).
    """
    if group.kind == "any_subset":
        return _entropy(torch.stack([table, 1 - table], dim=-1)).sum(dim=1)
    undecided = [r for r, row in enumerate(group.alive) if sum(row) > 1]
    return _entropy(table[undecided])


def _entropy(p: Tensor) -> Tensor:
    """Return -sum p log p over the last dimension; candidates of probability zero count nothing."""
    return -(p * torch.where(p > 0, p, 1).log()).sum(dim=-1)
