"""Rates: numbers that may move linearly from a first to a last epoch."""

from __future__ import annotations

from typing import Any, TypeAlias

from spacelang import SpaceError
from spacelang.errors import require_number, short

from .relaxation import Moment

Rate: TypeAlias = float | tuple[float, float]
"""One number for all epochs, or the numbers of the first and of the last epoch, linear in between."""


def require_rate(name: str, rate: object, **bounds: Any) -> None:
    """Raise a `SpaceError` unless `rate` is a number or a pair, within bounds of `require_number`."""
    numbers = rate if isinstance(rate, tuple | list) else (rate,)
    if isinstance(rate, tuple | list) and len(rate) != 2:
        raise SpaceError(
            f"{name}={short(rate)} must be a number, or two: for the first and for the last epoch."
        )
    for number in numbers:
        require_number(name, number, **bounds)


def rate_at(rate: Rate, moment: Moment) -> float:
    """Return the number of an epoch."""
    return annealed(*rate, moment.epoch, moment.epochs) if isinstance(rate, tuple | list) else rate


def annealed(first: float, last: float, epoch: int, epochs: int) -> float:
    """Return a number that moves linearly from `first` in epoch 0 to `last` in the last epoch."""
    return first if epochs < 2 else first - (first - last) * epoch / (epochs - 1)
