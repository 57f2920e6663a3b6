"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from ..errors import SpaceError, quoted
from ..files import atomic_file
from ..finite import not_finite

_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step")


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
        SpaceError: The checkpoint is damaged, lacks a part, or holds NaN or anything but plain data.
    """
    try:
        _check_sums(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    if lacking := [part for part in _PARTS if part not in checkpoint]:
        raise _unusable(path, f"lacks {quoted(lacking)}")
    if broken := not_finite(checkpoint["state_dict"], infinite=False):
        raise _unusable(path, f"holds NaN in {quoted(broken, 6)}")
    return checkpoint


def search_state(checkpoint: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Return the state that a search, a callback named `key`, has in a checkpoint.

    Raises:
        SpaceError: There is none, or it holds NaN.
    """
    if key not in checkpoint["callbacks"]:
        raise _unusable(path, f"lacks the state of the search, {key!r}")
    state: dict[str, Any] = checkpoint["callbacks"][key]
    if broken := not_finite(dict(_tensors(state)), infinite=False):
        raise _unusable(path, f"holds NaN in {quoted(broken, 6)}")
    return state


def require_weights(checkpoint: Mapping[str, Any], module: pl.LightningModule, path: Path) -> None:
    """Raise unless a checkpoint has every weight of a module that loads strictly."""
    lacking = [name for name in module.state_dict() if name not in checkpoint["state_dict"]]
    if lacking and module.strict_loading:
        raise _unusable(path, f"lacks the weights {quoted(lacking, 6)}")


@contextmanager
def lacking_explained(path: Path) -> Iterator[None]:
    """Raise a missing key of a search's state as a SpaceError that names the checkpoint."""
    try:
        yield
    except KeyError as error:
        raise _unusable(path, f"lacks {error} in the state of the search") from error


def _unusable(path: Path, why: str) -> SpaceError:
    return SpaceError(
        f"the checkpoint {path} {why}. Put back a copy of it, or delete it to begin again in its folder."
    )


def _check_sums(path: Path) -> None:
    """Compare the records of the file, a zip archive, with the checksums in it; torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged!r} in it is wrong")


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts and lists with their places."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _tensors(value, f"{name}/{key}" if name else str(key))


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
