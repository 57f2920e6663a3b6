"""Floating-point operations, also where they depend on sizes that are chosen elsewhere."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import SpaceError, quoted
from ..graph.regions import Call, Cost, Edge, Region, RegionGraph
from ..graph.tensors import QuickShapes, map_tensors, tensors_in, without_data
from ..language import (
    Architecture,
    Cell,
    Decision,
    InputChoice,
    LayerChoice,
    LooseEnds,
    Primitive,
    Repeat,
    Space,
    Tally,
    tallied,
    tallies_of,
)
from ..language.primitive import held_values
from ..language.values import merge_decisions
from ..nn import LayerSpec
from .prices import Measure, Price, Prices, choices_inside, fixed, named, refuse_many, remembered, untallied
from .traced import Entry, Key, Traces, built, entries, fitted, key_of

_MOST_TRACES = 64  # combinations of decisions elsewhere that one price may depend on
_MOST_PROBES = 16
_SEED = 0


def count_flops(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, Any]:
    """Count the operations of one evaluation-mode pass of a frozen network, and its output.

    Raises:
        SpaceError: the forward pass fails.
    """
    try:
        return _run_counted(model, inputs, "meta")
    except Exception:  # any network code may run here; the real pass below says what is wrong
        pass
    try:
        return _run_counted(model, inputs, "cpu")
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        raise SpaceError(
            f"cannot profile {type(model).__name__}: its forward pass fails for an input of shape {shapes}: "
            f"{error}"
        ) from error


def _run_counted(model: nn.Module, inputs: tuple[Any, ...], device: str) -> tuple[int, Any]:
    replica = copy.deepcopy(model).to(device).eval()
    given = map_tensors(lambda tensor: tensor.to(device), inputs)
    return _counted(replica, given, {})


def frozen_flops(space: Space, inputs: Sequence[Any]) -> Measure:
    """Count the operations of the frozen model."""
    data = (*space.parameters(), *space.buffers())
    twin = copy.deepcopy(space, {id(tensor): without_data(tensor) for tensor in data})

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            return _run_counted(twin.freeze(arch), tuple(inputs), "meta")[0]
        except Exception:  # any network code may run here; with weights it may run, or say what is wrong
            return count_flops(space.freeze(arch), tuple(inputs))[0]

    return measure


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
    moving = _moving(space, traces.graphs())
    probes = list(_probes(traces, moving))
    elsewhere: dict[Key, list[Decision]] = {key: [] for key in prices}
    for base in (traces.default, *probes):
        wrong = {key for arch in probes for key in _differences(prices, traces, arch)}
        if not wrong:
            break
        _find_elsewhere(traces, prices, elsewhere, base, moving)
        prices |= {key: _tabulated(traces, found[key], key, elsewhere[key]) for key in wrong}
    for arch in probes:
        for key in _differences(prices, traces, arch):
            raise SpaceError(
                f"FLOPs are no sum over choices: those of {prices[key]} depend on sizes that several of "
                f"{quoted(decision.label for decision in moving)} decide together."
            )
    result = Prices("flops", space.decision_space, tuple(prices.values())).merged()
    result.check(space, frozen_flops(space, inputs))
    return result


def _price(traces: Traces, entry: Entry) -> Price:
    """Price of an edge from one run of it, in terms of its own decisions."""
    edge, place, cost = entry
    if cost.flops and cost.spec is not None and cost.call is not None:
        tallies = tallies_of(cost.spec.arguments)
        at = remembered(cost.spec.decisions, _layer(cost.spec, cost.call), tallies)
        return Price(edge, place, at, cost.spec.decisions, tallies)
    if edge is not None and place is not None and edge.kind == "layer" and cost.spec is None and cost.call:
        primitive: Any = traces.space.get_submodule(place.path)
        if any(choices_inside(primitive)):
            return Price(edge, place, remembered(edge.decisions, _around(traces, edge)), edge.decisions)
        tallies = tuple(primitive.tallies())
        at = remembered(primitive.reads(), _primitive(primitive, cost.call, named(edge)), tallies)
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


def _layer(spec: LayerSpec, call: Call) -> Measure:
    """Operations of a layer whose arguments are chosen."""

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            layer = built(spec, arch, call, torch.device("meta"))
            return _count(layer, *fitted(layer, call))
        except Exception as error:  # torch says in many ways that sizes do not fit
            values = {decision.label: arch[decision.label] for decision in spec.decisions}
            raise SpaceError(f"operations of {spec} with {values} cannot be counted: {error}") from error

    return measure


def _primitive(primitive: Any, call: Call, name: str) -> Measure:
    """Operations of what a primitive of the user's own becomes."""

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            module = copy.deepcopy(primitive.freeze({**call.arch, **arch})).eval()
            given = fitted(module, call)
            try:
                return _count(copy.deepcopy(module).to(torch.device("meta")), *given)
            except Exception:  # it may look at values
                zeros = map_tensors(lambda t: torch.zeros_like(t, device="cpu"), given)
                return _count(module.cpu(), *zeros)
        except Exception as error:
            raise SpaceError(f"operations of {name} cannot be counted: {error}") from error

    return measure


def _count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return _counted(module, args, kwargs)[0]


def _counted(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, Any]:
    """Return the operations of a pass without gradients, and its output."""
    from torch.utils.flop_counter import FlopCounterMode  # late: it loads Triton, 0.15 s

    with torch.no_grad(), QuickShapes(), FlopCounterMode(display=False) as counter:
        output = module(*args, **kwargs)
    return int(counter.get_total_flops()), output


# -- sizes chosen elsewhere ------------------------------------------------------------------------------


def _moving(space: Space, graphs: Sequence[RegionGraph]) -> tuple[Decision, ...]:
    """Decisions that may change the size of a feature map, or what code outside choices does."""
    found: list[tuple[Decision, ...]] = []
    for region in itertools.chain(*(graph.regions for graph in graphs)):
        if not region.places:
            continue
        module = space.get_submodule(region.places[0].path)
        if region.held:
            found.append(held_values(module))
        elif isinstance(module, Primitive) and _changes_size(space, module, region):
            found.append(_resizing(module, region))
            place = region.places[0]
            while place.inside is not None and place.within is not None:
                found.append(place.inside.decisions)
                place = place.within
    return merge_decisions(found)


def _changes_size(space: Space, choice: Primitive, region: Region) -> bool:
    edges = list(dict.fromkeys(region.edges.values()))
    if isinstance(choice, InputChoice):
        sizes = {str(region.nodes[name].get("shape")) for name in region.inputs}
        return len(sizes) > 1 or (choice.n_chosen is None and choice.reduction in ("concat", "none"))
    if isinstance(choice, LayerChoice):
        return len({_size(edge.costs[0]) for edge in edges}) > 1
    if isinstance(choice, Repeat):
        blocks = {_size(edge.costs[0]) for edge in edges if edge.kind == "block"}
        return len(blocks | {str([region.nodes["in"].get("shape")])}) > 1
    if isinstance(choice, Cell):
        return region.loose_end or _operations_differ(choice, region)
    return any(_output_varies(space, choice, edge.costs[0].call) for edge in edges)


def _operations_differ(cell: Cell, region: Region) -> bool:
    """Whether operations on one node of a cell make feature maps of different sizes."""
    edges = [edge for edge in region.edges.values() if edge.kind == "candidate"]
    by_node = {(edge.target.local, _size(edge.costs[0])) for edge in edges}
    return len(by_node) > cell.topology.num_nodes


def _output_varies(space: Space, primitive: Primitive, call: Call | None) -> bool:
    """Whether a layer with choices, or a primitive of the user's own, makes outputs of different sizes."""
    if call is None:
        return False
    rng = np.random.default_rng(_SEED)
    for _ in range(_MOST_PROBES):
        try:
            module = copy.deepcopy(primitive.freeze({**call.arch, **space.sample(rng)})).to("meta").eval()
            args, kwargs = fitted(module, call)
            with torch.no_grad():
                output = module(*args, **kwargs)
        except Exception:  # its code may need what only a whole network gives it
            return True
        if _shapes(output) != _shapes(call.output):
            return True
    return False


def _resizing(choice: Primitive, region: Region) -> tuple[Decision, ...]:
    """Decisions of a choice that may change the size of its output."""
    if isinstance(choice, Cell) and not _operations_differ(choice, region):
        return LooseEnds(choice.topology).decisions()
    return tuple(untallied(choice.decisions(), tuple(choice.tallies())))


def _shapes(output: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors_in(output)]


def _size(cost: Cost) -> str:
    return "unknown" if cost.call is None else str(_shapes(cost.call.output))


def _probes(traces: Traces, moving: Sequence[Decision]) -> Iterator[Architecture]:
    """Architectures in which each of some decisions takes each of its values, many of them at a time."""
    values = {d.label: list(itertools.islice(d.values(), _MOST_PROBES)) for d in moving}
    left = {(label, repr(value)) for label, options in values.items() for value in options}
    for k in range(max(map(len, values.values()), default=0)):
        together = {label: options[k % len(options)] for label, options in values.items()}
        alone = [{label: value} for label, value in together.items()]
        for given in (together, *alone):  # constraints may forbid what the values are together
            if left.isdisjoint((label, repr(value)) for label, value in given.items()):
                continue
            arch = traces.completed(given)
            if arch is not None:
                left -= {(label, repr(arch[label])) for label in values}
                yield arch


def _differences(prices: Mapping[Key, Price], traces: Traces, arch: Architecture) -> dict[Key, float]:
    """How much more edges cost in the trace of an architecture than their prices say, where they do."""
    found: dict[Key, float] = {}
    for key, (_, _, cost) in entries(traces.graph(arch)).items():
        ran_as = arch if cost.call is None else cost.call.arch
        if key in prices and cost.flops is not None and cost.flops != prices[key].at(ran_as):
            found[key] = cost.flops - prices[key].at(ran_as)
    return found


def _find_elsewhere(
    traces: Traces,
    prices: Mapping[Key, Price],
    elsewhere: Mapping[Key, list[Decision]],
    base: Architecture,
    moving: Sequence[Decision],
) -> None:
    """Note for each edge which decisions, changed alone, make it cost something else than its price says."""
    before = _differences(prices, traces, base)
    for decision in moving:
        for value in decision.values():
            arch = traces.completed({d.label: base[d.label] for d in moving} | {decision.label: value})
            after = before if arch is None else _differences(prices, traces, arch)
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key) and decision not in elsewhere[key]:
                    elsewhere[key].append(decision)


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
