"""Numbers of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpaceError
from ..graph.reading import own_modules, region_graph
from ..graph.regions import Cost, Edge, Place
from ..graph.space_graph import layer_parameters
from ..language import Decision, Space, Tally, tallies_of
from ..nn import LayerSpec
from .prices import Measure, Price, Prices, fixed, named, refuse_hidden_choices, remembered


def frozen_parameters(space: Space) -> Measure:
    """Count the parameters of the frozen model."""

    def measure(arch: Mapping[str, Any]) -> int:
        return sum(parameter.numel() for parameter in space.freeze(arch).parameters())

    return measure


def parameter_prices(space: Space) -> Prices:
    """Number of parameters of every edge.

    Raises:
        SpaceError: two choices share weights, or a primitive of the user's own does not tell which of its
            parts a model has.
    """
    graph = region_graph(space)
    layers: dict[str, Measure] = {}
    items = [Price(None, None, fixed(graph.fixed.parameters))]
    held: list[tuple[Edge | None, Place | None, Cost]] = [(None, None, graph.fixed)]
    for edge, place, cost in graph.costs():
        held.append((edge, place, cost))
        decisions, tallies = tuple[Decision, ...](), tuple[Tally, ...]()
        at = fixed(cost.parameters)
        if cost.spec is not None:
            decisions, tallies = cost.spec.sized, tallies_of(cost.spec.arguments)
            at = layers.setdefault(str(cost.spec), _layer(cost.spec))
        elif edge.kind == "layer":
            primitive: Any = space.get_submodule(place.path)
            decisions, tallies = primitive.reads(), tuple(primitive.tallies())
            at = remembered(decisions, _primitive(primitive), tallies)
        items.append(Price(edge, place, at, decisions, tallies))
    _refuse_shared(held)
    refuse_hidden_choices(space)
    prices = Prices("params", space.decision_space, tuple(items)).merged()
    prices.check(space, frozen_parameters(space))
    return prices


def _layer(spec: LayerSpec) -> Measure:
    return remembered(spec.sized, lambda arch: layer_parameters(spec, arch), tallies_of(spec.arguments))


def _primitive(primitive: Any) -> Measure:
    """Parameters of what a primitive of the user's own becomes, without those of choices in it."""

    def measure(arch: Mapping[str, Any]) -> int:
        count = Cost()
        for module in own_modules(primitive.freeze(arch)):
            count.add_parameters(module)
        return count.parameters

    return measure


def _refuse_shared(held: list[tuple[Edge | None, Place | None, Cost]]) -> None:
    """Raise a `SpaceError` when a weight belongs to several edges that one model may have together."""
    owners: dict[int, tuple[Edge | None, Place | None]] = {}
    for edge, place, cost in held:
        for weight in cost.counted:
            if weight not in owners:
                owners[weight] = edge, place
                continue
            other, there = owners[weight]
            if edge is not None and other is not None and place is there and _exclude(edge, other):
                continue
            names = [named(e) if e is not None else "what lies outside every choice" for e in (other, edge)]
            raise SpaceError(
                f"parameters are no sum over choices: {names[0]} and {names[1]} share weights, which a model "
                "that has both counts once. Give each its own."
            )


def _exclude(edge: Edge, other: Edge) -> bool:
    """Whether only one of two edges at the same place is chosen."""
    return edge.scope is other.scope and edge.scope is not None and edge.scope.type == "LayerChoice"
