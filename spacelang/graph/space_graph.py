"""Graphs of spaces and of architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..language import Space
from .example_inputs import example_arguments
from .reading import plan_of
from .regions import Plan
from .tracing import trace
from .writing import selection_to_networkx, to_networkx

if TYPE_CHECKING:
    import networkx as nx


def space_graph(space: Space, example_inputs: Sequence[Any] | None = None) -> nx.MultiDiGraph:
    """The space as a graph: feature maps are nodes, candidate operations parallel edges.

    Attributes are strings, numbers and lists of them, so that the graph can be saved; one that is not
    known is absent. Edges have a `kind`:

    - "candidate", keyed by the candidate's name: an operation of a `LayerChoice` or `Cell`, an input of an
      `InputChoice`, a depth of a `Repeat` (from the block where it ends to the output);
    - "block" of a `Repeat`; "layer" for a layer with chosen arguments or a primitive of one's own;
    - "concat" from a cell's node to its output, with its `position`;
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
        return to_networkx(plan_of(space))
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
    plan = plan_of(space) if example_inputs is None else _traced(space, example_inputs, canonical)
    return selection_to_networkx(plan, canonical)


def _traced(space: Space, example_inputs: Sequence[Any], arch: Mapping[str, Any]) -> Plan:
    return trace(space, example_arguments(example_inputs), arch)
