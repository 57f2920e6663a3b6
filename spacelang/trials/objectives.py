"""Objectives: what makes one trial better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import SpaceError, closest, quoted


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better.

    Args:
        metric: Name of a metric of the evaluator, or of a cost: "params", "flops", "macs", "latency".
    """

    metric: str

    def __post_init__(self) -> None:
        if type(self) is Objective:
            raise SpaceError("an objective is Maximize(metric) or Minimize(metric).")
        if not isinstance(self.metric, str) or not self.metric:
            raise SpaceError(f"an objective needs the name of a metric; got {self.metric!r}.")

    def __str__(self) -> str:
        """Return a text such as "maximize val_acc", which `parse_objective` reads."""
        return f"{type(self).__name__.lower()} {self.metric}"

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the metric, signed so that more is better; minus infinity for NaN.

        Raises:
            SpaceError: The metric is missing.
        """
        if self.metric not in metrics:
            raise SpaceError(
                f"the objective {self.metric!r} is not among the metrics {quoted(metrics)}."
                + (closest(self.metric, metrics) or self._instead(metrics))
            )
        value = float(metrics[self.metric])
        return -math.inf if math.isnan(value) else self._signed(value)

    def _instead(self, metrics: Mapping[str, float]) -> str:
        if self.metric == "latency":
            return " Pass Experiment(..., example_inputs=tensor) to measure it on this machine."
        return "".join(
            f" Pass Experiment(..., objectives=[{type(self).__name__}({name!r})])."
            for name in list(metrics)[:1]
        )

    def _signed(self, value: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Maximize(Objective):
    """An objective of which more is better."""

    def _signed(self, value: float) -> float:
        return value


@dataclass(frozen=True)
class Minimize(Objective):
    """An objective of which less is better."""

    def _signed(self, value: float) -> float:
        return -value


def parse_objective(text: str) -> Objective:
    """Return the objective whose `str` this is.

    Raises:
        SpaceError: The text is not an objective.
    """
    direction, _, metric = text.partition(" ")
    kinds: dict[str, type[Objective]] = {"maximize": Maximize, "minimize": Minimize}
    if direction not in kinds:
        raise SpaceError(f"{text!r} is not an objective; expected 'maximize metric' or 'minimize metric'.")
    return kinds[direction](metric)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether scores `a` are at least as good as `b` everywhere and better somewhere."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the scores that no other dominates, in order.

    With two objectives this takes O(n log n); with more, O(n * size of the front).
    """
    order = sorted(range(len(scores)), key=lambda i: tuple(-x for x in scores[i]))
    front: list[int] = []
    for i in order:  # whatever dominates i comes before it
        if not any(dominates(scores[j], scores[i]) for j in (front[-1:] if _two(scores) else front)):
            front.append(i)
    return sorted(front)


def _two(scores: Sequence[Sequence[float]]) -> bool:
    return len(scores[0]) == 2


def fronts(scores: Sequence[Sequence[float]]) -> list[list[int]]:
    """Return indices by rank: the Pareto front, then the front of the rest, and so on."""
    left, found = list(range(len(scores))), []
    while left:
        front = [left[k] for k in pareto_front([scores[i] for i in left])]
        found.append(front)
        taken = set(front)
        left = [i for i in left if i not in taken]
    return found
