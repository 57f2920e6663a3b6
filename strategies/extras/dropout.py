"""Dropout in a supernet: of operations, of edges, of paths, and after skip connections."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.supernet import Group, Supernet

from ..framework.operations import candidates
from ..framework.relaxation import Mixture, Moment
from ..framework.search import Extra, OneShot, check_ends
from ..one_shot.gumbel import annealed


@dataclass(frozen=True)
class _MixtureDropout(Extra):
    """Base of what drops entries of a mixture: each is kept with probability 1 - p, and divided by it.

    Args:
        p: probability in the first and in the last epoch, linear in between.
    """

    p: tuple[float, float]
    drops_candidates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ends("p", self.p)
        for p in self.p:
            _check_probability(p)

    def mixture(self, group: Group, mixture: Mixture, moment: Moment) -> Mixture:
        p = annealed(*self.p, moment.epoch, moment.epochs)
        if p == 0:
            return mixture
        running = _running(group, mixture)
        factors = self.factors(group, running, p, moment.generator)  # (rows, columns)
        active = (running & (factors > 0)).tolist()
        return dataclasses.replace(
            mixture, weights=mixture.weights * factors.to(mixture.weights), active=active
        )

    def factors(self, group: Group, running: Tensor, p: float, generator: torch.Generator) -> Tensor:
        """What to multiply the weights with, (rows, columns), given which candidates run."""
        raise NotImplementedError


@dataclass(frozen=True)
class OperationDropout(_MixtureDropout):
    """Drop candidates at random, anew for every step of the weights and of the logits.

    The weight of a candidate is multiplied by Bernoulli(1 - p) / (1 - p); a dropped one is not executed. Of
    an edge or choice that would lose all its candidates one stays, drawn uniformly; of one that has a
    single candidate nothing is dropped.

    Args:
        p: probability of dropping in the first and in the last epoch, linear in between.
    """

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        self.require_probabilities(strategy)
        if not _runs_several(strategy, supernet):
            raise SpaceError(
                "OperationDropout drops some of the candidates that run together, and "
                f"{type(strategy).__name__} runs one of each choice; leave it out, or use EdgeDropout."
            )

    def factors(self, group: Group, running: Tensor, p: float, generator: torch.Generator) -> Tensor:
        """See `_MixtureDropout`."""
        return _survival(running, p, generator)


@dataclass(frozen=True)
class EdgeDropout(_MixtureDropout):
    """Drop edges of cells at random, anew for every step of the weights and of the logits.

    The weights of an edge are multiplied by Bernoulli(1 - p) / (1 - p); a dropped edge is not executed. Of
    the edges into a node one stays, drawn uniformly, if all would be dropped; of a single one nothing is.

    Args:
        p: probability of dropping in the first and in the last epoch, linear in between.
    """

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        self.require_probabilities(strategy)
        if all(group.kind != "cell" for group in supernet.groups.values()):
            raise SpaceError("EdgeDropout drops edges of cells, and this space has no cell; leave it out.")

    def factors(self, group: Group, running: Tensor, p: float, generator: torch.Generator) -> Tensor:
        """See `_MixtureDropout`."""
        if group.kind != "cell":
            return torch.ones(group.shape)
        edges, entering = running.any(dim=1), map(group.cell.rows_into, group.cell.nodes)
        by_node = [_survival(edges[rows.start : rows.stop], p, generator) for rows in entering]
        return torch.cat(by_node)[:, None].expand(group.shape)


def _survival(running: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Bernoulli(1 - p) / (1 - p) along the last dimension, of which one of those that run always survives."""
    draws = torch.rand(running.shape, generator=generator).where(running, -1)
    # The largest of uniform draws is at a uniformly drawn place: the one to stay if all fall below p.
    kept = (draws >= p) | (draws == draws.amax(dim=-1, keepdim=True))
    several = running.sum(dim=-1, keepdim=True) > 1
    return kept.float() / torch.where(several, 1 - p, 1.0)


def _running(group: Group, mixture: Mixture) -> Tensor:
    """Which candidates a mixture runs, (rows, columns), boolean."""
    alive = torch.tensor(group.alive)
    return alive if mixture.active is None else alive & torch.tensor(mixture.active)


def _runs_several(strategy: Any, supernet: Supernet) -> bool:
    """Whether the weights are trained with more than one candidate of some edge or choice."""
    moment, relaxation = Moment(0, 1, torch.Generator()), strategy.relaxation
    return any(
        bool((_running(group, mixture).sum(dim=1) > 1).any())
        for group in supernet.groups.values()
        for mixture in [relaxation.mixture(group, torch.zeros(relaxation.shape(group)), moment)]
    )


# -- dropout of outputs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScheduledDropPath(Extra):
    """Drop the outputs of candidates for some samples of a batch, more and more as the search goes on.

    In training mode the output of every candidate but `nn.Identity` is multiplied by a mask
    Bernoulli(1 - p) / (1 - p) per sample, with p rising linearly from 0 as `p * epoch / epochs`.

    Args:
        p: what the probability of dropping rises towards.

    Source: NASNet, Zoph et al. 2018, arXiv:1707.07012, in the form DARTS uses.
    """

    p: float

    def __post_init__(self) -> None:
        _check_probability(self.p)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        if all(isinstance(candidate, nn.Identity) for candidate in candidates(supernet)):
            raise SpaceError(
                "ScheduledDropPath drops outputs of the candidates of cells and layer choices, and this "
                "space has none but identities; leave it out."
            )

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        p = self.p * moment.epoch / max(moment.epochs, 1)
        if p == 0 or not candidate.training or isinstance(candidate, nn.Identity):
            return output
        mask = output.new_empty(len(output), *[1] * (output.dim() - 1)).bernoulli_(1 - p)  # (B, 1, ...)
        return output / (1 - p) * mask


@dataclass(frozen=True)
class SkipDropout(Extra):
    """Dropout on the outputs of `nn.Identity` candidates, in training mode, fading away.

    With E epochs, p(e) = p (E - e - 1) / E while weights are trained alone, and p exp(-0.2 (e - warmup))
    from then on.

    Args:
        p: dropout rate.
        warmup_epochs: give the strategy's.

    Source: P-DARTS, Chen et al. 2019, arXiv:1904.12760, section 3.3, as in the authors' code.
    """

    p: float
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        _check_probability(self.p)
        if type(self.warmup_epochs) is not int or self.warmup_epochs < 0:
            raise SpaceError(f"warmup_epochs={self.warmup_epochs!r} must be an integer of at least 0.")

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        if not any(isinstance(candidate, nn.Identity) for candidate in candidates(supernet)):
            raise SpaceError(
                "SkipDropout drops outputs of nn.Identity candidates, and this space has none; leave it out."
            )

    def rate(self, epoch: int, epochs: int) -> float:
        """p(e)."""
        if epoch < self.warmup_epochs:
            return self.p * max(epochs - epoch - 1, 0) / epochs
        return self.p * math.exp(-0.2 * (epoch - self.warmup_epochs))

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        if not isinstance(candidate, nn.Identity):
            return output
        return nn.functional.dropout(output, self.rate(moment.epoch, moment.epochs), candidate.training)


def _check_probability(p: float) -> None:
    if not isinstance(p, int | float) or not 0 <= p < 1:
        raise SpaceError(f"p={p!r}; expected a probability of dropping, at least 0 and below 1.")
