"""A numbering of a cell's nodes that isomorphic cells agree on."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import networkx as nx


from ..language import Space
from ..language.base import further_decisions
from ..language.decisions import exported
from .reading import region_graph
from .regions import Edge, End, Region, RegionGraph
from .space_graph import chosen_text, concat_ranks, held_text, select

Colours: TypeAlias = dict[int, int]
Arrow: TypeAlias = tuple[int, int, tuple[Any, ...]]
"""(source, node, what is applied)."""


def canonical_numbers(colours: Mapping[int, int], arrows: Sequence[Arrow]) -> Colours:
    """Number nodes so that isomorphic graphs get the same arrows between numbers.

    Colours are refined by what comes in and goes out until nothing changes (Weisfeiler-Lehman). Nodes
    still alike are told apart by singling out each in turn and taking what gives the smallest graph, so
    the result is exact where refinement alone is not.

    Args:
        colours: Colour of each node; equal ones may be exchanged. Tags and colours must be sortable.
        arrows: Arrows of the graph.
    """
    refined = _refine(dict(colours), arrows)
    sizes = Counter(refined.values())
    tied = [colour for colour in sorted(sizes) if sizes[colour] > 1]
    if not tied:
        return refined
    # Doubling leaves room for a colour just below that of the others.
    singled = (
        {node: 2 * colour - (node == first) for node, colour in refined.items()}
        for first in refined
        if refined[first] == tied[0]
    )
    return min((canonical_numbers(c, arrows) for c in singled), key=lambda numbers: _renamed(numbers, arrows))


def _refine(colours: Colours, arrows: Sequence[Arrow]) -> Colours:
    colours = _ranked(colours)
    while True:
        seen: dict[int, tuple[Any, ...]] = {
            node: (
                colour,
                sorted((colours[source], tag) for source, target, tag in arrows if target == node),
                sorted((colours[target], tag) for source, target, tag in arrows if source == node),
            )
            for node, colour in colours.items()
        }
        finer = _ranked(seen)
        if len(set(finer.values())) == len(set(colours.values())):
            return colours
        colours = finer


def _ranked(values: Mapping[int, Any]) -> Colours:
    """Replace values by their ranks."""
    distinct: list[Any] = []
    for value in sorted(values.values()):
        if not distinct or distinct[-1] != value:
            distinct.append(value)
    return {node: distinct.index(value) for node, value in values.items()}


def _renamed(numbers: Colours, arrows: Iterable[Arrow]) -> list[tuple[Any, ...]]:
    return sorted((numbers[source], numbers[target], tag) for source, target, tag in arrows)


def architecture_hash(space: Space, arch: Mapping[str, Any]) -> str:
    """Weisfeiler-Lehman hash of an architecture's graph, 32 hexadecimal digits.

    Equal for isomorphic architectures: slots of a node exchanged, labels without effect added, the nodes
    of a cell in another order, value choices that come to the same layers. Unequal for different models of
    one space: a feature map is known by the choice it belongs to and its place there. Nodes of a cell that
    enter its output are known by their place in the concatenation, because the layers that follow tell
    channels apart; other nodes, and all of a cell that outputs their mean or sum, may be exchanged as long
    as the modules on their edges are alike.

    It depends on decisions and their structure, not on sizes: a space rebuilt wider gives the same hash.
    Decisions a space was joined with count as they are.

    Raises:
        SpaceError: `arch` is invalid.
    """
    import networkx as nx  # late: 0.1 s that declaring a space should not cost

    canonical = space.canonical(arch)
    graph = _expanded(region_graph(space), canonical)
    beside = {decision.label: canonical[decision.label] for decision in further_decisions(space)}
    if beside:
        graph.add_node("beside", colour=_colour("beside", sorted(beside.items())))
    with warnings.catch_warnings():
        # networkx tells that hashes of directed graphs changed in 3.5; ours never were of an older one.
        warnings.simplefilter("ignore", UserWarning)
        return str(nx.weisfeiler_lehman_graph_hash(graph, node_attr="colour", iterations=3, digest_size=16))


def _expanded(graph: RegionGraph, arch: Mapping[str, Any]) -> nx.DiGraph:
    """The selected graph with a node in place of every edge; `colour` says what each is."""
    import networkx as nx  # late: 0.1 s that declaring a space should not cost

    ends, edges = select(graph, arch)
    classes = {id(region): _classes(region) for region in graph.regions if region.exchangeable}
    places = _places(edges, classes)
    ranks = concat_ranks(edges)
    expanded = nx.DiGraph()
    for end in ends:
        place = places.get(end, end.local)
        held = held_text(end, arch) if end.region.held else ""
        expanded.add_node(str(end), colour=_colour(end.region.name, place, held))
    for number, (edge, count) in enumerate(edges):
        what = chosen_text(edge, arch) if edge.kind == "layer" else ranks.get(edge)
        if edge.kind == "candidate" and edge.target.region.exchangeable:
            what = classes[id(edge.target.region)][_at(edge)]
        candidate = exported(edge.attributes.get("candidate"))
        expanded.add_node(number, colour=_colour(edge.kind, candidate, count, what))
        expanded.add_edges_from([(str(edge.source), number), (number, str(edge.target))])
    return expanded


def _colour(*parts: Any) -> str:
    # A digest has a fixed length, so that colours joined by networkx cannot be read in two ways.
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


Classes: TypeAlias = dict[tuple[int, int], int]


def _at(edge: Edge) -> tuple[int, int]:
    """Row and column of a candidate of a cell."""
    return edge.attributes["row"], edge.attributes["columns"][0]


def _places(edges: list[tuple[Edge, int]], classes: Mapping[int, Classes]) -> dict[End, int]:
    """Return keys for the nodes that may be exchanged, in place of their numbers."""
    inside: dict[int, tuple[Region, list[tuple[Edge, int]]]] = {}
    for edge, count in edges:
        region = edge.target.region
        if region.exchangeable and edge.source.region is region:
            inside.setdefault(id(region), (region, []))[1].append((edge, count))
    places: dict[End, int] = {}
    for region, own in inside.values():
        numbers = _numbers(region, own, classes[id(region)])
        # Inputs and the output are not exchangeable: they keep their names.
        places |= {
            End(region, x): number for x, number in numbers.items() if region.nodes[x]["kind"] == "node"
        }
    return places


def _numbers(region: Region, edges: list[tuple[Edge, int]], classes: Classes) -> dict[str, int]:
    """Number the nodes of a cell as every isomorphic cell would."""
    locals_ = list(region.nodes)
    index = {local: i for i, local in enumerate(locals_)}
    used = {end.local for edge, _ in edges for end in (edge.source, edge.target)}
    # Inputs, the output and what it concatenates stay what they are; 0 is the colour of those that may be
    # exchanged.
    colours = {index[x]: 0 if region.nodes[x]["kind"] == "node" else 1 + index[x] for x in used}
    arrows: list[Arrow] = []
    rank = 0
    for edge, count in edges:
        source, target = index[edge.source.local], index[edge.target.local]
        if edge.kind == "concat":
            rank += 1
            colours[source] = len(locals_) + rank
        elif edge.kind != "candidate":
            arrows.append((source, target, (-1, 0, count)))
        else:
            at = _at(edge)
            arrows.append((source, target, (at[1], classes[at], count)))
    numbers = canonical_numbers(colours, arrows)
    return {locals_[i]: number for i, number in numbers.items()}


def _classes(region: Region) -> Classes:
    """Number the different modules one operation has on different edges, in the order of edges.

    Numbers, not what the modules are, so that a hash outlives a change of width or of torch's `repr`.
    """
    seen: dict[int, list[list[str]]] = {}
    classes = {}
    for at, signature in sorted(region.signatures.items()):
        kinds = seen.setdefault(at[1], [])
        if signature not in kinds:
            kinds.append(signature)
        classes[at] = kinds.index(signature)
    return classes
