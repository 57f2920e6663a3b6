"""Edges of a space as runs on an example input have seen them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..graph.flop_mode import Known
from ..graph.reading import region_graph
from ..graph.regions import Call, Cost, Edge, Place, RegionGraph
from ..graph.tensors import map_tensors, tensors_in
from ..graph.tracing import Tracer
from ..language import ALWAYS, Architecture, Space, Tally
from ..nn import LayerSpec
from ..randomness import torch_generators_kept
from .prices import around_choices, combinations, refuse_hidden_choices
from .tallies import results_of

_ATTEMPTS = 1000

Key: TypeAlias = tuple[str, ...]
"""Names an edge in every trace of a space; empty for what lies outside every choice."""


class Entry(NamedTuple):
    """An edge that holds modules, at its place, and its cost; no edge for what is outside every choice."""

    edge: Edge | None
    place: Place | None
    cost: Cost


class Traces:
    """Runs of a space as several architectures, each made once.

    Args:
        space: left untouched.
        inputs: positional arguments of its forward.

    Attributes:
        known: Results of operations and modules so far.
    """

    def __init__(self, space: Space, inputs: Sequence[Any]) -> None:
        self.space = space
        self.decision_space = space.decision_space
        self.known = Known()
        self._tracer = Tracer(space, inputs, self.known)
        self._known: dict[str, RegionGraph] = {}
        first = {decision.label: next(iter(decision.values())) for decision in space.decisions}
        self.default: Architecture = {**first, **space.default()}
        self.runs = {
            place.path: edge.runs for edge, place, _ in region_graph(space).costs() if edge.runs != ALWAYS
        }

    def graphs(self) -> list[RegionGraph]:
        """The traces made so far."""
        return list(self._known.values())

    def graph(self, arch: Mapping[str, Any]) -> RegionGraph:
        """Trace of `arch`, which has a value for every label."""
        key = repr([arch[label] for label in self.default])
        if key not in self._known:
            self._known[key] = self._tracer.trace(arch)
        return self._known[key]

    def completed(self, values: Mapping[str, Any]) -> Architecture | None:
        """An architecture with these values, and one for every other label; None where it is forbidden."""
        valid = self.decision_space.complete(values)
        return None if valid is None else {**self.default, **values, **valid}

    def entries(self) -> dict[Key, Entry]:
        """Every edge that holds modules, each as some trace ran it.

        Raises:
            SpaceError: a primitive of the user's own has choices inside it.
        """
        refuse_hidden_choices(self.space)
        found = entries(self.graph(self.default))
        for edge, _ in around_choices(self.space):  # each of its choices may have other things in it
            for values in combinations(edge.decisions):
                arch = self.completed(values)
                seen = {} if arch is None else entries(self.graph(arch))
                found |= {key: entry for key, entry in seen.items() if key not in found}
        for key, entry in list(found.items()):
            if entry.edge is None or entry.place is None or found[key].cost.flops is not None:
                continue
            arch = self._with(entry.edge, entry.place)
            if arch is not None:  # what is inside it was not seen before either
                seen = entries(self.graph(arch))
                found |= {k: e for k, e in seen.items() if k not in found or found[k].cost.flops is None}
        return found

    def _running(self, place: Place) -> Architecture:
        """Values under which what is at a place is run."""
        runs = self.runs.get(place.path)
        return results_of(runs).examples[True] if isinstance(runs, Tally) else {}

    def _with(self, edge: Edge, place: Place) -> Architecture | None:
        """An architecture that has the edge, or None."""
        needed, example = [edge.local], self._running(place)
        while place.inside is not None and place.within is not None:
            needed.append(place.inside.local)
            place = place.within
        labels = sorted(frozenset().union(*(condition.labels for condition in needed)))
        decisions = [self.decision_space.by_label[label] for label in labels]
        for values in itertools.islice(combinations(decisions), _ATTEMPTS):
            if all(condition.holds(values) for condition in needed):
                arch = self.completed(values | example)
                if arch is not None:
                    return arch
        return None


def entries(graph: RegionGraph) -> dict[Key, Entry]:
    """Every edge of a trace that holds modules."""
    found: dict[Key, Entry] = {(): Entry(None, None, graph.fixed)}
    for edge, place, cost in graph.costs():
        if edge.kind in ("candidate", "block", "layer"):
            found[key_of(edge)] = Entry(edge, place, cost)
    return found


def key_of(edge: Edge) -> Key:
    """Key of an edge of a trace."""
    return edge.source.region.name, edge.source.local, edge.target.local, edge.key


def built(spec: LayerSpec, arch: Mapping[str, Any], call: Call, device: torch.device) -> nn.Module:
    """Layer with chosen arguments for the inputs of a call, in evaluation mode."""
    dtypes = [t.dtype for t in tensors_in((call.args, call.kwargs)) if t.is_floating_point()]
    with torch_generators_kept(device), device:
        return spec.build(arch).to(dtypes[0] if dtypes else None).eval()


def fitted(
    layer: nn.Module, call: Call, inputs: Mapping[str, Mapping[int, int]] = MappingProxyType({})
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call with as many channels or features as `layer` expects.

    Another choice of a layer's arguments gets another input: what is upstream chose the same width. A cache
    of keys and values, which the call has filled, is left out.

    Args:
        layer: Layer.
        call: The call.
        inputs: Sizes of dimensions by argument, of a layer whose attributes do not say them.
    """
    bound = inspect.signature(layer.forward).bind(*call.args, **call.kwargs)
    sizes, dim = _input_sizes(layer)
    own = {name: {dim: size} for name, size in zip(bound.arguments, sizes, strict=False)}
    for name, wanted in (inputs or own).items():
        for dim, size in wanted.items():
            bound.arguments[name] = map_tensors(partial(_resized, dim=dim, size=size), bound.arguments[name])
    for name, value in bound.arguments.items():
        if hasattr(value, "get_seq_length"):  # a cache of transformers
            bound.arguments[name] = None
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        bound.arguments.pop("hx", None)  # of another size too, and zeros are as costly
    return bound.args, bound.kwargs


def _input_sizes(layer: nn.Module) -> tuple[list[int], int]:
    """Size of each input that a layer's own arguments determine, and in which dimension."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return [layer.in_channels], -1 - len(layer.kernel_size)
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return [layer.num_features], 1
    if isinstance(layer, nn.GroupNorm):
        return [layer.num_channels], 1
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return [layer.normalized_shape[-1]], -1
    if isinstance(layer, nn.MultiheadAttention):
        return [layer.embed_dim, layer.kdim or layer.embed_dim, layer.vdim or layer.embed_dim], -1
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return [layer.input_size], -1
    return ([layer.in_features] if isinstance(layer, nn.Linear) else []), -1


def _resized(tensor: Tensor, dim: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = size
    return tensor.new_empty(shape)
