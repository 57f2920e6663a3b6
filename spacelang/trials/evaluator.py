"""Protocols of an evaluator: one method that measures, and others that are found by their presence.

An evaluator has `evaluate(model, report)` (`Evaluator`), or `evaluate_architecture(arch, report)` where it
needs no model (`ArchitectureEvaluator`). It may also have

    fit(model, ...)             trains the supernet of a one-shot search (`TrainingEvaluator`)
    for_trial(directory, trial) writes files, or to the terminal, as one of many (`TrialEvaluator`)
    decisions(), decided(arch)  settings to search: `spacelang.language.Tunable`, which stands where
                                spaces are joined with its decisions
    default_objective           the `Objective` of a search that is told none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from torch import nn

from ..errors import SpaceError
from ..language import Architecture
from .trial import Trial

if TYPE_CHECKING:  # Lightning takes seconds to import
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.plugins.io import CheckpointIO

Reporter: TypeAlias = Callable[[dict[str, float], int], None]
"""Called with the metrics after an epoch and the epoch's number, from 0; may raise to end the training."""


@runtime_checkable
class Evaluator(Protocol):
    """An evaluator that measures a plain model, often by training it."""

    def evaluate(self, model: nn.Module, report: Reporter | None = None) -> Mapping[str, float]:
        """Return metrics by name.

        `report(metrics, epoch)` may be called after each epoch. It may raise to end the training: let that
        exception pass.
        """
        ...


@runtime_checkable
class ArchitectureEvaluator(Protocol):
    """An evaluator that needs no model: a table, or a supernet that has the weights already."""

    def evaluate_architecture(
        self, arch: Architecture, report: Reporter | None = None
    ) -> Mapping[str, float]:
        """Return metrics by name; see `Evaluator.evaluate` for `report`."""
        ...


@runtime_checkable
class TrialEvaluator(Protocol):
    """An evaluator that writes files or to the terminal, and can do so as one of many."""

    def for_trial(self, directory: Path, trial: Trial) -> Any:
        """Return the same evaluator for one trial: it writes below `directory` and not to the terminal.

        Loggers get a run for each trial, with `trial.settings` as hyper-parameters.
        """
        ...


@runtime_checkable
class TrainingEvaluator(Protocol):
    """An evaluator that trains a module with Lightning, so that a one-shot search can be a callback."""

    def lightning_module(self, model: nn.Module) -> LightningModule:
        """Return the LightningModule that trains `model`."""
        ...

    def fit(
        self,
        model: nn.Module,
        *,
        callbacks: Sequence[Callback] = (),
        directory: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        checkpoint_io: CheckpointIO | None = None,
        unused_parameters: bool = False,
    ) -> Trainer:
        """Train `model`; write below `directory` only.

        Args:
            model: Module to train in place.
            callbacks: Callbacks to add to the user's.
            directory: Folder for logs.
            ckpt_path: Checkpoint to continue from.
            checkpoint_io: How checkpoints are written and read, in place of Lightning's way.
            unused_parameters: Whether a step may leave parameters unused, as sampled paths of a supernet do.
        """
        ...


def as_metrics(found: object) -> dict[str, float]:
    """Return metrics as plain numbers.

    Raises:
        SpaceError: They are not a mapping of names to numbers.
    """
    if not isinstance(found, Mapping):
        raise SpaceError(f"an evaluator returns metrics by name; got {found!r}.")
    return {str(name): _number(str(name), value) for name, value in found.items()}


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last by a tensor of several numbers
        pass
    raise SpaceError(f"metrics must be numbers; an evaluator returned {name!r}: {value!r}.")
