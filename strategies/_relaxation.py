"""Relaxations: how logits become mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spacelang.language import Subset
from spacelang.supernet import Group


class Relaxation(Protocol):
    """Turns the logits of a group into the weights its candidates are mixed with."""

    def shape(self, group: Group) -> tuple[int, int]:
        """Shape of the group's logits."""
        ...

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        """Probability of each candidate, (rows, columns): what derivation ranks."""
        ...

    def mixture(self, group: Group, logits: Tensor) -> Tensor:
        """Weights of a forward pass, (rows, columns); differentiable in the logits."""
        ...


@dataclass(frozen=True)
class Softmax:
    """w_{e,k} = exp(alpha_{e,k}) / sum_k' exp(alpha_{e,k'}), per row (DARTS, arXiv:1806.09055, eq. 2).

    Args:
        none: give each edge of a cell, besides its candidates, a logit for the zero operation. It takes
            part in the softmax, so an edge may fade away, and is never derived. It is column 0 of the logits.

    A choice of a subset has weights that sum to the number chosen, `n_chosen * softmax`; one of any
    non-empty set includes each input with probability `sigmoid(alpha)`.
    """

    none: bool = True

    def _has_none(self, group: Group) -> bool:
        return self.none and group.topology is not None

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = group.shape
        return rows, columns + self._has_none(group)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        decision = group.decisions[0]
        if isinstance(decision, Subset) and decision.n_chosen is None:
            return logits.sigmoid().masked_fill(~alive_mask(group, logits), 0.0)
        alive = alive_mask(group, logits)
        if not self._has_none(group):
            return logits.masked_fill(~alive, -torch.inf).softmax(dim=-1)
        with_none = torch.nn.functional.pad(alive, (1, 0), value=True)
        return logits.masked_fill(~with_none, -torch.inf).softmax(dim=-1)[:, 1:]

    def mixture(self, group: Group, logits: Tensor) -> Tensor:
        decision = group.decisions[0]
        weights = self.probabilities(group, logits)
        return weights * decision.n_chosen if isinstance(decision, Subset) and decision.n_chosen else weights


def alive_mask(group: Group, like: Tensor) -> Tensor:
    """Which candidates have not been pruned, (rows, columns), boolean, on the device of `like`."""
    return torch.tensor(group.alive, device=like.device)
