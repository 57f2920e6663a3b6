"""Dropout in a supernet: operations, edges, paths, and outputs of skip connections."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.supernet import Group, Supernet

from ..framework import (
    Extra,
    LogitsExtra,
    Mixture,
    Moment,
    OneShot,
    Rate,
    candidates,
    rate_at,
    require_rate,
    running,
    runs_several,
)


@dataclass(frozen=True)
class _MixtureDropout(LogitsExtra):
    """Base of extras that drop entries of a mixture: each is kept with probability 1 - p, and divided by it.

    Args:
        p: Probability of dropping: one number, or those of the first and of the last epoch.
    """

    p: Rate
    drops_candidates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_rate("p", self.p, least=0, below=1)

    def mixture(self, group: Group, mixture: Mixture, moment: Moment) -> Mixture:
        p = rate_at(self.p, moment)
        if p == 0:
            return mixture
        runs = running(group, mixture)
        factors = self.factors(group, runs, p, moment.generator)  # (rows, columns)
        active = (runs & (factors > 0)).tolist()
        return dataclasses.replace(
            mixture, weights=mixture.weights * factors.to(mixture.weights), active=active
        )

    def factors(self, group: Group, running: Tensor, p: float, generator: torch.Generator) -> Tensor:
        """Return factors of the weights, (rows, columns), given which candidates run."""
        raise NotImplementedError


@dataclass(frozen=True)
class OperationDropout(_MixtureDropout):
    """Random removal of candidates, drawn again for every step of the weights and of the logits.

    The weight of a candidate is multiplied by Bernoulli(1 - p) / (1 - p); a dropped one is not executed. An
    edge or choice that would lose all its candidates keeps one, drawn uniformly; one that has a single
    candidate keeps it.

    Args:
        p: Probability of dropping: one number, or those of the first and of the last epoch, linear in
            between.
    """

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        if not runs_several(strategy, supernet):
            raise SpaceError(
                "OperationDropout drops some of the candidates that run together, and "
                f"{type(strategy).__name__} runs one of each choice; leave it out, or use EdgeDropout."
            )

    def factors(self, group: Group, running: Tensor, p: float, generator: torch.Generator) -> Tensor:
        """See `_MixtureDropout`."""
        return _survival(running, p, generator)


@dataclass(frozen=True)
class EdgeDropout(_MixtureDropout):
    """Random removal of cells' edges, drawn again for every step of the weights and of the logits.

    The weights of an edge are multiplied by Bernoulli(1 - p) / (1 - p); a dropped edge is not executed.
    A node that would lose all its edges keeps one, drawn uniformly; a single edge stays.

    Args:
        p: Probability of dropping: one number, or those of the first and of the last epoch, linear in
            between.
    """

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
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
    """Return Bernoulli(1 - p) / (1 - p) along the last dimension; one running entry always survives."""
    draws = torch.rand(running.shape, generator=generator).where(running, -1)
    # The largest of uniform draws is at a uniformly drawn place: the one to stay if all fall below p.
    kept = (draws >= p) | (draws == draws.amax(dim=-1, keepdim=True))
    several = running.sum(dim=-1, keepdim=True) > 1
    return kept.float() / torch.where(several, 1 - p, 1.0)


# -- dropout of outputs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScheduledDropPath(Extra[Any]):
    """Random removal of candidates' outputs for some samples of a batch, more and more during the search.

    In training mode the output of every candidate but `nn.Identity` is multiplied by a mask
    Bernoulli(1 - p) / (1 - p) per sample.

    Args:
        p: Probability of dropping. One number is the limit of a rise from 0, `p * epoch / epochs`; two are
            the probabilities in the first and in the last epoch, linear in between.

    Source: NASNet, Zoph et al. 2018, arXiv:1707.07012, in the form DARTS uses.
    """

    p: Rate

    def __post_init__(self) -> None:
        require_rate("p", self.p, least=0, below=1)

    def rate(self, moment: Moment) -> float:
        """Return the probability of an epoch."""
        if isinstance(self.p, tuple | list):
            return rate_at(self.p, moment)
        return self.p * moment.epoch / max(moment.epochs, 1)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        if all(isinstance(candidate, nn.Identity) for candidate in candidates(supernet)):
            raise SpaceError(
                "ScheduledDropPath drops outputs of the candidates of cells and layer choices, and this "
                "space has none but identities; leave it out."
            )

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        p = self.rate(moment)
        if p == 0 or not candidate.training or isinstance(candidate, nn.Identity):
            return output
        mask = output.new_empty(len(output), *[1] * (output.dim() - 1)).bernoulli_(1 - p)  # (B, 1, ...)
        return output / (1 - p) * mask


@dataclass(frozen=True)
class SkipDropout(Extra[Any]):
    """Dropout on the outputs of `nn.Identity` candidates, in training mode, fading away.

    Args:
        p: Dropout rate. One number fades, with E epochs, as p(e) = p (E - e - 1) / E while weights are
            trained alone, and as p exp(-0.2 (e - warmup)) from then on. Two are the rates of the first and of
            the last epoch, linear in between.
        warmup_epochs: The strategy's number.

    Source: P-DARTS, Chen et al. 2019, arXiv:1904.12760, section 3.3, as in the authors' code.
    """

    p: Rate
    warmup_epochs: int = 10
    transforms: ClassVar[tuple[type[nn.Module], ...]] = (nn.Identity,)

    def __post_init__(self) -> None:
        require_rate("p", self.p, least=0, below=1)
        require_integer("warmup_epochs", self.warmup_epochs, least=0)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        if not any(isinstance(candidate, nn.Identity) for candidate in candidates(supernet)):
            raise SpaceError(
                "SkipDropout drops outputs of nn.Identity candidates, and this space has none; leave it out."
            )

    def rate(self, moment: Moment) -> float:
        """Return p(e)."""
        epoch, epochs = moment.epoch, moment.epochs
        if isinstance(self.p, tuple | list):
            return rate_at(self.p, moment)
        if epoch < self.warmup_epochs:
            return self.p * max(epochs - epoch - 1, 0) / epochs
        return self.p * math.exp(-0.2 * (epoch - self.warmup_epochs))

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        if not isinstance(candidate, nn.Identity):
            return output
        return nn.functional.dropout(output, self.rate(moment), candidate.training)
