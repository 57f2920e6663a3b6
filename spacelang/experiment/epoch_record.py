"""Record of a one-shot search, epoch by epoch, for reports and for those who open its folder later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ..errors import SpaceError
from ..language import Architecture
from ..results.course import append
from ..supernet import Supernet
from .protocols import Search

_DIGITS = 5
_BEST = 5


class EpochRecord(pl.Callback):
    """A callback that writes what a search has come to after each epoch; it must come after the search.

    Args:
        path: File of the course.
        search: The search.
        supernet: Its network.
        stage: Number of the stage, from 0.
        on_epoch: Called after each line.
    """

    def __init__(
        self, path: Path, search: Search, supernet: Supernet, stage: int, on_epoch: Callable[[], None]
    ) -> None:
        self.path = path
        self.search = search
        self.supernet = supernet
        self.stage = stage
        self.on_epoch = on_epoch
        self._told: dict[str, int] = {}
        self._begun = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the names of the tables; note what a resumed search has recorded before."""
        self._told = {name: len(values) for name, values in self._lists().items()}
        groups = {
            label: {"rows": list(group.rows), "columns": list(map(str, group.columns))}
            for label, group in self.supernet.groups.items()
        }
        if trainer.is_global_zero:
            append(self.path, {"stage": self.stage, "epochs": trainer.max_epochs, "groups": groups})

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a line."""
        lists = self._lists()
        new = {name: values[self._told.get(name, 0) :] for name, values in lists.items()}
        self._told = {name: len(values) for name, values in lists.items()}
        decisions = new.pop("", [])
        line = {
            "stage": self.stage,
            "epoch": trainer.current_epoch,
            "seconds": round(time.monotonic() - self._begun, 3),
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "tables": {
                label: [[round(p, _DIGITS) for p in row] for row in table]
                for label, table in self.search.tables().items()
            },
            "records": {name: values for name, values in new.items() if values},
            "decisions": decisions,
            "best": derived(self.search, 1),
        }
        if trainer.is_global_zero:
            append(self.path, line)
            self.on_epoch()

    def _lists(self) -> dict[str, list[Any]]:
        """Return what the search's summary lists: its records by name, and its decisions without one."""
        summary = self.search.summary()
        records: Mapping[str, Sequence[float]] = summary.get("records", {})
        return {
            **{name: list(values) for name, values in records.items()},
            "": list(summary.get("decisions", [])),
        }


def write_end(path: Path, search: Search, why: str) -> None:
    """Write the last line of a course: why the search ended, and its best architectures."""
    append(path, {"ended": why or "every epoch was trained", "best": derived(search, _BEST)})


def derived(search: Search, count: int) -> list[Architecture]:
    """Return the best architectures so far; none where a search compares them at its end."""
    try:
        return search.derive(count)
    except SpaceError:
        return []
