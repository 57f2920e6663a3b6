"""Ranges of a cost, and limits on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import SpaceError, short
from ..language import Architecture
from ._latency import LatencyTable
from ._metrics import Metric


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a cost.

    Attributes:
        smallest: value.
        largest: value.
        smallest_architecture: where it was found.
        largest_architecture: where it was found.
        exact: whether every architecture was measured; otherwise there may be smaller and larger ones.
        sampled: how many architectures were measured, where these are a few and no search was made.
    """

    smallest: float
    largest: float
    smallest_architecture: Architecture
    largest_architecture: Architecture
    exact: bool
    sampled: int | None = None

    def __str__(self) -> str:
        how = "found by local search, not proven" if self.sampled is None else f"of {self.sampled} measured"
        if self.exact:
            how = "every architecture measured"
        return f"{number(self.smallest)} to {number(self.largest)} ({how})"


@dataclass(frozen=True)
class CostLimit:
    """A cost that a model must stay within.

    Args:
        metric: "params", "flops", or a latency table (then bounds are milliseconds).
        at_most: upper bound, or None.
        at_least: lower bound, or None.

    >>> print(CostLimit("flops", at_most=3e8))
    flops at most 300,000,000
    """

    metric: Metric
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        bounds = {"at_most": self.at_most, "at_least": self.at_least}
        given = {name: value for name, value in bounds.items() if value is not None}
        if not given:
            raise SpaceError(f"CostLimit({short(self.metric)}) limits nothing; give at_most= or at_least=.")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
                raise SpaceError(f"CostLimit: {name}={short(value)} must be a number.")
        if len(given) == 2 and given["at_least"] > given["at_most"]:
            raise SpaceError(f"CostLimit: at_least={self.at_least} is above at_most={self.at_most}.")

    def excess(self, cost: float) -> float:
        """How far a cost is outside; 0 where it is within."""
        above = 0 if self.at_most is None else cost - self.at_most
        below = 0 if self.at_least is None else self.at_least - cost
        return max(0, above, below)

    def __str__(self) -> str:
        name = "latency" if isinstance(self.metric, LatencyTable | Mapping) else self.metric
        bounds = [("at most", self.at_most), ("at least", self.at_least)]
        return f"{name} " + " and ".join(f"{text} {number(b)}" for text, b in bounds if b is not None)


@dataclass(frozen=True)
class Verdict:
    """Whether a limit can be met.

    Attributes:
        limit: the question.
        range: of the cost.
        architecture: one that meets the limit, or None if none was found.
    """

    limit: CostLimit
    range: Range
    architecture: Architecture | None

    @property
    def proven(self) -> bool:
        """Whether this is certain: an architecture is at hand, or every one was measured."""
        return self.architecture is not None or self.range.exact

    def __str__(self) -> str:
        ends = self.limit.excess(self.range.smallest), self.limit.excess(self.range.largest)
        if self.architecture is None:
            answer = "cannot be met" if self.range.exact else "not met by any architecture found"
        elif not any(ends):
            answer = "met by every architecture" + ("" if self.range.exact else " found")
        else:
            answer = "can be met"
        return f"{self.limit}: {answer}; range {self.range}"


def number(value: float) -> str:
    """A number for people: whole ones in full, others with four digits."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"
