"""Searching a space for its smallest and largest models, and for one within a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SpaceError
from ..language import Architecture, DecisionSpace, ModelSpace
from ._limits import CostLimit, Range, Verdict
from ._metrics import Metric, frozen_measure, prices_of
from ._prices import Measure

_ENUMERATED = 200
_STARTS = 2  # random ones, beside the default
_SWEEPS = 10
_SEED = 0


class Survey:
    """What models of a space cost.

    A space of up to 200 architectures is measured completely. In a larger one, coordinate descent goes from
    the default architecture and from two random ones (with a fixed seed): every decision in turn takes its
    best value until none improves. Costs are then added up from the edges of the space's graph; where they
    are no sum over choices (a weight shared by two of them), frozen models are measured, from the default
    alone.

    Args:
        space: left untouched.
        metric: "params", "flops" or a latency table, by which costs always are such a sum.
        inputs: positional arguments of its forward; none for parameters only.

    Raises:
        SpaceError: no architecture satisfies the constraints, or the network does not run on the inputs.
    """

    def __init__(self, space: ModelSpace, metric: Metric, inputs: tuple[Any, ...] = ()) -> None:
        self._space = space.decision_space
        default = space.default()
        self._starts = [default]
        self._exact, self._quick = self._measures(space, metric, inputs)
        self._all: list[tuple[float, Architecture]] | None = None
        if space.size() <= _ENUMERATED:
            self._all = [(self._exact(arch), arch) for arch in space.grid()]
        elif self._quick is not self._exact or not isinstance(metric, str):
            rng = np.random.default_rng(_SEED)
            self._starts += [space.sample(rng) for _ in range(_STARTS)]
        self.range = self._range()

    @staticmethod
    def _measures(space: ModelSpace, metric: Metric, inputs: tuple[Any, ...]) -> tuple[Measure, Measure]:
        """The cost of a model, and a quick way to it."""
        if not isinstance(metric, str):
            table = prices_of(space, metric, inputs).of
            return table, table
        exact = frozen_measure(space, metric, inputs)
        if space.size() <= _ENUMERATED:
            return exact, exact
        try:
            return exact, prices_of(space, metric, inputs).of
        except SpaceError:
            return exact, exact

    def _range(self) -> Range:
        if self._all is not None:
            low, high = min(self._all, key=lambda pair: pair[0]), max(self._all, key=lambda pair: pair[0])
            return Range(low[0], high[0], low[1], high[1], exact=True)
        smallest = [_descend(self._space, start, self._quick) for start in self._starts]
        largest = [_descend(self._space, start, lambda arch: -self._quick(arch)) for start in self._starts]
        low_arch, high_arch = min(smallest, key=self._quick), max(largest, key=self._quick)
        return Range(self._exact(low_arch), self._exact(high_arch), low_arch, high_arch, exact=False)

    def verdict(self, limit: CostLimit) -> Verdict:
        """Whether a limit on this cost can be met."""
        return Verdict(limit, self.range, self._within(limit))

    def _within(self, limit: CostLimit) -> Architecture | None:
        if self._all is not None:
            return next((arch for cost, arch in self._all if not limit.excess(cost)), None)
        ends = self.range.smallest_architecture, self.range.largest_architecture
        nearest = [arch for arch in ends if not limit.excess(self._exact(arch))]
        if not nearest and limit.at_most is not None and limit.at_least is not None:  # somewhere in between
            nearest = [
                _descend(self._space, end, lambda arch: limit.excess(self._quick(arch))) for end in ends
            ]
        return next((arch for arch in nearest if not limit.excess(self._exact(arch))), None)


def _descend(space: DecisionSpace, start: Architecture, measure: Measure) -> Architecture:
    """Coordinate descent: every decision in turn takes its best value until none improves."""
    best, cost = start, measure(start)
    for _ in range(_SWEEPS):
        before = cost
        for label in space.by_label:
            for candidate in _variants(space, best, label):
                new = measure(candidate)
                if new < cost:
                    best, cost = candidate, new
        if cost == before:
            break
    return space.canonical(best)


def _variants(space: DecisionSpace, arch: Architecture, label: str) -> Iterator[Architecture]:
    """Architectures that differ in one decision; what that activates takes its first valid candidates."""
    if label not in arch:
        return
    alone = not any(label in condition.labels for condition in space.conditions.values())
    rules = [constraint for constraint in space.constraints if label in constraint.labels]
    for value in space.by_label[label].values():
        if value == arch[label]:
            continue
        if alone:
            changed = {**arch, label: value}
            if all(rule.holds(changed) for rule in rules):
                yield changed
        else:
            completed = space.complete({**arch, label: value})
            if completed is not None:
                yield completed
