"""Writing a plan to networkx: the whole of it, or what an architecture selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..language.conditions import ALWAYS
from ..language.decisions import exported
from ..language.values import evaluate
from ..nn import LayerSpec
from ..randomness import torch_generators_kept
from .regions import Edge, End, Plan, live_nodes

# Meaningful only while there is something to choose.
_OF_CHOICES = ("decisions", "groups", "row", "columns")

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(plan: Plan) -> nx.MultiDiGraph:
    """Write every region and edge."""
    graph = _empty(plan)
    for end in plan.ends():
        graph.add_node(str(end), **_node_attributes(end))
    for edge in plan.edges:
        attributes = {"kind": edge.kind, **edge.attributes, **_cost(edge), "condition": str(edge.condition)}
        graph.add_edge(str(edge.source), str(edge.target), key=edge.key, **attributes)
    return graph


def select(plan: Plan, arch: Mapping[str, Any]) -> tuple[list[End], list[tuple[Edge, int]]]:
    """Nodes an architecture uses, and edges with how often it uses them.

    Args:
        plan: the graph of the space.
        arch: canonical architecture.
    """
    counted = [(edge, count) for edge in plan.edges if (count := edge.count(arch))]
    holds = {id(region): region.condition.holds(arch) for region in plan.regions}
    ends = [end for end in plan.ends() if holds[id(end.region)]]
    pairs = [(edge.source, edge.target) for edge in plan.edges]
    alive = live_nodes(ends, pairs, [(edge.source, edge.target) for edge, _ in counted])
    kept = [(edge, count) for edge, count in counted if edge.source in alive and edge.target in alive]
    return [end for end in ends if end in alive], kept


def selection_to_networkx(plan: Plan, arch: Mapping[str, Any]) -> nx.MultiDiGraph:
    """Write what a canonical architecture selects."""
    graph = _empty(plan)
    ends, edges = select(plan, arch)
    for end in ends:
        attributes = _node_attributes(end)
        attributes.pop("condition", None)
        if end.region.held:
            attributes["arguments"] = held_text(end, arch)
        graph.add_node(str(end), **attributes)
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
        graph.add_edge(str(edge.source), str(edge.target), key=edge.key, **attributes)
    return graph


def _empty(plan: Plan) -> nx.MultiDiGraph:
    import networkx as nx  # late: 0.1 s that declaring a space should not cost

    graph = nx.MultiDiGraph(space=plan.title, parameters=plan.fixed.parameters)
    if plan.fixed.flops is not None:
        graph.graph["flops"] = plan.fixed.flops
    return graph


def _node_attributes(end: End) -> dict[str, Any]:
    region = end.region
    attributes = {
        "type": region.type,
        "primitive": region.label,
        "region": region.name,
        "paths": [place.path for place in region.places],
    }
    if region.condition != ALWAYS:
        attributes["condition"] = str(region.condition)
    return {**region.nodes[end.local], **attributes}


def _cost(edge: Edge, arch: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Cost of an edge that holds modules: all of them, or those an architecture has; absent if not known."""
    if edge.scope is None or edge.kind == "concat":
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
    """What a layer with chosen arguments, or a primitive of the user's own, is under an architecture.

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
