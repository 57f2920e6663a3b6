"""Relaxations, which turn logits into mixtures, and the time of a search at which they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_number, short
from spacelang.supernet import Group

Phase: TypeAlias = Literal["logits", "weights"]
"""Whose step a mixture is for."""


@dataclass(frozen=True)
class Moment:
    """A point in time of a search, at which a mixture is made.

    Args:
        epoch: The present epoch, from 0.
        epochs: Number of epochs of the search.
        generator: Source of a relaxation's random draws, on the CPU, the same on every rank.
        phase: Whose step the mixture is for.
    """

    epoch: int
    epochs: int
    generator: torch.Generator
    phase: Phase = "weights"


Rate: TypeAlias = float | tuple[float, float]
"""One number for all epochs, or the numbers of the first and of the last epoch, linear in between."""


def require_rate(name: str, rate: object, **bounds: Any) -> None:
    """Raise a `SpaceError` unless `rate` is a number or a pair, within bounds of `require_number`."""
    numbers = rate if isinstance(rate, tuple | list) else (rate,)
    if isinstance(rate, tuple | list) and len(rate) != 2:
        raise SpaceError(
            f"{name}={short(rate)} must be a number, or two: for the first and for the last epoch."
        )
    for number in numbers:
        require_number(name, number, **bounds)


def rate_at(rate: Rate, moment: Moment) -> float:
    """Return the number of an epoch."""
    return annealed(*rate, moment.epoch, moment.epochs) if isinstance(rate, tuple | list) else rate


def annealed(first: float, last: float, epoch: int, epochs: int) -> float:
    """Return a number that moves linearly from `first` in epoch 0 to `last` in the last epoch."""
    return first if epochs < 2 else first - (first - last) * epoch / (epochs - 1)


@dataclass(frozen=True)
class Mixture:
    """The weights a group computes with.

    Args:
        weights: Weights of the candidates, (rows, columns).
        active: Candidates that run, rows x columns; None for all.
        edges: Factors of a cell's edges, (rows,), applied to the weights of their candidates; None for ones.
        adds_gates: Whether the weights of candidates that do not run are added as plain numbers.
        silent: Candidates that run for the gradient of their weight, which is zero; rows x columns.
    """

    weights: Tensor
    active: Sequence[Sequence[bool]] | None = None
    edges: Tensor | None = None
    adds_gates: bool = False
    silent: Sequence[Sequence[bool]] | None = None


class Relaxation(Protocol):
    """Turns the logits of a group into the weights its candidates are mixed with."""

    def shape(self, group: Group) -> tuple[int, int]:
        """Return the shape of the group's logits."""
        ...

    def initial(self, group: Group, scale: float, generator: torch.Generator) -> Tensor:
        """Return the first logits; by default `scale * N(0, 1)`."""
        return scale * torch.randn(self.shape(group), generator=generator)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        """Return numbers in [0, 1] that derivation ranks and the history records, (rows, columns).

        Rows need not sum to one; pruned candidates have 0.
        """
        ...

    def mixture(self, group: Group, logits: Tensor, moment: Moment) -> Mixture:
        """Return the mixture of a forward pass; its weights are differentiable in the logits."""
        ...

    def distribution(self, group: Group, logits: Tensor) -> Tensor:
        """Return probabilities that a row's slot holds each candidate, (rows, columns).

        Expected costs, penalties and entropy use them. Rows sum to one: over the candidates that are left
        of a choice, or of an edge given that the edge is in the architecture. Of the zero operation, which is
        never derived, there is no share: the others divide it in proportion. In a choice of `n_chosen` inputs
        a row is one draw. In a choice of any set an entry is the probability that the input is in the set,
        independent of the others, and rows have no sum. A row without candidates is zero.

        By default rows of `probabilities` divided by their sums.
        """
        table = self.probabilities(group, logits)
        if group.kind == "any_subset":
            return table
        return table / table.sum(dim=1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)

    def edge_shares(self, group: Group, logits: Tensor) -> Tensor | None:
        """Return each edge's share of the slots of its node, (rows,), one in all for each node of a cell.

        None where edges have no weights of their own: those that are left are then equally likely.
        """
        return None

    def movable(self, group: Group, logits: Tensor) -> Tensor:
        """Return the distribution, differentiable in those logits alone that the present step may move.

        `group.active` says which candidates run in it.
        """
        return self.distribution(group, logits)

    def settled(self, group: Group, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits to continue with, from those before and after their step."""
        return after


@dataclass(frozen=True)
class Softmax(Relaxation):
    """w_{e,k} = exp(alpha_{e,k}) / sum_k' exp(alpha_{e,k'}), per row (DARTS, arXiv:1806.09055, eq. 2).

    Args:
        none: Whether each edge of a cell also has a logit for the zero operation. It takes part in the
            softmax, so an edge may fade away, and is never derived. It is column 0 of the logits.

    A choice of a subset has weights that sum to the number chosen, `n_chosen * softmax`; one of any
    non-empty set includes each input with probability `sigmoid(alpha)`.
    """

    none: bool = True

    def has_none(self, group: Group) -> bool:
        """Return whether a group's logits have a column for the zero operation, column 0."""
        return self.none and group.kind == "cell"

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = group.shape
        return rows, columns + self.has_none(group)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        alive = alive_mask(group, logits)
        if group.kind == "any_subset":
            return logits.sigmoid() * alive
        if not self.has_none(group):
            return masked_softmax(logits, alive)
        with_none = torch.nn.functional.pad(alive, (1, 0), value=True)
        return masked_softmax(logits, with_none)[:, 1:]

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        weights = self.probabilities(group, logits)
        return Mixture(weights * group.n_chosen if group.n_chosen else weights)


@dataclass(frozen=True)
class GreedySoftmax(Softmax):
    """Softmax in which a row with one candidate left has weight one and no gradient.

    A choice of a subset has the mixture of `Softmax`.
    """

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        weights = super().mixture(group, logits, moment).weights
        if group.is_subset:
            return Mixture(weights)
        alive = alive_mask(group, weights)
        decided = alive.sum(dim=1, keepdim=True) == 1
        return Mixture(torch.where(decided, alive.to(weights.dtype), weights))


def masked_softmax(logits: Tensor, alive: Tensor) -> Tensor:
    """Return the softmax of each row over its alive entries; all other entries are zero."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~alive, lowest).softmax(dim=-1) * alive


def alive_mask(group: Group, like: Tensor) -> Tensor:
    """Return which candidates have not been pruned, (rows, columns), boolean, on the device of `like`."""
    return torch.tensor(group.alive, device=like.device)


def alive_logits(group: Group, logits: Tensor) -> Tensor:
    """Return which logits are of candidates that are there, boolean in their shape.

    Columns before those of the candidates, as of the zero operation, are.
    """
    alive = alive_mask(group, logits)
    return torch.nn.functional.pad(alive, (logits.shape[1] - alive.shape[1], 0), value=True)


def running(group: Group, mixture: Mixture) -> Tensor:
    """Return which candidates a mixture runs, (rows, columns), boolean."""
    alive = torch.tensor(group.alive)
    return alive if mixture.active is None else alive & torch.tensor(mixture.active)


def offered_mask(group: Group, like: Tensor) -> Tensor:
    """Return which candidates a row has or had before pruning, (rows, columns), on the device of `like`."""
    rows, columns = group.shape
    ranks = [range(columns) if group.topology is None else group.cell.ranks(row) for row in range(rows)]
    return torch.tensor([[k in row for k in range(columns)] for row in ranks], device=like.device)
