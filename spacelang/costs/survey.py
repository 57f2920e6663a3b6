"""Searching a space for its smallest and largest models, and for one within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SpaceError, short, written
from ..language import Architecture, DecisionSpace, Interval, Space
from ..language.decisions import Categorical, Decision
from ..progress import with_bar
from .limits import CostLimit, Metric, Range, Verdict, check_metric, frozen_measure, prices_of
from .prices import Measure, Price, Prices

_ENUMERATED = 200
_STARTS = 2  # random ones, beside the default
_SWEEPS = 10
_SEED = 0
_TITLE = "smallest and largest models"


class Survey:
    """Costs of the models of a space.

    Of a space of up to 200 architectures all are compared. In a larger one, coordinate descent goes from the
    default architecture and from two random ones (with a fixed seed): every decision in turn takes its best
    value until none improves. Costs are added up from the edges of the space's graph; where they are no sum
    over choices (a weight shared by two of them), frozen models are measured, in a large space from the
    default alone.

    Args:
        space: left untouched.
        metric: "params", "flops" or a latency table, by which costs always are such a sum.
        inputs: positional arguments of its forward; none for parameters only.

    Raises:
        SpaceError: no architecture satisfies the constraints, or the network does not run on the inputs.
    """

    def __init__(self, space: Space, metric: Metric, inputs: tuple[Any, ...] = ()) -> None:
        self._space = space.decision_space
        default = space.default()
        self._starts = [default]
        self._exact, self._quick = self._measures(space, metric, inputs)
        self._all: list[tuple[float, Architecture]] | None = None
        if space.bound <= _ENUMERATED:
            archs = with_bar(list(space.grid()), _TITLE)
            self._all = [(self._quick(arch), arch) for arch in archs]
        elif self._quick is not self._exact or not isinstance(metric, str):
            rng = np.random.default_rng(_SEED)
            self._starts += [space.sample(rng) for _ in range(_STARTS)]
        self.range = self._range()

    @staticmethod
    def _measures(space: Space, metric: Metric, inputs: tuple[Any, ...]) -> tuple[Measure, Measure]:
        """The cost of a model, and a quick way to it."""
        if not isinstance(metric, str):
            table = Total(prices_of(space, metric, inputs))
            return table, table
        exact = frozen_measure(space, metric, inputs)
        try:
            return exact, Total(prices_of(space, metric, inputs))
        except SpaceError:
            return exact, exact

    def _range(self) -> Range:
        if self._all is not None:
            low, high = min(self._all, key=lambda pair: pair[0]), max(self._all, key=lambda pair: pair[0])
            return Range(low[0], high[0], low[1], high[1], exact=True)
        smallest = [_descend(self._space, start, self._quick, lambda cost: cost) for start in self._starts]
        largest = [_descend(self._space, start, self._quick, lambda cost: -cost) for start in self._starts]
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
            nearest = [_descend(self._space, end, self._quick, limit.excess) for end in ends]
        return next((arch for arch in nearest if not limit.excess(self._exact(arch))), None)


class Total:
    """A sum of prices, of which a change of a few decisions computes again only what reads them.

    Prices that read the same decisions are added up once for each of their values.

    Args:
        prices: The sum.
    """

    def __init__(self, prices: Prices) -> None:
        self._items: dict[tuple[str, ...], list[Price]] = {}
        for price in prices.items:
            self._items.setdefault(tuple(sorted(_labels_read(price))), []).append(price)
        self._known: dict[tuple[str, ...], dict[str, float]] = {labels: {} for labels in self._items}
        self._readers: dict[str, list[tuple[str, ...]]] = {}
        for labels in self._items:
            for label in labels:
                self._readers.setdefault(label, []).append(labels)

    def __call__(self, arch: Mapping[str, Any]) -> float:
        """Return the cost of an architecture."""
        return self._sum(self._items, arch)

    def part(self, labels: Iterable[str], arch: Mapping[str, Any]) -> float:
        """Return the sum of the prices that read some of the labels."""
        return self._sum(
            dict.fromkeys(read for label in labels for read in self._readers.get(label, ())), arch
        )

    def _sum(self, groups: Iterable[tuple[str, ...]], arch: Mapping[str, Any]) -> float:
        total: float = 0
        for labels in groups:
            key = repr([arch.get(label) for label in labels])
            known = self._known[labels]
            if key not in known:
                items = self._items[labels]
                known[key] = sum(count * item.at(arch) for item in items if (count := item.count(arch)))
            total += known[key]
        return total


def _labels_read(price: Price) -> set[str]:
    """Return the labels that decide whether a price is paid, and how much it is."""
    labels = {decision.label for decision in price.decisions}
    if price.edge is not None:
        labels |= price.edge.local.labels
    place = price.place
    labels |= place.condition.labels if place is not None else set()
    while place is not None and place.inside is not None:
        labels |= place.inside.local.labels
        place = place.within
    return labels


def _descend(
    space: DecisionSpace, start: Architecture, measure: Measure, score: Callable[[float], float]
) -> Architecture:
    """Coordinate descent: every decision in turn takes the value of the best score until none improves."""
    arch, cost = dict(start), measure(start)
    for _ in range(_SWEEPS):
        before = score(cost)
        for label in with_bar(space.by_label, _TITLE):
            if label not in arch:
                continue
            own, variants = space.variants(arch, label)
            best, lowest = own, cost
            for variant in variants:
                new = _cost_of(variant, own, arch, cost, measure)
                if score(new) < score(lowest):
                    best, lowest = variant, new
            if best is not own:
                _exchange(arch, own, best)
            cost = lowest
        if score(cost) == before:
            break
    return space.canonical(arch)


def _cost_of(
    variant: Architecture, own: Architecture, arch: Architecture, cost: float, measure: Measure
) -> float:
    """Return the cost of `arch`, which costs `cost`, with a variant in place of a part of it."""
    labels = [x for x in {**own, **variant} if x not in own or x not in variant or own[x] != variant[x]]
    before = measure.part(labels, arch) if isinstance(measure, Total) else 0
    _exchange(arch, own, variant)
    after = measure.part(labels, arch) if isinstance(measure, Total) else measure(arch)
    _exchange(arch, variant, own)
    return cost - before + after if isinstance(measure, Total) else after


def _exchange(arch: Architecture, old: Architecture, new: Architecture) -> None:
    for label in old:
        del arch[label]
    arch.update(new)


@dataclass(frozen=True)
class Row:
    """One decision.

    Attributes:
        label: Label of the decision.
        kind: "one of", "k of", "any of" or "range".
        candidates: Its candidates.
        condition: when it is active; "always" or a statement about other decisions.
    """

    label: str
    kind: str
    candidates: tuple[Any, ...]
    condition: str


@dataclass(frozen=True)
class SpaceReport:
    """Contents of a space.

    Attributes:
        space: class of the space.
        decisions: one row each, in the order of the space.
        size: number of distinct architectures.
        parameters: range over the models that `space.freeze` gives.
        flops: range for the example input; operations of convolutions, matrix products and attention, two
            for a multiply-accumulate. None without an example input.
        constraints: messages of the space's own.
        limits: Whether each limit asked about can be met.
        size_is_exact: whether `size` was counted; otherwise there are at most so many.
    """

    space: str
    decisions: tuple[Row, ...]
    size: int | float
    parameters: Range
    flops: Range | None
    constraints: tuple[str, ...] = ()
    limits: tuple[Verdict, ...] = ()
    size_is_exact: bool = True

    @property
    def _count(self) -> str:
        return written(self.size) if self.size_is_exact else f"at most {written(self.size)}"

    def __str__(self) -> str:
        lines = [
            f"{self.space}: {len(self.decisions)} decisions, {self._count} architectures",
            f"parameters: {self.parameters}",
        ]
        if self.flops is not None:
            lines.append(f"FLOPs: {self.flops}")
        lines += [f"constraint: {message}" for message in self.constraints]
        lines += [f"limit: {verdict}" for verdict in self.limits]
        cells = [
            (row.label, row.kind, _listed(row.candidates), _cut(row.condition, 60)) for row in self.decisions
        ]
        return "\n".join([*lines, "", *_table(("decision", "kind", "candidates", "active"), cells)])


def report(space: Space, example_inputs: Sequence[Any] = (), limits: Sequence[CostLimit] = ()) -> SpaceReport:
    """Describe a space, find how small and how large its models are, and whether limits can be met.

    How they are found: see `spacelang.costs.Survey`.

    Args:
        space: left untouched.
        example_inputs: positional arguments of its forward, for FLOPs; none for parameters only.
        limits: Limits on parameters, FLOPs, or milliseconds by a latency table.

    Raises:
        SpaceError: no architecture satisfies the constraints, the network does not run on the example, or a
            limit on FLOPs comes without one.
    """
    inputs = tuple(example_inputs)
    for limit in limits:
        if not isinstance(limit, CostLimit):
            raise SpaceError(f"limits are CostLimits; got {short(limit)}.")
        check_metric(limit.metric, inputs)
    surveys = {"params": Survey(space, "params")}
    if inputs:
        surveys["flops"] = Survey(space, "flops", inputs)
    decision_space = space.decision_space
    return SpaceReport(
        type(space).__name__,
        tuple(_row(decision, decision_space) for decision in space.decisions),
        space.bound,
        surveys["params"].range,
        surveys["flops"].range if inputs else None,
        tuple(dict.fromkeys(constraint.message for constraint in decision_space.constraints)),
        tuple(
            (surveys[x.metric] if isinstance(x.metric, str) else Survey(space, x.metric, inputs)).verdict(x)
            for x in limits
        ),
        space.size_is_exact,
    )


def _row(decision: Decision, space: DecisionSpace) -> Row:
    if isinstance(decision, Categorical):
        kind = "one of"
    elif isinstance(decision, Interval):
        kind = "range"
    else:
        kind = "any of" if decision.n_chosen is None else f"{decision.n_chosen} of"
    return Row(decision.label, kind, decision.candidates, str(space.conditions[decision.label]))


# -- writing -------------------------------------------------------------------------------------------


def _listed(candidates: Sequence[Any]) -> str:
    return _cut(f"{len(candidates)}: " + ", ".join(map(str, candidates)), 60)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
