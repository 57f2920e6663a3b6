"""Graphs of spaces and of architectures, written to networkx."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..language import Space
from ..language.conditions import ALWAYS
from ..language.decisions import exported
from ..language.values import evaluate
from ..nn import LayerSpec
from ..randomness import torch_generators_kept
from .reading import region_graph
from .regions import Edge, End, RegionGraph, live_nodes
from .tensors import example_arguments
from .tracing import trace

if TYPE_CHECKING:
    import networkx as nx

# Meaningful only while there is something to choose.
_OF_CHOICES = ("decisions", "groups", "row", "columns")


def space_graph(space: Space, example_inputs: Sequence[Any] | None = None) -> nx.MultiDiGraph:
    """The space as a graph: feature maps are nodes, candidate operations parallel edges.

    Attributes are strings and numbers, so that networkx can write the graph in any format; lists are JSON
    text, and one that is not known is absent. Edges have a `kind`:

    - "candidate", keyed by the candidate's name: an operation of a `LayerChoice` or `Cell`, an input of an
      `InputChoice`, a depth of a `Repeat` (from the block where it ends to the output);
    - "block" of a `Repeat`; "layer" for a layer with chosen arguments or a primitive of one's own;
    - "concat" from a cell's node to its output, with its `position`; or "mean" or "sum";
    - "contains" from where a candidate starts to the inputs of a choice inside it;
    - "data" (only with example inputs): a feature map is computed from another, outside every choice or
      in the candidate that the edge names.

    `decisions` are the labels an edge depends on, `candidate` its value, `condition` says when it is used,
    `paths` are its modules, `parameters` (and `flops` of the example) what they cost without choices inside
    them. `groups`, `row` and `columns` say where a supernet keeps its weight. The graph's own `parameters`
    are those outside every choice.

    Without example inputs, cells that share a label share one sub-graph; `paths` then lists the modules of
    all, and `parameters` is their sum. With them every call of a choice is a sub-graph of its own, with
    shapes on its nodes.

    Args:
        space: left untouched.
        example_inputs: positional arguments of the space's forward.

    Raises:
        SpaceError: with example inputs, when the network or a candidate does not run on them.
    """
    if example_inputs is None:
        return to_networkx(region_graph(space))
    return to_networkx(_traced(space, example_inputs, space.default()))


def architecture_graph(
    space: Space, arch: Mapping[str, Any], example_inputs: Sequence[Any] | None = None
) -> nx.MultiDiGraph:
    """The part of `space_graph` that an architecture selects.

    Edges that are not chosen are gone, and with them nodes that nobody computes or nobody reads. `count` says
    how many slots of a cell use an edge; `position` is the place among the nodes that are concatenated;
    `arguments` of a layer with chosen arguments are those of its choice. `parameters` and `flops` are of
    what is in the model: every slot and every cell that an edge stands for. With the graph's own they
    add up to those of the model, except for what a primitive of one's own leaves out, and with example
    inputs also what nobody reads.

    Raises:
        SpaceError: `arch` is invalid, or the network does not run on the example inputs.
    """
    canonical = space.canonical(arch)
    graph = region_graph(space) if example_inputs is None else _traced(space, example_inputs, canonical)
    return selection_to_networkx(graph, canonical)


def _traced(space: Space, example_inputs: Sequence[Any], arch: Mapping[str, Any]) -> RegionGraph:
    return trace(space, example_arguments(example_inputs), arch)


# -- writing -----------------------------------------------------------------------------------------------


def to_networkx(graph: RegionGraph) -> nx.MultiDiGraph:
    """Write every region and edge."""
    written = _empty(graph)
    for end in graph.ends():
        written.add_node(str(end), **_writable(_node_attributes(end)))
    for edge in graph.edges:
        attributes = {"kind": edge.kind, **edge.attributes, **_cost(edge), "condition": str(edge.condition)}
        written.add_edge(str(edge.source), str(edge.target), key=edge.key, **_writable(attributes))
    return written


def _writable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as formats of graphs can hold them: lists as JSON text."""
    scalars = {name: value for name, value in attributes.items() if value is not None}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(exported(value))
        for name, value in scalars.items()
    }


def select(graph: RegionGraph, arch: Mapping[str, Any]) -> tuple[list[End], list[tuple[Edge, int]]]:
    """Nodes an architecture uses, and edges with how often it uses them.

    Args:
        graph: Graph of the space.
        arch: canonical architecture.
    """
    counted = [(edge, count) for edge in graph.edges if (count := edge.count(arch))]
    holds = {id(region): region.condition.holds(arch) for region in graph.regions}
    ends = [end for end in graph.ends() if holds[id(end.region)]]
    pairs = [(edge.source, edge.target) for edge in graph.edges]
    alive = live_nodes(ends, pairs, [(edge.source, edge.target) for edge, _ in counted])
    kept = [(edge, count) for edge, count in counted if edge.source in alive and edge.target in alive]
    return [end for end in ends if end in alive], kept


def selection_to_networkx(graph: RegionGraph, arch: Mapping[str, Any]) -> nx.MultiDiGraph:
    """Write what a canonical architecture selects."""
    written = _empty(graph)
    ends, edges = select(graph, arch)
    for end in ends:
        attributes = _node_attributes(end)
        attributes.pop("condition", None)
        if end.region.held:
            attributes["arguments"] = held_text(end, arch)
        written.add_node(str(end), **_writable(attributes))
    ranks = concat_ranks(edges)
    for edge, count in edges:
        attributes = {"kind": edge.kind, **edge.attributes, **_cost(edge, arch)}
        for name in _OF_CHOICES:
            attributes.pop(name, None)
        if edge.kind in ("candidate", "block", "layer"):
            attributes["count"] = count
        if edge.kind == "concat":
            attributes["position"] = ranks[edge]
        if edge.kind == "layer":
            attributes["arguments"] = chosen_text(edge, arch)
        written.add_edge(str(edge.source), str(edge.target), key=edge.key, **_writable(attributes))
    return written


def _empty(graph: RegionGraph) -> nx.MultiDiGraph:
    import networkx as nx  # late: 0.1 s that declaring a space should not cost

    written = nx.MultiDiGraph(space=graph.title, parameters=graph.fixed.parameters)
    if graph.fixed.flops is not None:
        written.graph["flops"] = graph.fixed.flops
    return written


def _node_attributes(end: End) -> dict[str, Any]:
    region = end.region
    attributes = {
        "type": region.type,
        "primitive": region.label,
        "region": region.name,
        "paths": [place.path for place in region.places],
    }
    if region.is_cell:
        attributes["cell"] = region.label
    if region.condition != ALWAYS:
        attributes["condition"] = str(region.condition)
    return {**region.nodes[end.local], **attributes}


def _cost(edge: Edge, arch: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Cost of an edge that holds modules: all of them, or those an architecture has; absent if not known."""
    if edge.scope is None or edge.kind in ("concat", "mean", "sum"):
        return {}
    parameters, flops, paths = 0, 0, []
    for place, cost in zip(edge.scope.places, edge.costs, strict=True):
        count = 1 if arch is None else place.count(arch) * edge.slots(arch)
        if count:
            paths += cost.paths
            held = cost.parameters if arch is None or cost.spec is None else layer_parameters(cost.spec, arch)
            parameters += count * held
            flops += count * (cost.flops or 0)
    known = {} if any(cost.flops is None for cost in edge.costs) else {"flops": flops}
    return {"paths": paths, "parameters": parameters, **known}


def concat_ranks(edges: list[tuple[Edge, int]]) -> dict[Edge, int]:
    """Place of each concatenated node in its cell's output."""
    seen: dict[int, int] = {}
    ranks = {}
    for edge, _ in edges:  # in the order of nodes
        if edge.kind == "concat":
            ranks[edge] = seen.get(id(edge.target.region), 0)
            seen[id(edge.target.region)] = ranks[edge] + 1
    return ranks


def chosen_text(edge: Edge, arch: Mapping[str, Any]) -> str:
    """Return a key of a layer with chosen arguments, or of a user's primitive, under an architecture.

    A layer is its arguments, however they were arrived at; of a primitive we know the decisions alone.
    """
    specs = [cost.spec for cost in edge.costs if cost.spec is not None]
    if specs:
        texts = [str(LayerSpec(spec.layer_type, evaluate(dict(spec.arguments), arch))) for spec in specs]
        return texts[0] if len(set(texts)) == 1 else "; ".join(texts)
    return ", ".join(f"{d.label}={exported(d.parse(arch[d.label]))!r}" for d in edge.decisions)


def held_text(end: End, arch: Mapping[str, Any]) -> str:
    """Attributes of a module under an architecture."""
    return ", ".join(f"{name}={evaluate(value, arch)!r}" for name, value in end.region.held.items())


def layer_parameters(spec: LayerSpec, arch: Mapping[str, Any]) -> int:
    """Number of weights of a layer with chosen arguments."""
    with torch_generators_kept(), torch.device("meta"):
        return sum(parameter.numel() for parameter in spec.build(arch).parameters())
