"""Schedules: what a search does between epochs besides training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._gradient_search import GradientSearch


class Schedule:
    """Acts between epochs; this one does nothing. One object belongs to one search.

    State is made of tensors, numbers, strings, lists and dicts, so that a checkpoint can hold it.
    """

    def train_start(self, search: GradientSearch) -> None:
        """Called before the first epoch of a fit, which may be a resumed one."""

    def epoch_end(self, search: GradientSearch, epoch: int) -> None:
        """Called after the training of an epoch, before its probabilities are recorded."""

    def summary(self, search: GradientSearch) -> dict[str, Any]:
        """What it did, as plain values for a report."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
