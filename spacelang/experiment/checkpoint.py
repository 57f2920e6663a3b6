"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from ..errors import SpaceError
from ..files import atomic_file


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoint files written beside their target and renamed: the target is the old or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path` atomically."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; it can run no code."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint if it exists."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run onto the CPU.

    Raises:
        SpaceError: The checkpoint is damaged or holds anything but plain data.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise SpaceError(f"the checkpoint {path} cannot be read: {error}") from error
    return checkpoint


def remove_leftovers(folder: Path) -> None:
    """Delete what a kill in the middle of a write left behind."""
    for leftover in folder.glob(".*.ckpt.*.tmp"):
        leftover.unlink()


class EpochCheckpoint(pl.Callback):
    """A callback that saves a checkpoint at the start of every epoch.

    At the start and not at the end: by then schedulers have stepped, and Lightning resumes there exactly.
    It must come before the callbacks that act at the start of an epoch, so that they act again on resume.

    Args:
        path: The only file, replaced each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state in which the previous epoch ended."""
        # Lightning clears these counts just after this hook, but not when it resumes; it would then take the
        # previous epoch's batches for this epoch's and skip it.
        loop = trainer.fit_loop.epoch_loop
        for progress in (
            loop.batch_progress,
            loop.scheduler_progress,
            loop.automatic_optimization.optim_progress,
        ):
            progress.reset_on_run()
        loop.val_loop.batch_progress.total.reset()
        trainer.save_checkpoint(self.path, weights_only=False)


class FinalCheckpoint(pl.Callback):
    """A callback that saves a checkpoint at the end of training; it must come last.

    Args:
        path: The file of `EpochCheckpoint`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path, weights_only=False)
