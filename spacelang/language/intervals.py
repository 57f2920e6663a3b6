"""Decisions on a number of an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..errors import SpaceError, require_number, short

FIRST = object()  # stands for a default that is not given: None may be a candidate
POINTS = 5  # of a continuous range, where some of its values stand for all
_SPREAD = 0.1  # standard deviation of a mutation, as a share of the range


@dataclass(frozen=True, init=False)
class Interval:
    """A number of an interval: a learning rate, a rate of dropout, the weight of a loss.

    With u in [0, 1] it is low + u (high - low), or on a logarithmic scale low (high / low)^u.

    Args:
        label: Full label.
        low: Smallest value.
        high: Largest value.
        log: Whether the scale is logarithmic; `low` is positive then.
        step: Distance of the values from `low` on, which are integers if both are; None for all numbers.
        default: Value of the space's default architecture; the middle of the scale where it is left out.
    """

    label: str
    low: float
    high: float
    log: bool
    step: float | None
    default: float = field(repr=False)

    def __init__(
        self,
        label: str,
        low: float,
        high: float,
        log: bool = False,
        step: float | None = None,
        default: object = FIRST,
    ) -> None:
        require_number(f"{label!r}: low", low)
        require_number(f"{label!r}: high", high, above=low)
        require_number(f"{label!r}: step", step, above=0, most=high - low, optional=True)
        if log and (low <= 0 or step is not None):
            raise SpaceError(f"{label!r}: with log=True low={low} must be positive, and step={step} None.")
        for name, value in (("low", low), ("high", high), ("log", bool(log)), ("step", step)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "default", self.at(0.5) if default is FIRST else self.parse(default))

    def __str__(self) -> str:
        return f"{self.label!r}: {self.candidates[0]}"

    @property
    def candidates(self) -> tuple[str]:
        """The interval, as a text: in tables it has one column."""
        scale = " (log)" if self.log else "" if self.step is None else f" in steps of {self.step:g}"
        return (f"{self.low:g} to {self.high:g}{scale}",)

    @property
    def cardinality(self) -> float:
        """Number of values; infinite without a step."""
        return math.inf if self.step is None else self._steps + 1

    @property
    def top(self) -> float:
        """Largest value that is drawn: with a step it may lie below `high`."""
        return self.high if self.step is None else self.low + self._steps * self.step

    @property
    def is_integer(self) -> bool:
        """Whether all its values are integers."""
        return isinstance(self.low, int) and isinstance(self.step, int)

    @property
    def _steps(self) -> int:
        assert self.step is not None
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def at(self, u: float) -> float:
        """Return the value at a place of the scale, 0 to 1; with a step the one that is nearest."""
        if self.step is not None:
            value = self.low + round(u * self._steps) * self.step
            return value if isinstance(value, int) else float(value)
        if self.log:
            value = self.low * (self.high / self.low) ** u
        else:
            value = self.low + u * (self.high - self.low)
        return float(min(max(value, self.low), self.high))

    def place(self, value: object) -> float:
        """Return the place of a value on the scale, 0 to 1."""
        number = self.parse(value)
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.top - self.low)

    def spread(self, u: float) -> float:
        """Return the value of u in [0, 1): each as often as `sample` draws it, where u is uniform."""
        return self.at(u if self.step is None else math.floor(u * (self._steps + 1)) / self._steps)

    def points(self, count: int) -> list[float]:
        """Return values at equal distances on the scale: both ends, or the middle alone."""
        places = [0.5] if count == 1 else [k / (count - 1) for k in range(count)]
        return list(dict.fromkeys(map(self.at, places)))

    def values(self) -> Iterator[float]:
        """Yield every value of a range with a step; of another one five points, both ends among them."""
        return iter(self.points(POINTS if self.step is None else self._steps + 1))

    def parse(self, value: object) -> float:
        """Return `value` as a number of this range.

        Raises:
            SpaceError: It is not a number, lies outside, or is between two steps.
        """
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            if self.step is None:
                return float(value)
            nearest = self.at(round((value - self.low) / self.step) / self._steps)
            if math.isclose(nearest, value, rel_tol=1e-9, abs_tol=1e-12):
                return nearest
        raise SpaceError(f"{self.label!r} got {short(value)}; expected a number from {self.candidates[0]}.")

    def position(self, value: object) -> int:
        """Return the only column of a table, 0, after a check of the value."""
        self.parse(value)
        return 0

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a value, uniformly on the scale."""
        return self.at(
            rng.random() if self.step is None else int(rng.integers(self._steps + 1)) / self._steps
        )

    def near(self, value: object, rng: np.random.Generator) -> float:
        """Draw a value near another: Gaussian on the scale, reflected at its ends."""
        spread = _SPREAD if self.step is None else max(_SPREAD, 1 / self._steps)
        u = abs(self.place(value) + spread * rng.standard_normal()) % 2
        return self.at(min(u, 2 - u))

    def probabilities(self) -> Iterator[float]:
        """Yield the probability that `sample` draws each of `values()`, of a range with a step."""
        count = len(list(self.values()))
        return iter([1 / count] * count)

    def indicator(self, value: object) -> list[float]:
        """Return the place of the value on the scale, (1,)."""
        return [self.place(value)]
