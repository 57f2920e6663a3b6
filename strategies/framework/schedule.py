"""Schedules, which act between the epochs of a search."""

from __future__ import annotations

from typing import Any, Generic

from .search import Search


class Schedule(Generic[Search]):
    """Base of schedules, which act between epochs; this one does nothing. One object belongs to one search.

    State is made of tensors, numbers, strings, lists and dicts, so that a checkpoint can hold it.
    """

    def epochs_needed(self, search: Search) -> int | None:
        """Return how many epochs this schedule takes to finish; None where any number will do."""
        return None

    def train_start(self, search: Search) -> None:
        """Act before the first epoch of a fit, which may be a resumed one."""

    def epoch_start(self, search: Search, epoch: int) -> None:
        """Act before the first batch of an epoch."""

    def epoch_end(self, search: Search, epoch: int) -> None:
        """Act after the training of an epoch, before its probabilities are recorded."""

    def summary(self, search: Search) -> dict[str, Any]:
        """Return plain values for a report."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
