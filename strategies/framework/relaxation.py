"""Relaxations: how logits become mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from spacelang.language import Subset
from spacelang.supernet import Group

Phase: TypeAlias = Literal["logits", "weights"]
"""Whose step a mixture is for."""


@dataclass(frozen=True)
class Moment:
    """When in a search a mixture is made.

    Args:
        epoch: from 0.
        epochs: of the whole search.
        generator: what a random relaxation draws from, on the CPU, the same on every rank.
        phase: whose step the mixture is for.
    """

    epoch: int
    epochs: int
    generator: torch.Generator
    phase: Phase = "weights"


@dataclass(frozen=True)
class Mixture:
    """What a group computes with.

    Args:
        weights: of the candidates, (rows, columns).
        active: rows x columns, which candidates run; None for all.
        edges: (rows,), weights of a cell's edges besides those of their candidates; None for ones.
        adds_gates: add the weights of candidates that do not run, as plain numbers.
        silent: rows x columns, candidates that run for the gradient of their weight, which is zero.
    """

    weights: Tensor
    active: Sequence[Sequence[bool]] | None = None
    edges: Tensor | None = None
    adds_gates: bool = False
    silent: Sequence[Sequence[bool]] | None = None


class Relaxation(Protocol):
    """Turns the logits of a group into the weights its candidates are mixed with.

    Attributes:
        weighs_edges: whether the probabilities of a cell are shares of a node, and not of each edge into it.
    """

    weighs_edges: ClassVar[bool] = False

    def shape(self, group: Group) -> tuple[int, int]:
        """Shape of the group's logits."""
        ...

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        """Probability of each candidate, (rows, columns): what derivation ranks."""
        ...

    def mixture(self, group: Group, logits: Tensor, moment: Moment) -> Mixture:
        """Mixture of a forward pass; its weights are differentiable in the logits."""
        ...

    def movable(self, group: Group, logits: Tensor) -> Tensor:
        """Probabilities, with the gradient of those logits alone that the present step may move.

        `group.active` says what runs in it.
        """
        return self.probabilities(group, logits)

    def settled(self, group: Group, before: Tensor, after: Tensor) -> Tensor:
        """Logits to go on with, from those before and after their step."""
        return after


@dataclass(frozen=True)
class Softmax(Relaxation):
    """w_{e,k} = exp(alpha_{e,k}) / sum_k' exp(alpha_{e,k'}), per row (DARTS, arXiv:1806.09055, eq. 2).

    Args:
        none: give each edge of a cell, besides its candidates, a logit for the zero operation. It takes
            part in the softmax, so an edge may fade away, and is never derived. It is column 0 of the logits.

    A choice of a subset has weights that sum to the number chosen, `n_chosen * softmax`; one of any
    non-empty set includes each input with probability `sigmoid(alpha)`.
    """

    none: bool = True

    def _has_none(self, group: Group) -> bool:
        return self.none and group.kind == "cell"

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = group.shape
        return rows, columns + self._has_none(group)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        decision = group.decisions[0]
        alive = alive_mask(group, logits)
        if isinstance(decision, Subset) and decision.n_chosen is None:
            return logits.sigmoid() * alive
        if not self._has_none(group):
            return masked_softmax(logits, alive)
        with_none = torch.nn.functional.pad(alive, (1, 0), value=True)
        return masked_softmax(logits, with_none)[:, 1:]

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        decision = group.decisions[0]
        weights = self.probabilities(group, logits)
        chosen = decision.n_chosen if isinstance(decision, Subset) else None
        return Mixture(weights * chosen if chosen else weights)


def masked_softmax(logits: Tensor, alive: Tensor) -> Tensor:
    """Softmax of each row over its alive entries; zero elsewhere, and everywhere in a row that has none."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~alive, lowest).softmax(dim=-1) * alive


def alive_mask(group: Group, like: Tensor) -> Tensor:
    """Which candidates have not been pruned, (rows, columns), boolean, on the device of `like`."""
    return torch.tensor(group.alive, device=like.device)
