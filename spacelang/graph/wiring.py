"""Cells of one's own: which of a module's choices leads from which feature map to which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from ..errors import SpaceError, quoted, require_integer
from ..language import Condition
from ..language.conditions import ALWAYS, either
from .regions import Edge, End, Region


@dataclass(frozen=True)
class Wire:
    """An edge of a cell, from one node to another.

    Args:
        source: Number of the node that it leaves.
        target: Number of the node that it enters.
        choice: Path inside the module of the choice that stands on it, which has one input; an empty string
            where the feature map is passed on unchanged.
        when: Condition under which it is there for a feature map to be passed on.
        absent: Candidate of the choice that stands for no edge, such as "none".
    """

    source: int
    target: int
    choice: str = ""
    when: Condition = ALWAYS
    absent: str | None = None


@dataclass(frozen=True)
class Wiring:
    """The graph of a cell: nodes are feature maps, and wires lead from one to another.

    Nodes `0 .. num_inputs - 1` are the inputs, then come `num_nodes` intermediate ones, and the last is the
    output. Modules with equal labels and wires share one sub-graph, as a `Cell` does.

    Args:
        label: Name of the cell.
        num_inputs: Number of inputs.
        num_nodes: Number of intermediate nodes.
        wires: Every edge, from a lower to a higher number.

    Raises:
        SpaceError: a wire leads to a node that does not exist, or backwards.
    """

    label: str
    num_inputs: int
    num_nodes: int
    wires: tuple[Wire, ...]

    def __post_init__(self) -> None:
        require_integer("num_inputs", self.num_inputs, least=1)
        require_integer("num_nodes", self.num_nodes, least=0)
        for wire in self.wires:
            if not 0 <= wire.source < wire.target <= self.output:
                raise SpaceError(
                    f"cell {self.label!r}: a wire leads from node {wire.source} to {wire.target}; nodes are "
                    f"numbered 0 to {self.output}, and a wire leads from a lower to a higher one."
                )

    @property
    def output(self) -> int:
        """Number of the output node."""
        return self.num_inputs + self.num_nodes

    def name(self, node: int) -> str:
        """Return the local name of a node."""
        if node == self.output:
            return "out"
        return f"in_{node}" if node < self.num_inputs else f"node_{node}"


@runtime_checkable
class Wired(Protocol):
    """A module, such as a cell of one's own, that says how its choices are wired.

    Without it the declared graph knows the choices in a module, and not what leads where between them.
    """

    def wiring(self) -> Wiring:
        """Return the graph of the cell."""
        ...


def wired_region(module: nn.Module, wiring: Wiring) -> Region:
    """Return the region of a cell of one's own, with the edges that pass a feature map on."""
    region = Region(wiring.label, type(module).__name__, wiring.label, {}, is_cell=True)
    names = [wiring.name(node) for node in range(wiring.output + 1)]
    region.inputs = tuple(names[: wiring.num_inputs])
    for index, name in enumerate(names):
        kind = "input" if index < wiring.num_inputs else "node"
        region.nodes[name] = {"kind": kind, "index": index}
    region.nodes["out"] = {"kind": "output"}
    passed: dict[tuple[int, int], list[Condition]] = {}
    for wire in wiring.wires:
        if not wire.choice:
            passed.setdefault((wire.source, wire.target), []).append(wire.when)
    for (source, target), conditions in passed.items():
        kind, when = "concat" if target == wiring.output else "data", either(conditions)
        ends = End(region, wiring.name(source)), End(region, wiring.name(target))
        attributes = {"decisions": sorted(when.labels)}
        region.edges[f"{kind} {source} {target}"] = Edge(*ends, kind, kind, when, attributes=attributes)
    return region


def put_on_wire(region: Region, cell: Region, wiring: Wiring, wire: Wire) -> None:
    """Let the region of a choice begin and end at the nodes of the cell around it.

    Raises:
        SpaceError: the choice has several inputs.
    """
    if region.inputs != ("in",):
        raise SpaceError(
            f"cell {wiring.label!r}: {region.base!r} has inputs {quoted(region.inputs)} and cannot stand on "
            "one wire, which has one."
        )
    moved = {"in": End(cell, wiring.name(wire.source)), "out": End(cell, wiring.name(wire.target))}
    for edge in dict.fromkeys(region.edges.values()):
        edge.source = moved.get(edge.source.local, edge.source)
        edge.target = moved.get(edge.target.local, edge.target)
        edge.runs = wire.when
        if wire.absent is not None and edge.attributes.get("candidate") == wire.absent:
            edge.attributes["absent"] = True
    region.nodes = {name: node for name, node in region.nodes.items() if name not in moved}
    region.inputs = ()
