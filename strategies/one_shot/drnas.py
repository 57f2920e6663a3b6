"""DrNAS: mixtures drawn from Dirichlet distributions, and a search that widens and prunes in stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spacelang import ModelSpace, SpaceError, Supernet
from spacelang.errors import require_number
from spacelang.supernet import Group

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Phase,
    Softmax,
    alive_mask,
    offered_mask,
    operations,
)
from .partial import check_partial, partial_supernet, widen


@dataclass(frozen=True, kw_only=True)
class DrNAS(Differentiable):
    """Search distributions over mixtures: theta_e ~ Dir(beta_e) with beta_e = elu(alpha_e) + 1.

    Each pass computes with a sample, and alpha follows the pathwise gradient of E[L_val(w, theta)]. An anchor
    holds beta near one, the uniform distribution: by default the distance in alpha, as weight decay;
    `DrNAS(weight_decay=0.0, kl_weight=1e-3)` has the divergence instead. An architecture keeps the candidates
    of the largest softmax(alpha).

    A search may have stages, each with wider operations of fewer kinds, as
    `DrNAS(partial_channels=(6, 4), operations=(4,))`, the paper's on CIFAR-10 with 36 channels and 20 cells.
    Between two, every edge of a cell, and every layer choice, keeps its operations of largest alpha; the
    alphas of the others become zero. Weights, statistics and the states of optimisers continue; new channels
    are copies of random old ones, which changes the function the network computes. A stage is a fit of its
    own, with the evaluator's `max_epochs`, and begins with `warmup_epochs`.

    Args:
        partial_channels: K of each stage: the operations of cells have 1/K of the channels, as in `PCDARTS`
            (without its edge weights); 1 for all.
        operations: Numbers of operations kept after each stage but the last.
        warmup_epochs: Epochs of every stage that train weights alone; 10 of 25 in the paper.
        kl_weight: Factor of sum_e KL(Dir(beta_e) || Dir(1)) in the loss of the logits. The authors' code has
            1e-3, and then no weight decay. As in it, pruned candidates stay in the sum: their alphas begin
            the next stage as zero, and the divergence goes on moving them.
        carry_optimizers: Whether momentum, learning-rate schedules and the moments of the logits continue
            from stage to stage, as in the authors' code. A schedule must then span the epochs of all stages,
            such as `CosineAnnealingLR(optimizer, 50)` for two stages of 25.

    Source: DrNAS, Chen et al. 2021, arXiv:2006.10355, and the authors' code.
    """

    partial_channels: tuple[int, ...] = (1,)
    operations: tuple[int, ...] = ()
    learning_rate: float = 6e-4
    warmup_epochs: int = 10
    kl_weight: float = 0.0
    carry_optimizers: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("kl_weight", self.kl_weight, least=0)
        for name in ("partial_channels", "operations"):
            numbers = getattr(self, name)
            are_counts = isinstance(numbers, tuple) and all(type(n) is int and n >= 1 for n in numbers)
            if not are_counts or sorted(numbers, reverse=True) != list(numbers):
                raise SpaceError(
                    f"{name}={numbers!r} must be a tuple of integers of at least 1 that do not rise."
                )
        if len(self.operations) != len(self.partial_channels) - 1:
            raise SpaceError(
                f"operations={self.operations!r} must have one entry less than "
                f"partial_channels={self.partial_channels!r}, which has one for each stage."
            )

    @property
    def stages(self) -> int:
        return len(self.partial_channels)

    @property
    def carries_optimizers(self) -> bool:
        return self.carry_optimizers

    @property
    def relaxation(self) -> Dirichlet:
        return Dirichlet(none=False)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        if stage == 0:  # an error of a later stage should not wait for it
            for later in self.partial_channels[1:]:
                check_partial(space, later)
        return partial_supernet(space, self.partial_channels[stage])

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        if phase == "logits" and self.kl_weight:
            for label, logits in search.parameters.logits.items():
                group = search.supernet.groups[label]
                if not group.is_subset:
                    offered = offered_mask(group, logits)
                    loss = loss + self.kl_weight * kl_to_uniform(concentration(logits), offered).sum()
        return loss

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        search = super().make_search(supernet, previous, **settings)
        if previous is not None:
            proceed(previous, search, self.operations[search.stage - 1])
        return search


def proceed(previous: GradientSearch, search: GradientSearch, kept: int) -> None:
    """Begin `search` where that of the stage before ended, with `kept` candidates of each edge or layer."""
    searched = operations(search.supernet)
    masks = {}
    for label, logits in previous.parameters.logits.items():
        alpha = logits.detach().cpu()
        mask = alive_mask(previous.supernet.groups[label], alpha)
        if label in searched:
            mask = mask & largest(alpha.masked_fill(~mask, -torch.inf), kept)
        masks[label] = mask
    carries = search.strategy.carries_optimizers
    search.parameters.continue_from(previous.parameters, masks, moments=carries)
    search.supernet.prune({label: mask.tolist() for label, mask in masks.items() if label in searched})
    copied = widen(previous.supernet, search.supernet, search.moment.generator)
    search.continue_optimizers(previous, copied)


def largest(scores: Tensor, count: int) -> Tensor:
    """Return which entries are among the `count` largest of their row, the first of equal ones; boolean."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :count], True)


@dataclass(frozen=True)
class Dirichlet(Softmax):
    """theta_e ~ Dir(beta_e) per row, over the candidates that are left.

    A choice of a set has the mixture of `Softmax`.
    """

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits)
        alive = alive_mask(group, logits)
        beta = concentration(logits) * alive
        theta: Tensor = DirichletSample.apply(beta.cpu(), moment.generator)  # where the generator is
        return Mixture(theta.to(logits.device).masked_fill(~alive, 0))


def concentration(alpha: Tensor) -> Tensor:
    """Return beta = elu(alpha) + 1."""
    return F.elu(alpha) + 1


class DirichletSample(torch.autograd.Function):
    """theta ~ Dir(beta) per row with its pathwise derivative; beta may be 0, and theta then is.

    `torch.distributions.Dirichlet` with a generator of one's own.
    """

    @staticmethod
    def forward(ctx: Any, beta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw, (rows, columns)."""
        theta: Tensor = torch._sample_dirichlet(beta, generator)
        ctx.save_for_backward(theta, beta)
        return theta

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """d theta_j / d beta_i = g_i (delta_ij - theta_j), g_i from the beta-distributed theta_i."""
        theta, beta = ctx.saved_tensors
        g = torch._dirichlet_grad(theta, beta, beta.sum(dim=-1, keepdim=True).expand_as(beta))
        return g * (gradient - (theta * gradient).sum(dim=-1, keepdim=True)), None


def kl_to_uniform(beta: Tensor, offered: Tensor | None = None) -> Tensor:
    """Return KL(Dir(beta) || Dir(1)) of each row, (rows,); 0 of a row without candidates.

    Args:
        beta: Concentrations, (rows, columns).
        offered: Candidates that a row has, boolean, (rows, columns); None for all.
    """
    among = torch.ones_like(beta) if offered is None else offered.to(beta.dtype)
    count, total = among.sum(dim=1), (beta * among).sum(dim=1)
    count, total = (torch.where(count > 0, x, torch.ones_like(x)) for x in (count, total))
    normaliser = total.lgamma() - count.lgamma() - (beta.lgamma() * among).sum(dim=1)
    return normaliser + (among * (beta - 1) * (beta.digamma() - total.digamma()[:, None])).sum(dim=1)
