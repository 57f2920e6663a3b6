"""SDARTS: weights trained under perturbed mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spacelang.errors import require_integer, require_one_of
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Rate,
    Softmax,
    alive_logits,
    alive_mask,
    require_rate,
    untouched,
)


@dataclass(frozen=True, kw_only=True)
class SDARTS(Differentiable):
    """Train the weights under perturbed mixtures, so that the loss is smooth in the mixture.

    A step of the weights computes with clip(softmax(alpha) + delta), |delta| <= eps: probabilities, the zero
    operation's too, are perturbed and brought back to the simplex. eps rises from its first number by the
    same amount every epoch, and would reach the second after the last. Steps of the logits compute with
    softmax(alpha). It helps where deriving the architecture costs DARTS much of its accuracy.

    Args:
        perturbation: "random" draws delta uniformly. "adversarial" lets it raise the loss of the training
            batch in `steps` steps, for that many more passes.
        eps: First number, and the number after the last epoch; or one for all epochs.
        steps: Steps of the adversary, each of 2 eps / steps along the sign of the gradient.
        none: Zero operation, as in `DARTS`.

    Source: SDARTS, Chen and Hsieh 2020, arXiv:2002.05283, and the authors' code.
    """

    perturbation: Literal["random", "adversarial"] = "random"
    eps: Rate = (0.03, 0.3)
    steps: int = 7
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("perturbation", self.perturbation, ("random", "adversarial"))
        require_rate("eps", self.eps, least=0, most=1)
        require_integer("steps", self.steps, least=1)

    @property
    def relaxation(self) -> Softmax:
        return PerturbedSoftmax(self.none, self.eps) if self.perturbation == "random" else Softmax(self.none)

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        kind = GradientSearch if self.perturbation == "random" else AdversarialSearch
        return kind(self, supernet, **settings)


def eps_at(eps: Rate, moment: Moment) -> float:
    """Return eps_e = first + (last - first) e / epochs."""
    if not isinstance(eps, tuple | list):
        return eps
    return eps[0] + (eps[1] - eps[0]) * moment.epoch / moment.epochs


def clipped(perturbed: Tensor) -> Tensor:
    """Return rows brought back to the simplex: clamped to [0, 1] and divided by their sums.

    A row that would be all zero has one at the entry that was largest.
    """
    clamped = perturbed.clamp(0, 1)
    empty = clamped.sum(dim=1, keepdim=True) == 0
    largest = torch.nn.functional.one_hot(perturbed.argmax(dim=1), perturbed.shape[1]).to(clamped)
    clamped = torch.where(empty, largest, clamped)
    return clamped / clamped.sum(dim=1, keepdim=True)


def noise(like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Return U(-eps, eps) in the shape of a table."""
    return (eps * (2 * torch.rand(like.shape, generator=generator) - 1)).to(like)


def brought_back(group: Group, perturbed: Tensor) -> Tensor:
    """Return perturbed probabilities of a group as probabilities; of any set they are independent."""
    perturbed = perturbed.masked_fill(~alive_logits(group, perturbed), -torch.inf)
    return perturbed.clamp(0, 1) if group.kind == "any_subset" else clipped(perturbed)


def as_mixture(group: Group, probabilities: Tensor) -> Mixture:
    """Return the mixture of probabilities, of which those of a cell may begin with the zero operation's."""
    weights = probabilities[:, -len(group.columns) :] * alive_mask(group, probabilities)
    return Mixture(weights * group.n_chosen if group.n_chosen else weights)


@dataclass(frozen=True)
class PerturbedSoftmax(Softmax):
    """p = clip(softmax(alpha) + delta) in steps of the weights, delta ~ U(-eps, eps) per entry.

    Args:
        none: See `Softmax`.
        eps: See `SDARTS`.
    """

    eps: Rate = (0.03, 0.3)

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if moment.phase == "logits":
            return super().mixture(group, logits, moment)
        table = whole_table(self, group, logits)
        delta = noise(table, eps_at(self.eps, moment), moment.generator)
        return as_mixture(group, brought_back(group, table + delta))


def whole_table(relaxation: Softmax, group: Group, logits: Tensor) -> Tensor:
    """Return probabilities with those of the zero operation in column 0, where there is one."""
    table = relaxation.probabilities(group, logits)
    if not relaxation.has_none(group):
        return table
    return torch.cat([1 - table.sum(dim=1, keepdim=True), table], dim=1)


class AdversarialSearch(GradientSearch):
    """A search whose weights are trained against an adversary."""

    strategy: SDARTS

    def mix_weights(self, batch: Any, batch_idx: int) -> None:
        """Set the mixture that the adversary found for a training batch, the same on every rank."""
        groups, relaxation = self.supernet.groups, self.relaxation
        assert isinstance(relaxation, Softmax)
        logits = self.parameters.logits
        with torch.no_grad():
            tables = {label: whole_table(relaxation, groups[label], p) for label, p in logits.items()}

        def loss(perturbed: Mapping[str, Tensor]) -> Tensor:
            self.compute_with({label: as_mixture(groups[label], p) for label, p in perturbed.items()})
            return self.training.loss(batch, batch_idx)

        with untouched(self.training.module, self.supernet):
            self.training.module.eval()
            found = attack(
                loss,
                tables,
                groups,
                eps=eps_at(self.strategy.eps, self.moment),
                steps=self.strategy.steps,
                generator=self.moment.generator,
                mean=self.training.mean,
            )
        mixtures = {label: as_mixture(groups[label], p) for label, p in found.items()}
        self.compute_with(self.altered(mixtures, "weights"))


def attack(
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    tables: Mapping[str, Tensor],
    groups: Mapping[str, Group],
    *,
    eps: float,
    steps: int,
    generator: torch.Generator | None,
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[str, Tensor]:
    """Return probabilities within eps of `tables` that raise a loss, or `tables` where they do not.

    Projected gradient ascent: p <- p + (2 eps / steps) sign(dL/dp), then p <- clip(p0 + clamp(p - p0)).

    Args:
        loss: Loss of tables of probabilities.
        tables: p0 by group label, (rows, columns).
        groups: Groups of the tables.
        eps: Largest change of an entry before it is brought back to the simplex.
        steps: Number of steps.
        generator: Draws the first change, U(-eps, eps); None begins at `tables`.
        mean: Averages a tensor over processes.

    Source: SDARTS, arXiv:2002.05283, and the authors' code.
    """
    p = dict(tables)
    if generator is not None:
        p = {x: brought_back(groups[x], t + noise(t, eps, generator)) for x, t in tables.items()}
    for _ in range(steps):
        leaves = {label: table.detach().requires_grad_() for label, table in p.items()}
        slopes = _slopes(loss(leaves), list(leaves.values()))
        for (label, table), slope in zip(leaves.items(), slopes, strict=True):
            moved = table.detach() + 2 * eps / steps * mean(slope).sign()
            change = (moved - tables[label]).clamp(-eps, eps)
            p[label] = brought_back(groups[label], tables[label] + change)
    with torch.no_grad():
        rises = float(mean(loss(p).detach())) >= float(mean(loss(tables).detach()))
    return p if rises else dict(tables)


def _slopes(loss: Tensor, tables: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(loss, tables, allow_unused=True, materialize_grads=True)
