"""Finding which edges cost something else because of sizes that are chosen elsewhere."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..graph.flop_mode import META, Known
from ..graph.regions import Call, Cost, Region, RegionGraph
from ..graph.tensors import tensors_in
from ..language import (
    Architecture,
    Cell,
    Decision,
    InputChoice,
    LayerChoice,
    LooseEnds,
    Primitive,
    Repeat,
)
from ..language.primitive import held_values
from ..language.values import decisions_of, merge_decisions
from ..nn import ValueLayer
from ..progress import with_bar
from .counting import counted
from .prices import Price, untallied
from .traced import Key, Traces, built, entries, fitted, key_of

_MOST_PROBES = 16
_SEED = 0

_Change: TypeAlias = tuple[Decision, Any]
"""A decision and the value it takes."""


def moving_decisions(traces: Traces) -> tuple[Decision, ...]:
    """Decisions that may change the size of a feature map, or what code outside choices does."""
    found: list[tuple[Decision, ...]] = []
    for region in itertools.chain(*(graph.regions for graph in traces.graphs())):
        if not region.places:
            continue
        module = traces.space.get_submodule(region.places[0].path)
        if region.held:
            found.append(held_values(module))
        elif isinstance(module, Primitive) and _changes_size(module, region, traces.known):
            found.append(_resizing(module, region))
            place = region.places[0]
            while place.inside is not None and place.within is not None:
                found.append(place.inside.decisions)
                place = place.within
    return merge_decisions(found)


def _changes_size(choice: Primitive, region: Region, known: Known) -> bool:
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
    return any(_output_varies(choice, edge.costs[0].call, known) for edge in edges)


def _operations_differ(cell: Cell, region: Region) -> bool:
    """Whether operations on one node of a cell make feature maps of different sizes."""
    edges = [edge for edge in region.edges.values() if edge.kind == "candidate"]
    by_node = {(edge.target.local, _size(edge.costs[0])) for edge in edges}
    return len(by_node) > cell.topology.num_nodes


def _output_varies(primitive: Primitive, call: Call | None, known: Known) -> bool:
    """Whether a layer with choices, or a primitive of the user's own, makes outputs of different sizes."""
    if call is None:
        return False
    rng = np.random.default_rng(_SEED)
    for _ in range(_MOST_PROBES):
        drawn = {decision.label: decision.sample(rng) for decision in primitive.reads()}
        try:
            output = _output(primitive, {**call.arch, **drawn}, call, known)
        except Exception:  # its code may need what only a whole network gives it
            return True
        if _shapes(output) != _shapes(call.output):
            return True
    return False


def _output(primitive: Primitive, arch: Architecture, call: Call, known: Known) -> Any:
    """Return what a primitive makes of the inputs of a call under an architecture."""
    if isinstance(primitive, ValueLayer):
        layer = built(primitive.spec, arch, call, META)
        return counted(layer, *fitted(layer, call, primitive.spec.input_sizes(arch)), known)[1]
    module = copy.deepcopy(primitive.freeze(arch)).to(META).eval()
    return counted(module, *fitted(module, call), known)[1]


def _resizing(choice: Primitive, region: Region) -> tuple[Decision, ...]:
    """Decisions of a choice that may change the size of its output."""
    if isinstance(choice, Cell) and not _operations_differ(choice, region):
        return LooseEnds(choice.topology).decisions()
    return tuple(untallied(choice.decisions(), tuple(choice.tallies())))


def _shapes(output: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors_in(output)]


def _size(cost: Cost) -> str:
    return "unknown" if cost.call is None else str(_shapes(cost.call.output))


def probes_of(traces: Traces, moving: Sequence[Decision]) -> Iterator[Architecture]:
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


def differences(prices: Mapping[Key, Price], traces: Traces, arch: Architecture) -> dict[Key, float]:
    """How much more edges cost in the trace of an architecture than their prices say, where they do."""
    found: dict[Key, float] = {}
    for key, (_, _, cost) in entries(traces.graph(arch)).items():
        ran_as = arch if cost.call is None else cost.call.arch
        if key in prices and cost.flops is not None and cost.flops != prices[key].at(ran_as):
            found[key] = cost.flops - prices[key].at(ran_as)
    return found


def find_elsewhere(
    traces: Traces,
    prices: Mapping[Key, Price],
    elsewhere: Mapping[Key, list[Decision]],
    base: Architecture,
    moving: Sequence[Decision],
) -> None:
    """Note for each edge which decisions, changed alone, make it cost something else than its price says.

    Decisions that are taken in different blocks change together, as long as nothing leaves these blocks.
    """
    before = differences(prices, traces, base)
    fixed_values = {decision.label: base[decision.label] for decision in moving}
    homes = _homes(traces.graph(base), base, moving)
    alone = list[_Change]()

    def note(changes: Sequence[_Change], arch: Architecture | None) -> None:
        after = before if arch is None else differences(prices, traces, arch)
        within = {} if arch is None else _outermost(traces.graph(base)) | _outermost(traces.graph(arch))
        for key in before.keys() | after.keys():
            if before.get(key) == after.get(key):
                continue
            for decision, _ in changes:
                mine = len(changes) == 1 or homes[decision.label] == within[key]
                if mine and decision not in elsewhere[key]:
                    elsewhere[key].append(decision)

    for changes in with_bar(list(_batches(moving, base, homes)), "counting operations"):
        values = {decision.label: value for decision, value in changes}
        arch = traces.completed(fixed_values | values)
        blocks = [homes.get(label) for label in values]
        if len(changes) == 1 or (arch is not None and _stays_inside(traces, base, arch, values, blocks)):
            note(changes, arch)
        else:
            alone += changes
    for decision, value in alone:
        note([(decision, value)], traces.completed(fixed_values | {decision.label: value}))


def _batches(
    moving: Sequence[Decision], base: Architecture, homes: Mapping[str, Key]
) -> Iterator[list[_Change]]:
    """Yield changes of every decision to every other value, together only where their homes differ."""
    by_home: dict[Key | str, list[_Change]] = {}
    for decision in moving:
        changes = [(decision, value) for value in decision.values() if value != base[decision.label]]
        by_home.setdefault(homes.get(decision.label, decision.label), []).extend(changes)
    at_home = [changes for home, changes in by_home.items() if not isinstance(home, str)]
    for together in itertools.zip_longest(*at_home):
        yield [change for change in together if change is not None]
    yield from ([change] for home, changes in by_home.items() if isinstance(home, str) for change in changes)


def _homes(graph: RegionGraph, arch: Architecture, moving: Sequence[Decision]) -> dict[str, Key]:
    """Find the outermost edge inside which alone each decision is read, where there is one."""
    found: dict[str, set[Key]] = {decision.label: set() for decision in moving}
    outermost = _outermost(graph)
    for edge, _, cost in graph.costs():
        read = edge.decisions if cost.spec is None else (*edge.decisions, *cost.spec.decisions)
        for decision in read:
            if decision.label in found:
                found[decision.label].add(outermost[key_of(edge)])
    for region in graph.regions:
        for label in found.keys() & {decision.label for decision in decisions_of(region.held)}:
            found[label].add(())
    return {label: homes.pop() for label, homes in found.items() if len(homes) == 1 and () not in homes}


def _outermost(graph: RegionGraph) -> dict[Key, Key]:
    """For every edge of a trace the outermost edge that it is part of; itself, of a choice in no other."""
    found: dict[Key, Key] = {(): ()}
    for edge, place, _ in graph.costs():
        outer = edge
        while place.inside is not None and place.within is not None:
            outer, place = place.inside, place.within
        found[key_of(edge)] = key_of(outer)
    return found


def _stays_inside(
    traces: Traces, base: Architecture, arch: Architecture, values: Architecture, blocks: Sequence[Any]
) -> bool:
    """Whether two architectures differ in some values alone, and blocks take and give the same sizes."""
    if {label: arch[label] for label in arch if arch[label] != base.get(label)} != values:
        return False
    before, after = (entries(traces.graph(a)) for a in (base, arch))
    calls = [[found[block].cost.call for found in (before, after)] for block in blocks]
    return all(one is not None and other is not None and _sizes(one) == _sizes(other) for one, other in calls)


def _sizes(call: Call) -> list[list[int]]:
    return _shapes((call.args, call.kwargs, call.output))
