"""Evaluator with the weights of a trained supernet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from spacelang.arguments import KnownArguments
from spacelang.errors import SpaceError, require_integer
from spacelang.language import Architecture, architecture_of, require_decided
from spacelang.quiet import captured_log
from spacelang.randomness import global_generators_kept
from spacelang.supernet import Supernet, recalibrate
from spacelang.trials import Objective, Reporter, Trial


@runtime_checkable
class Validating(Protocol):
    """An evaluator that trains a model, or only validates it: a `Lightning`, or one that inherits it."""

    train_dataloaders: Any

    def fit(self, model: nn.Module, *, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
        """Train a model in place."""
        ...

    def validate(self, model: nn.Module, *, callbacks: Sequence[pl.Callback] = ()) -> dict[str, float]:
        """Return validation metrics."""
        ...

    def training_loaders(self) -> Any:
        """Return the training loaders."""
        ...

    def for_trial(self, directory: Path, trial: Trial) -> Any:
        """Return the same evaluator for one trial."""
        ...


class Inherited(KnownArguments):
    """An evaluator that measures an architecture with a supernet's weights.

    The weights of its path are copied and, if asked, trained a little further. Batch-norm statistics are
    estimated again on training batches, and the validation metrics are those of the evaluator's own
    LightningModule. The supernet and the global generators are left as they were.

    Args:
        supernet: A trained supernet, such as `experiment.supernet`.
        evaluator: A `Lightning` or `Classification`, for its LightningModule, data and Trainer settings.
        calibration_batches: Number of training batches for the statistics; 0 keeps those of the supernet,
            which mix all its paths.
        finetune_steps: Number of steps of the module's own optimiser on training batches before, on the copy
            alone; at most as many as the evaluator's `max_epochs` have. A few adapt shared weights to the
            architecture, at the price of as many training steps for each.

    Raises:
        SpaceError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        supernet: Supernet,
        evaluator: Validating,
        *,
        calibration_batches: int = 20,
        finetune_steps: int = 0,
    ) -> None:
        if not isinstance(supernet, Supernet):
            raise SpaceError(
                f"Inherited takes a trained Supernet, such as experiment.supernet; got a "
                f"{type(supernet).__name__}."
            )
        if not isinstance(evaluator, Validating):
            raise SpaceError(
                f"Inherited measures with a Lightning or Classification evaluator; got a "
                f"{type(evaluator).__name__}."
            )
        require_decided(evaluator, "Inherited measures all architectures in one way; pass")
        require_integer("calibration_batches", calibration_batches, least=0)
        require_integer("finetune_steps", finetune_steps, least=0)
        self.supernet = supernet
        self.evaluator = evaluator
        self.calibration_batches = calibration_batches
        self.finetune_steps = finetune_steps

    @property
    def default_objective(self) -> Objective | None:
        """Objective of the evaluator."""
        objective: Objective | None = getattr(self.evaluator, "default_objective", None)
        return objective

    def for_trial(self, directory: Path, trial: Trial) -> Inherited:
        """See `Lightning.for_trial`."""
        twin = copy(self)
        twin.evaluator = self.evaluator.for_trial(directory, trial)
        return twin

    def evaluate(
        self, model: nn.Module | Mapping[str, Any], report: Reporter | None = None
    ) -> dict[str, float]:
        """Return the validation metrics of an architecture.

        Args:
            model: An architecture dict; or a model that was frozen or built with one, whose own weights are
                not used.
            report: Called once with the metrics and 0.

        Raises:
            SpaceError: The architecture is invalid or unknown, or no validation metric was logged.
        """
        callbacks = [_Recalibration(self.evaluator, self.calibration_batches)]
        frozen = self.supernet.freeze(_architecture(model))
        with global_generators_kept():
            if self.finetune_steps:
                self.evaluator.fit(frozen, callbacks=[_StopAfter(self.finetune_steps)])
            metrics = self.evaluator.validate(frozen, callbacks=callbacks if self.calibration_batches else ())
        if report is not None:
            report(metrics, 0)
        return metrics


def _architecture(model: nn.Module | Mapping[str, Any]) -> Architecture:
    arch = dict(model) if isinstance(model, Mapping) else architecture_of(model)
    if arch is None:
        raise SpaceError(
            f"the architecture of a {type(model).__name__} is not known; pass the dict itself, or a "
            "model from space.freeze(arch) or model_context(arch)."
        )
    return arch


class _StopAfter(pl.Callback):
    """A callback that ends training after some steps of the optimiser."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class _Recalibration(pl.Callback):
    """A callback that estimates batch-norm statistics on training batches before validation."""

    def __init__(self, evaluator: Validating, batches: int) -> None:
        self.evaluator = evaluator
        self.batches = batches

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Estimate the statistics, now that the model is on its device."""

        def forward(batch: Any) -> None:
            with captured_log(pl_module), trainer.precision_plugin.train_step_context():
                pl_module.training_step(_on_device(batch, trainer, pl_module), 0)

        batches = _repeated(self._train_dataloaders(trainer, pl_module), self.batches)
        recalibrate(pl_module, (partial(forward, batch) for batch in batches))

    def _train_dataloaders(self, trainer: Any, pl_module: pl.LightningModule) -> Any:
        if self.evaluator.train_dataloaders is not None:
            return self.evaluator.training_loaders()
        if trainer.datamodule is None:
            return pl_module.train_dataloader()
        trainer.datamodule.setup("fit")  # so far it was set up for validation alone
        return trainer.datamodule.train_dataloader()


def _on_device(batch: Any, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _repeated(loaders: Any, count: int) -> Iterator[Any]:
    """Yield `count` batches, repeating those of the loaders; none if there are none."""
    taken = 0
    while taken < count:
        before = taken
        for batch, _, _ in CombinedLoader(loaders, "max_size_cycle"):
            yield batch
            taken += 1
            if taken == count:
                return
        if taken == before:
            return
