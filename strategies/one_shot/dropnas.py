"""DropNAS: operations dropped in two groups, weights and logits trained together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.errors import require_all, require_number
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Softmax,
    alive_logits,
    alive_mask,
    masked_softmax,
    operations,
    skips,
)

_MOVED = 1e-7  # gradients of logits below are taken for zero


@dataclass(frozen=True, kw_only=True)
class DropNAS(Differentiable):
    """Search on a single level, each pass without some operations of every edge.

    Operations with weights and operations without form a group each, skip connections and the zero
    operation among the latter. Each pass drops each operation with probability p, p^n = `drop` for a group
    of n, so that no group learns at the cost of the other; at least one of a group stays. The softmax is
    over what stays. In the end each node keeps the edges whose operation has the largest logit, before any
    softmax, as in the authors' code. It needs no validation data; prefer two levels where the training
    data are learnt by heart.

    Every batch has two steps of both optimisers: one along the loss, one along the decay of those weights
    and logits that got a gradient. Then the logits that stayed are shifted so that the probabilities of
    those that were dropped are what they were. Set no weight decay in your optimizer.

    Args:
        drop: Probability that a whole group would be dropped, the r of the paper.
        decay: Factor of the sum of squares of weights that took part.
        logits_decay: Factor of the sum of squares of logits that took part.
        none: Zero operation, as in `DARTS`.

    Source: DropNAS, IJCAI 2020, and the authors' code.
    """

    drop: float = 3e-5
    decay: float = 3e-4
    logits_decay: float = 1e-3
    weight_decay: float = 0.0
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("drop", self.drop, least=0, below=1)
        require_all(require_number, self, "decay", "logits_decay", least=0)

    @property
    def relaxation(self) -> DropSoftmax:
        return DropSoftmax(self.none, self.drop)

    @property
    def single_level(self) -> bool:
        return True

    @property
    def samples_paths(self) -> bool:
        return True

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> DropSearch:
        relaxation = DropSoftmax(self.none, self.drop, with_weights(supernet), self.warmup_epochs)
        return DropSearch(self, supernet, relaxation=relaxation, **settings)


def with_weights(supernet: Supernet) -> dict[str, list[bool]]:
    """Return by label which candidates of cells and layer choices have weights and are no skip."""
    skipping, found = skips(supernet), {}
    for label, table in operations(supernet).items():
        skipped = skipping.get(label, ())
        found[label] = [
            k not in skipped and any(True for row in table for m in row[k] for _ in m.parameters())
            for k in range(len(supernet.groups[label].columns))
        ]
    return found


@dataclass(frozen=True)
class DropSoftmax(Softmax):
    """Softmax over the candidates that were not dropped; probabilities are exp(alpha) up to a factor.

    Args:
        none: See `Softmax`.
        drop: Probability that a whole group would be dropped.
        learnable: Candidates with weights, by label of the groups whose candidates may be dropped.
        warmup: Epochs at the start that drop nothing.

    Attributes:
        kept: Entries that stayed in the last mixtures, by group label, boolean in the shape of the logits.
    """

    drop: float = 3e-5
    learnable: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    warmup: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        if group.kind != "cell":
            return super().probabilities(group, logits)
        table = logits[:, -len(group.columns) :].masked_fill(~alive_mask(group, logits), -torch.inf)
        return (table - table.max()).exp()

    def distribution(self, group: Group, logits: Tensor) -> Tensor:
        if group.kind != "cell":
            return super().distribution(group, logits)
        return masked_softmax(logits[:, -len(group.columns) :], alive_mask(group, logits))

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.label not in self.learnable:
            return super().mixture(group, logits, moment)
        learnable = torch.tensor([*[False] * self.has_none(group), *self.learnable[group.label]])
        there = alive_logits(group, logits)
        drop = self.drop if moment.epoch >= self.warmup else 0.0
        kept = stay(there.cpu(), learnable, drop, moment.generator).to(logits.device)
        self.kept[group.label] = kept
        columns = slice(-len(group.columns), None)
        return Mixture(masked_softmax(logits, kept)[:, columns], kept[:, columns].tolist())


def stay(there: Tensor, learnable: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Draw which candidates of each row stay, (rows, columns), boolean.

    Args:
        there: Candidates that are not pruned, (rows, columns).
        learnable: Which candidates are of the one group, (columns,); the rest are of the other.
        drop: Probability that all of a group would be dropped, were such draws not repeated.
        generator: Source of the draws.
    """
    kept = torch.zeros_like(there)
    for group in (~learnable, learnable):
        members = there & group
        counts = members.sum(dim=1, keepdim=True)
        p = drop ** (1 / counts.clamp_min(1))
        empty = counts[:, 0] > 0
        while empty.any():
            draws = (torch.rand(there.shape, generator=generator) >= p) & members
            kept |= draws & empty[:, None]
            empty = empty & ~draws.any(dim=1)
    return kept


def shifted(before: Tensor, after: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """Return logits in which those that stayed are shifted by k, so that the others' probabilities stay.

    k = ln( R / (1 - R) * sum_dropped exp(a) / sum_kept exp(a) ), R the share of those that stayed before.
    Rows in which nothing was dropped stay as they are.

    Args:
        before, after: Logits before and after a step, (rows, columns).
        kept, dropped: Which of them stayed and which did not, boolean; pruned ones are neither.
    """
    log_r, log_rest = (_log_mass(before, mask) for mask in (kept, dropped))
    k = log_r - log_rest + _log_mass(after, dropped) - _log_mass(after, kept)
    moved = kept & dropped.any(dim=1, keepdim=True)
    return torch.where(moved, after + k, after)


def _log_mass(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, -torch.inf).logsumexp(dim=1, keepdim=True)


class DropSearch(GradientSearch):
    """A search with a second step along the decay of what got a gradient."""

    strategy: DropNAS

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse accumulation: a shift belongs to the draw of one batch."""
        super().on_train_start(trainer, pl_module)
        if trainer.accumulate_grad_batches != 1:
            raise SpaceError("DropNAS shifts logits after every batch; set accumulate_grad_batches=1.")

    def step_jointly(self) -> None:
        """Step along the loss; remember where the logits were, and which of them took part."""
        logits = self.parameters.logits
        self._before = {label: p.detach().clone() for label, p in logits.items()}
        self._took_part = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in logits.values()]
        super().step_jointly()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step along the decay, then shift the logits that stayed."""
        decay_weights(trainer.optimizers, self.strategy.decay, trainer.gradient_clip_val)
        if not self._joint:  # an epoch that trains weights alone
            return
        groups, logits = self.supernet.groups, self.parameters.logits
        moved = [self.training.mean(size) > _MOVED for size in self._took_part]
        self.step_along(
            [
                2 * self.strategy.logits_decay * p.detach() * m
                for p, m in zip(logits.values(), moved, strict=True)
            ]
        )
        relaxation = self.relaxation
        assert isinstance(relaxation, DropSoftmax)
        with torch.no_grad():
            for label, kept in relaxation.kept.items():
                dropped = alive_logits(groups[label], kept) & ~kept
                p = logits[label]
                p.copy_(shifted(self._before[label], p, kept, dropped))


def decay_weights(
    optimizers: Iterable[torch.optim.Optimizer], decay: float, clip: float | None = None
) -> None:
    """Take a step along the gradient of decay * ||w||^2, w the weights that have a gradient of the loss.

    Weights without one, and their moments, rest.

    Args:
        optimizers: Optimisers of the weights.
        decay: Factor of the sum of squares.
        clip: Largest norm of the gradient; None for no limit.
    """
    for optimizer in optimizers:
        weights: list[nn.Parameter] = [w for group in optimizer.param_groups for w in group["params"]]
        for w in weights:
            took_part = w.grad is not None and bool(w.grad.any())
            w.grad = 2 * decay * w.detach() if took_part else None
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
