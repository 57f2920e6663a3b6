"""Ranges of a cost, and limits on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..errors import SpaceError, require_all, require_number, short
from ..graph.tensors import example_arguments
from ..language import Architecture, Space, is_frozen
from .counting import frozen_flops
from .flops import flop_prices
from .latency import LatencyTable, latency_prices
from .parameters import frozen_parameters, parameter_prices
from .prices import Measure, Prices


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a cost.

    Attributes:
        smallest: value.
        largest: value.
        smallest_architecture: Architecture it was found for.
        largest_architecture: Architecture it was found for.
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
            raise SpaceError(f"CostLimit({short(self.metric)}) limits nothing; set at_most= or at_least=.")
        require_all(require_number, self, "at_most", "at_least", optional=True)
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
        range: Range of the cost.
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


Metric: TypeAlias = Literal["params", "flops"] | LatencyTable | Mapping[str, float]
"""Parameters, FLOPs, or milliseconds by a table (see `LatencyTable`)."""


def prices_of(space: Space, metric: Metric, example_inputs: Any) -> Prices:
    """Price of every edge of a space.

    Raises:
        SpaceError: see `expected_cost`.
    """
    if not isinstance(space, Space) or is_frozen(space):
        raise SpaceError(f"{type(space).__name__} is no space with choices to make, and no supernet of one.")
    inputs = example_arguments(example_inputs)
    if isinstance(metric, LatencyTable | Mapping):
        return latency_prices(space, metric, inputs)
    check_metric(metric, inputs)
    return parameter_prices(space) if metric == "params" else flop_prices(space, inputs)


def frozen_measure(space: Space, metric: Metric, inputs: tuple[Any, ...]) -> Measure:
    """Count parameters or FLOPs of frozen models."""
    return frozen_parameters(space) if metric == "params" else frozen_flops(space, inputs)


def check_metric(metric: object, inputs: tuple[Any, ...]) -> None:
    """Raise a `SpaceError` unless `metric` is known and has the example inputs it needs."""
    if isinstance(metric, LatencyTable | Mapping):
        return
    if metric not in ("params", "flops"):
        raise SpaceError(f"metric={short(metric)}; expected 'params', 'flops' or a latency table.")
    if metric == "flops" and not inputs:
        raise SpaceError("FLOPs need an example input, for example torch.zeros(1, 3, 32, 32).")
