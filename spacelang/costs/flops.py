"""Floating-point operations, also where they depend on sizes that are chosen elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import SpaceError, quoted
from ..graph.flop_mode import META, Known
from ..graph.regions import Call, Edge
from ..graph.tensors import map_tensors
from ..language import Cell, Decision, LooseEnds, Space, Tally, tallied, tallies_of
from ..language.values import merge_decisions
from ..nn import LayerSpec
from ..progress import with_bar
from .counting import counted, frozen_flops
from .elsewhere import differences, find_elsewhere, moving_decisions, probes_of
from .prices import Measure, Price, Prices, choices_inside, fixed, named, refuse_many, remembered
from .traced import Entry, Key, Traces, built, entries, fitted, key_of

_MOST_TRACES = 64  # combinations of decisions elsewhere that one price may depend on


def flop_prices(space: Space, inputs: Sequence[Any]) -> Prices:
    """Operations of every edge for an example input.

    The default architecture is traced, and a layer whose arguments are chosen is counted for each of their
    combinations. Where choices change the size of a feature map, so that what reads it costs something
    else, architectures are traced with each of those choices, and prices depend on them too.

    Raises:
        SpaceError: the network does not run on the example input, or its operations are no sum over choices.
    """
    traces = Traces(space, inputs)
    found = traces.entries()
    prices = {key: _price(traces, entry) for key, entry in found.items()}
    moving = moving_decisions(traces)
    probes = list(probes_of(traces, moving))
    elsewhere: dict[Key, list[Decision]] = {key: [] for key in prices}
    for base in (traces.default, *probes):
        runs = with_bar(probes, "counting operations")
        wrong = {key for arch in runs for key in differences(prices, traces, arch)}
        if not wrong:
            break
        find_elsewhere(traces, prices, elsewhere, base, moving)
        prices |= {key: _tabulated(traces, found[key], key, elsewhere[key]) for key in wrong}
    for arch in probes:
        for key in differences(prices, traces, arch):
            raise SpaceError(
                f"FLOPs are no sum over choices: those of {prices[key]} depend on sizes that several of "
                f"{quoted(decision.label for decision in moving)} decide together."
            )
    result = Prices("flops", space.decision_space, tuple(prices.values())).merged()
    result.check(space, frozen_flops(space, inputs, traces.known))
    return result


def _price(traces: Traces, entry: Entry) -> Price:
    """Price of an edge from one run of it, in terms of its own decisions."""
    edge, place, cost = entry
    if cost.flops and cost.spec is not None and cost.call is not None:
        tallies = tallies_of(cost.spec.arguments)
        at = remembered(cost.spec.sized, _layer(cost.spec, cost.call, traces.known), tallies)
        return Price(edge, place, at, cost.spec.sized, tallies)
    if edge is not None and place is not None and edge.kind == "layer" and cost.spec is None and cost.call:
        primitive: Any = traces.space.get_submodule(place.path)
        if any(choices_inside(primitive)):
            return Price(edge, place, remembered(edge.decisions, _around(traces, edge)), edge.decisions)
        tallies = tuple(primitive.tallies())
        at = remembered(
            primitive.reads(), _primitive(primitive, cost.call, named(edge), traces.known), tallies
        )
        return Price(edge, place, at, primitive.reads(), tallies)
    runs = None if place is None else traces.runs.get(place.path)
    if cost.flops and isinstance(runs, Tally):
        return Price(edge, place, _where(runs, cost.flops), runs.decisions(), (runs,))
    return Price(edge, place, fixed(cost.flops or 0))


def _around(traces: Traces, edge: Edge) -> Measure:
    """Operations of a primitive of the user's own apart from the choices in it."""

    def measure(arch: Mapping[str, Any]) -> int:
        completed = traces.completed({d.label: arch[d.label] for d in edge.decisions})
        seen = None if completed is None else entries(traces.graph(completed)).get(key_of(edge))
        return (seen.cost.flops or 0) if seen else 0

    return measure


def _where(runs: Tally, flops: int) -> Measure:
    """Operations of what is run under a condition."""
    return lambda arch: flops if tallied(runs, arch) else 0


def _layer(spec: LayerSpec, call: Call, known: Known) -> Measure:
    """Operations of a layer whose arguments are chosen."""

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            layer = built(spec, arch, call, META)
            return counted(layer, *fitted(layer, call, spec.input_sizes(arch)), known)[0]
        except Exception as error:  # torch says in many ways that sizes do not fit
            values = {decision.label: arch[decision.label] for decision in spec.sized}
            raise SpaceError(f"operations of {spec} with {values} cannot be counted: {error}") from error

    return measure


def _primitive(primitive: Any, call: Call, name: str, known: Known) -> Measure:
    """Operations of what a primitive of the user's own becomes."""

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            module = copy.deepcopy(primitive.freeze({**call.arch, **arch})).eval()
            given = fitted(module, call)
            try:
                return counted(copy.deepcopy(module).to(META), *given, known)[0]
            except Exception:  # it may look at values
                zeros = map_tensors(lambda t: torch.zeros_like(t, device="cpu"), given)
                return counted(module.cpu(), *zeros, known)[0]
        except Exception as error:
            raise SpaceError(f"operations of {name} cannot be counted: {error}") from error

    return measure


def _tabulated(traces: Traces, entry: Entry, key: Key, elsewhere: Sequence[Decision]) -> Price:
    """Price of an edge, counted anew for each combination of decisions elsewhere."""
    price = _price(traces, entry)
    refuse_many(elsewhere, _MOST_TRACES, price)
    known: dict[str, Measure] = {}

    def measure(arch: Mapping[str, Any]) -> float:
        given = {d.label: arch[d.label] for d in elsewhere if d.label in arch}
        if repr(given) not in known:
            seen = entries(traces.graph(traces.completed(given) or traces.default)).get(key)
            known[repr(given)] = fixed(0) if seen is None else _price(traces, seen).at
        return known[repr(given)](arch)

    decisions = merge_decisions([price.decisions, elsewhere])
    return replace(
        price, at=measure, decisions=decisions, tallies=(*price.tallies, *_ends(traces, elsewhere))
    )


def _ends(traces: Traces, decisions: Sequence[Decision]) -> list[Tally]:
    """Numbers of loose ends that inputs among some decisions determine."""
    labels = {decision.label for decision in decisions}
    cells = {m.label: m.topology for m in traces.space.modules() if isinstance(m, Cell)}
    ends = [LooseEnds(topology) for topology in cells.values()]
    return [tally for tally in ends if not labels.isdisjoint(d.label for d in tally.decisions())]
