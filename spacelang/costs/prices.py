"""Prices: a cost of a model as a sum over the edges of its space's graph."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..errors import SpaceError, quoted
from ..graph.reading import region_graph
from ..graph.regions import Edge, Place
from ..language import (
    Architecture,
    Condition,
    Decision,
    DecisionSpace,
    Primitive,
    Space,
    Tally,
    tallied,
)
from ..language.conditions import AllOf
from ..language.primitive import walk
from .tallies import results_of

Measure: TypeAlias = Callable[[Mapping[str, Any]], float]
"""Cost of an architecture."""

MOST_COMBINATIONS = 20_000
_PROBES = 2  # random ones, beside the default
_SEED = 0


@dataclass(frozen=True, eq=False)
class Price:
    """The cost of an edge at one place, each time a model uses it there.

    Args:
        edge: Edge with the modules; None outside every choice.
        place: Place of the choice the edge belongs to; None likewise.
        at: cost under values of `decisions`.
        decisions: Decisions that the cost depends on, apart from whether the edge is used.
        tallies: Results through which alone some of these decisions change it.
    """

    edge: Edge | None
    place: Place | None
    at: Measure
    decisions: tuple[Decision, ...] = ()
    tallies: tuple[Tally, ...] = ()

    def count(self, arch: Mapping[str, Any]) -> int:
        """How often the model of a canonical architecture pays it."""
        if self.edge is None or self.place is None:
            return 1
        return slots * self.place.count(arch) if (slots := self.edge.slots(arch)) else 0

    def __str__(self) -> str:
        return "what lies outside every choice" if self.edge is None else named(self.edge)


def named(edge: Edge) -> str:
    """An edge in a message: what is on it, and the choice it is of."""
    region = edge.scope
    assert region is not None
    if edge.kind == "layer":
        return f"{edge.key} {region.name!r}"
    where = ""
    if region.topology is not None:
        source, node = region.topology.edges[edge.attributes["row"]]
        where = f", edge {source}->{node}"
    return f"{edge.attributes.get('candidate', edge.key)!r} of {region.name!r}{where}"


def fixed(cost: float) -> Measure:
    """A price that depends on nothing."""
    return lambda arch: cost


def remembered(decisions: Sequence[Decision], measure: Measure, tallies: Iterable[Tally] = ()) -> Measure:
    """`measure`, computed once for every combination of values (or tallies) of what it depends on."""
    known: dict[str, float] = {}
    counted = tuple(tallies)
    others = [decision.label for decision in untallied(decisions, counted)]

    def at(arch: Mapping[str, Any]) -> float:
        key = repr([*(arch.get(label) for label in others), *(tallied(tally, arch) for tally in counted)])
        if key not in known:
            known[key] = measure(arch)
        return known[key]

    return at


@dataclass(frozen=True, eq=False)
class Prices:
    """A cost as a sum: sum over prices of how often a model pays it, times what it then is.

    Args:
        metric: "params", "flops" or "latency".
        decision_space: Decisions of the space.
        items: Items of cost, the one outside every choice among them.
    """

    metric: str
    decision_space: DecisionSpace
    items: tuple[Price, ...]

    def of(self, arch: Mapping[str, Any]) -> float:
        """Cost of a canonical architecture."""
        return sum(count * price.at(arch) for price in self.items if (count := price.count(arch)))

    def merged(self) -> Prices:
        """The same sum with fixed prices joined that are paid equally often, as cells of one label are."""
        joined: dict[tuple[Any, ...], tuple[Price, float]] = {}
        others = []
        for price in self.items:
            if price.decisions or price.edge is None or price.place is None:
                others.append(price)
                continue
            cost = price.at({})
            key = price.edge.kind, str(price.edge.local), *price.place.key
            joined[key] = price, cost + (joined[key][1] if key in joined else 0)
        kept = [replace(price, at=fixed(cost)) for price, cost in joined.values() if cost]
        return replace(self, items=(*others, *kept))

    def check(self, space: Space, measure: Measure) -> None:
        """Compare the sum with what frozen models cost, on the default and a few random architectures.

        Raises:
            SpaceError: they differ; names the architecture.
        """
        rng = np.random.default_rng(_SEED)
        for arch in [space.default(), *(space.sample(rng) for _ in range(_PROBES))]:
            total, measured = self.of(arch), measure(arch)
            if total != measured:
                raise SpaceError(
                    f"{self.metric} of {type(space).__name__} are no sum over its choices: they add up to "
                    f"{total:,} for {arch}, and the model has {measured:,}."
                )


def parts(condition: Condition) -> Iterator[Condition]:
    """Statements that all hold when a condition does."""
    if isinstance(condition, AllOf):
        for part in condition.parts:
            yield from parts(part)
    else:
        yield condition


def combinations(decisions: Sequence[Decision]) -> Iterator[Architecture]:
    """Every combination of values of some decisions."""
    for values in itertools.product(*(decision.values() for decision in decisions)):
        yield {decision.label: value for decision, value in zip(decisions, values, strict=True)}


def count_of(decisions: Sequence[Decision]) -> float:
    """Number of combinations of values of some decisions."""
    counts = [decision.cardinality for decision in decisions]
    return math.inf if math.inf in counts else math.prod(counts)


def untallied(decisions: Sequence[Decision], tallies: Sequence[Tally]) -> list[Decision]:
    """Decisions that are in no tally."""
    counted = {decision.label for tally in tallies for decision in tally.decisions()}
    return [decision for decision in decisions if decision.label not in counted]


def variants(decisions: Sequence[Decision], tallies: Sequence[Tally], what: object) -> Iterator[Architecture]:
    """Values of some decisions: each that makes a difference.

    Raises:
        SpaceError: there are too many.
    """
    plain = untallied(decisions, tallies)
    refuse_many(plain, MOST_COMBINATIONS, what)
    for values in combinations(plain):
        for product in itertools.product(*(results_of(tally).examples.values() for tally in tallies)):
            yield {label: value for part in (values, *product) for label, value in part.items()}


def refuse_many(decisions: Sequence[Decision], limit: int, what: object) -> None:
    """Raise a `SpaceError` when more than `limit` combinations of decisions would have to be priced."""
    count = count_of(decisions)
    if count > limit:
        labels = quoted(decision.label for decision in decisions)
        raise SpaceError(
            f"the cost of {what} depends on {labels} together, {count:,} combinations; at most {limit:,} "
            "can be priced."
        )


def around_choices(space: Space) -> Iterator[tuple[Edge, Primitive]]:
    """Primitives of the user's own with choices inside them that they do not themselves read."""
    for edge, place, cost in region_graph(space).costs():
        if edge.kind == "layer" and cost.spec is None:
            primitive: Any = space.get_submodule(place.path)
            if any(True for _ in choices_inside(primitive)):
                yield edge, primitive


def choices_inside(primitive: Primitive) -> Iterator[Primitive]:
    """Choices in a primitive, without those that it reads."""
    read = {decision.label for decision in primitive.reads()}
    inner = (m for m in primitive.modules() if isinstance(m, Primitive) and m is not primitive)
    yield from (m for m in inner if not read.issuperset(decision.label for decision in m.decisions()))


def refuse_hidden_choices(space: Space) -> None:
    """Raise a `SpaceError` when a primitive of the user's own drops choices inside it without saying so."""
    for edge, primitive in around_choices(space):
        inside = {id(module) for module in choices_inside(primitive)}
        for values in combinations(edge.decisions):
            said = {
                id(module)
                for condition, _, module in walk(primitive)
                if id(module) in inside
                if all(part.holds(values) for part in parts(condition) if part.labels <= values.keys())
            }
            frozen = primitive.freeze(values)
            if said - {id(module) for module in frozen.modules() if isinstance(module, Primitive)}:
                raise SpaceError(
                    f"{named(edge)} leaves out choices inside it for {values}; its branches() must say under "
                    "which condition they are there."
                )
