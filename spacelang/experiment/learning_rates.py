"""Learning rates that are changed when a fit begins, and those of a resumed run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


class PresentLearningRates(pl.Callback):
    """A callback that continues a run with the learning rates of the present evaluator.

    A checkpoint also holds the learning rates, so that a run whose rate was changed would go on with the old
    one. Where the rate that an optimiser begins with is not the one it began with, its rates and those of its
    schedulers are multiplied by the quotient of the two. Equal rates are not touched. It must come before
    callbacks that change rates when a fit starts.
    """

    def __init__(self) -> None:
        self._now: list[list[float]] = []
        self._before: list[list[float]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the rates with which the optimisers were made."""
        self._now = [[float(group["lr"]) for group in o.param_groups] for o in trainer.optimizers]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adapt what was loaded from a checkpoint."""
        if [len(rates) for rates in self._before] != [len(rates) for rates in self._now]:
            return  # a new run, or other optimisers, which Lightning refuses
        for optimizer, before, now in zip(trainer.optimizers, self._before, self._now, strict=True):
            factors = [new / old if old else 1.0 for old, new in zip(before, now, strict=True)]
            multiply_rates(trainer, optimizer, factors)
            if before != now:
                rank_zero_info(f"Resumed with the learning rates {now} in place of {before}.")
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rates with which the optimisers were made."""
        return {"rates": self._now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._before = state["rates"]


def multiply_rates(trainer: pl.Trainer, optimizer: Any, factors: list[float]) -> None:
    """Multiply the learning rates of an optimiser and of its schedulers.

    Args:
        trainer: Trainer that has the schedulers.
        optimizer: One of its optimisers.
        factors: Factor of each parameter group; 1 leaves it as it is, to the last bit.
    """
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        if factor != 1:
            group.update({name: group[name] * factor for name in _RATES if name in group})
    for scheduler in _schedulers(trainer, optimizer):
        _scale(scheduler, factors)


def _schedulers(trainer: pl.Trainer, optimizer: Any) -> Iterator[Any]:
    """Yield the schedulers of an optimiser, also those inside others."""
    for config in trainer.lr_scheduler_configs:
        outer: Any = config.scheduler
        if getattr(outer, "optimizer", None) is optimizer:
            yield from (outer, *getattr(outer, "_schedulers", ()))


def _scale(scheduler: Any, factors: list[float]) -> None:
    for name in ("base_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list) and len(rates) == len(factors):
            setattr(scheduler, name, [rate * factor for rate, factor in zip(rates, factors, strict=True)])
