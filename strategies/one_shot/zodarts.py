"""ZO-DARTS: the hypergradient measured along one random direction."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.errors import require_integer, require_number
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Softmax,
    alive_logits,
    restored,
)


@dataclass(frozen=True, kw_only=True)
class ZODARTS(Differentiable):
    """Estimate how the trained weights follow the logits, by training twice along a random direction.

    Batches come in windows of `rounds`. In each, a copy of the weights trains on the same batches under
    logits shifted by mu u, u a random direction of length one over all logits. Then a validation batch gives

        g = ( <dL/dalpha, u> + <(w_shifted - w) / mu, dL/dw> ) u

    and the logits take their step, one for each window. The second term is that of `DARTS(order=2)` over
    `rounds` steps in place of one, for twice the passes of the weights in place of four of the logits.
    Batches after the last whole window of an epoch move weights alone. Estimates along one direction are
    noisy: a search of few windows had better use DARTS.

    Args:
        rounds: Batches in a window.
        shift: mu is this times the norm of the logits of the first cell; without cells, of those of all
            choices that have the candidates of the first (the authors' table of all edges).
        none: Zero operation, as in `DARTS`; NAS-Bench-201 has one of its own.

    Source: ZO-DARTS, ICASSP 2023, and the authors' code.
    """

    rounds: int = 10
    shift: float = 0.005
    learning_rate: float = 1.5e-2
    none: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("rounds", self.rounds, least=1)
        require_number("shift", self.shift, above=0)
        require_number("init_scale", self.init_scale, above=0)
        self.refuse_settings("steps the logits after `rounds` batches", "weights_first", "update_every")

    @property
    def relaxation(self) -> Softmax:
        return Softmax(self.none)

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> ZerothOrderSearch:
        return ZerothOrderSearch(self, supernet, **settings)


@dataclass(frozen=True, kw_only=True)
class ZODARTSPlus(ZODARTS):
    """ZO-DARTS with mixtures sparsemax(alpha / T), T falling by steps: weak candidates have no weight.

    Candidates without weight do not run, so later epochs are quicker. Derivation ranks softmax(alpha).

    Args:
        temperature: T of the first epochs.
        cooling: Factor of T.
        cooled_every: Epochs from one multiplication to the next.

    Source: ZO-DARTS+, ESANN 2024, and the authors' code.
    """

    temperature: float = 1.5
    cooling: float = 0.75
    cooled_every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("temperature", self.temperature, above=0)
        require_number("cooling", self.cooling, above=0, most=1)
        require_integer("cooled_every", self.cooled_every, least=1)

    @property
    def relaxation(self) -> Sparsemax:
        return Sparsemax(self.none, self.temperature, self.cooling, self.cooled_every)

    @property
    def samples_paths(self) -> bool:
        return True


@dataclass(frozen=True)
class Sparsemax(Softmax):
    """w = sparsemax(alpha / T), the nearest point of the simplex, per row; T = T_0 cooling^(epoch // every).

    A choice of a subset has the mixture of `Softmax`.
    """

    none: bool = False
    temperature: float = 1.5
    cooling: float = 0.75
    cooled_every: int = 5

    def temperature_at(self, epoch: int) -> float:
        """Return T of an epoch."""
        return self.temperature * self.cooling ** (epoch // self.cooled_every)

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits, moment)
        there = alive_logits(group, logits)
        scores = logits.masked_fill(~there, -1e9) / self.temperature_at(moment.epoch)
        weights = (sparsemax(scores) * there)[:, -len(group.columns) :]
        return Mixture(weights, (weights > 0).tolist())


def sparsemax(z: Tensor) -> Tensor:
    """Return max(z - tau, 0) per row, tau such that rows sum to one.

    Source: Martins and Astudillo 2016, arXiv:1602.02068, algorithm 1.
    """
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(dim=-1)
    k = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    size = (1 + k * ordered > sums).sum(dim=-1, keepdim=True)
    tau = (sums.gather(-1, size - 1) - 1) / size
    return (z - tau).clamp_min(0)


def hypergradient(
    direction: Sequence[Tensor],
    of_logits: Sequence[Tensor | None],
    displacement: Sequence[Tensor],
    of_weights: Sequence[Tensor | None],
) -> Tensor:
    """Return <dL/dalpha, u> + <(w_shifted - w) / mu, dL/dw>, a number.

    Args:
        direction: u, one tensor for each table of logits.
        of_logits: dL/dalpha; None where the loss does not depend on them.
        displacement: (w_shifted - w) / mu, one tensor for each weight.
        of_weights: dL/dw.
    """
    pairs = [*zip(direction, of_logits, strict=True), *zip(displacement, of_weights, strict=True)]
    return torch.stack([(a * b).sum() for a, b in pairs if b is not None]).sum()


def first_table(search: GradientSearch) -> Tensor:
    """Return the logits by whose norm the shift is measured, flat; see `ZODARTS`."""
    groups, logits = search.supernet.groups, search.parameters.logits
    cells = [label for label, group in groups.items() if group.kind == "cell"]
    first = groups[(cells or list(groups))[0]]
    alike = cells[:1] or [label for label, group in groups.items() if group.columns == first.columns]
    return torch.cat([logits[label].detach().flatten() for label in alike])


class ZerothOrderSearch(GradientSearch):
    """A search with a twin of the weights, trained under shifted logits."""

    strategy: ZODARTS

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse accumulation: weights and twin take a step on every batch."""
        super().on_train_start(trainer, pl_module)
        if trainer.accumulate_grad_batches != 1:
            raise SpaceError(
                f"{type(self.strategy).__name__} counts steps of the weights in batches; set "
                "accumulate_grad_batches=1."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let the twin take the step that the weights are about to take."""
        if self.strategy.moves_logits(trainer.current_epoch):
            if batch_idx % self.strategy.rounds == 0:
                self._twin = Twin(self)
            self._twin.step(batch, batch_idx)
        self.mix_weights(batch, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the logits at the end of a window."""
        is_last = (batch_idx + 1) % self.strategy.rounds == 0
        if is_last and self.strategy.moves_logits(trainer.current_epoch):
            twin, logits, rest = self._twin, list(self.parameters.logits.values()), self.resting()
            loss = self._val_loss(batch_idx)
            found = torch.autograd.grad(loss, [*logits, *twin.weights], allow_unused=True)
            of_logits, of_weights = found[: len(logits)], found[len(logits) :]
            along = hypergradient(twin.direction, of_logits, twin.displacement(), of_weights)
            self.watch.see("The loss of the logits' step", loss.detach())
            steps = zip(self.parameters.logits, twin.direction, strict=True)
            self.step_along([None if label in rest else along * u for label, u in steps])

    def resting(self) -> set[str]:
        """Return the labels of logits that rest in this epoch; the direction has zeros for them."""
        return set()


class Twin:
    """A copy of the weights of a search, and of their optimisers without moments, under shifted logits.

    Its passes draw the same random numbers as those of the weights, and leave weights, statistics and
    generators as they were.

    Args:
        search: The search; its generator draws the direction.

    Attributes:
        direction: u, one tensor for each table of logits.
        mu: Length of the shift.
        weights: Weights of the search's module that train.
    """

    def __init__(self, search: ZerothOrderSearch) -> None:
        self.search = search
        rest = search.resting()
        draws = [
            torch.randn(p.shape, generator=search.moment.generator).to(p) * (label not in rest)
            for label, p in search.parameters.logits.items()
        ]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(u) for u in draws]))
        self.direction = [u / length for u in draws]
        self.mu = float(search.strategy.shift * torch.linalg.vector_norm(first_table(search)))
        self.weights = [w for w in search.training.module.parameters() if w.requires_grad]
        self._own = {w: nn.Parameter(w.detach().clone()) for w in self.weights}
        self._optimizers = [self._fresh(optimizer) for optimizer in search.training.trainer.optimizers]

    def _fresh(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return an optimiser of the twin with the present settings of another."""
        inner: Any = getattr(optimizer, "optimizer", optimizer)
        groups = [
            {**group, "params": [self._own[w] for w in group["params"] if w in self._own]}
            for group in inner.param_groups
        ]
        fresh: torch.optim.Optimizer = copy.copy(inner)
        fresh.state, fresh.param_groups = defaultdict(dict), groups
        return fresh

    def step(self, batch: Any, batch_idx: int) -> None:
        """Take a step on a training batch along the mean gradient of all processes, clipped as theirs."""
        search = self.search
        training = search.training
        with restored(training.module, self.weights, search.moment.generator), self._shifted():
            with torch.no_grad():
                for w, own in self._own.items():
                    w.copy_(own)
            search.mix("weights")
            loss = search.strategy.objective(training.loss(batch, batch_idx), search, "weights")
            gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        means = training.mean_where_any(gradients, self.weights)
        for own, gradient in zip(self._own.values(), means, strict=True):
            own.grad = gradient
        if training.trainer.gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(self._own.values(), training.trainer.gradient_clip_val)
        for optimizer in self._optimizers:
            optimizer.step()

    def displacement(self) -> list[Tensor]:
        """Return (w_shifted - w) / mu for each of `weights`."""
        return [(own.detach() - w.detach()) / self.mu for w, own in self._own.items()]

    @contextmanager
    def _shifted(self) -> Iterator[None]:
        """Let logits be alpha + mu u inside."""
        logits = list(self.search.parameters.logits.values())
        before = [p.detach().clone() for p in logits]
        for p, u in zip(logits, self.direction, strict=True):
            p.data.add_(u, alpha=self.mu)
        try:
            yield
        finally:
            for p, value in zip(logits, before, strict=True):
                p.data.copy_(value)
