"""What can be counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ..errors import SpaceError, short
from ..language import ModelSpace, is_frozen
from ._flops import flop_prices, frozen_flops
from ._latency import LatencyTable, latency_prices
from ._parameters import frozen_parameters, parameter_prices
from ._prices import Measure, Prices
from ._traced import as_arguments

Metric: TypeAlias = Literal["params", "flops"] | LatencyTable | Mapping[str, float]
"""Parameters, FLOPs, or milliseconds by a table (see `LatencyTable`)."""


def prices_of(space: ModelSpace, metric: Metric, example_inputs: Any) -> Prices:
    """Price of every edge of a space.

    Raises:
        SpaceError: see `expected_cost`.
    """
    if not isinstance(space, ModelSpace) or is_frozen(space):
        raise SpaceError(f"{type(space).__name__} is no space with choices to make, and no supernet of one.")
    inputs = as_arguments(example_inputs)
    if isinstance(metric, LatencyTable | Mapping):
        return latency_prices(space, metric, inputs)
    check_metric(metric, inputs)
    return parameter_prices(space) if metric == "params" else flop_prices(space, inputs)


def frozen_measure(space: ModelSpace, metric: Metric, inputs: tuple[Any, ...]) -> Measure:
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
