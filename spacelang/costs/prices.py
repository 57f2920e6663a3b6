"""Prices: a cost of a model as a sum over the edges of its space's graph."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..errors import SpaceError, quoted
from ..graph.reading import region_graph
from ..graph.regions import Edge, Place
from ..language import Architecture, Condition, Decision, DecisionSpace, Primitive, Space
from ..language.conditions import AllOf
from ..language.primitive import walk

Measure: TypeAlias = Callable[[Mapping[str, Any]], float]
"""Cost of an architecture."""

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
    """

    edge: Edge | None
    place: Place | None
    at: Measure
    decisions: tuple[Decision, ...] = ()

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


def remembered(decisions: Sequence[Decision], measure: Measure) -> Measure:
    """`measure`, computed once for every combination of values of the decisions it depends on."""
    known: dict[str, float] = {}

    def at(arch: Mapping[str, Any]) -> float:
        key = repr([arch[decision.label] for decision in decisions])
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


def refuse_many(decisions: Sequence[Decision], limit: int, what: object) -> None:
    """Raise a `SpaceError` when more than `limit` combinations of decisions would have to be priced."""
    count = math.prod(decision.cardinality for decision in decisions)
    if count > limit:
        labels = quoted(decision.label for decision in decisions)
        raise SpaceError(
            f"the cost of {what} depends on {labels} together, {count:,} combinations; at most {limit:,} "
            "can be priced."
        )


def around_choices(space: Space) -> Iterator[tuple[Edge, Primitive]]:
    """Primitives of the user's own that have choices inside them."""
    for edge, place, cost in region_graph(space).costs():
        if edge.kind == "layer" and cost.spec is None:
            primitive: Any = space.get_submodule(place.path)
            if len([module for module in primitive.modules() if isinstance(module, Primitive)]) > 1:
                yield edge, primitive


def refuse_hidden_choices(space: Space) -> None:
    """Raise a `SpaceError` when a primitive of the user's own drops choices inside it without saying so."""
    for edge, primitive in around_choices(space):
        for values in combinations(edge.decisions):
            said = {
                id(module)
                for condition, _, module in walk(primitive)
                if module is not primitive and isinstance(module, Primitive)
                if all(part.holds(values) for part in parts(condition) if part.labels <= values.keys())
            }
            frozen = primitive.freeze(values)
            if said - {id(module) for module in frozen.modules() if isinstance(module, Primitive)}:
                raise SpaceError(
                    f"{named(edge)} leaves out choices inside it for {values}; its branches() must say under "
                    "which condition they are there."
                )
