"""Nodes and edges of each kind of choice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..language import Categorical, Cell, Decision, InputChoice, LayerChoice, Primitive, Repeat, Subset
from ..language.conditions import ALWAYS, Condition, Is
from ..language.primitive import held_values
from ..language.topology import CellTopology
from ..language.values import Choice, decisions_of
from ..nn import ValueLayer
from .regions import Edge, End, Region


@dataclass(frozen=True)
class Contains:
    """A set of inputs contains one of them."""

    decision: Subset
    index: int

    @property
    def labels(self) -> frozenset[str]:
        """The label of the set."""
        return frozenset((self.decision.label,))

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Whether the set chosen by `arch` has it."""
        return self.decision.label in arch and self.index in self.decision.parse(arch[self.decision.label])

    def __str__(self) -> str:
        return f"{self.decision.label} contains {self.index}"


@dataclass(frozen=True)
class Unread:
    """No node of a cell reads this one."""

    topology: CellTopology
    node: int

    @property
    def labels(self) -> frozenset[str]:
        """Labels of the inputs of every node behind it."""
        return frozenset(decision.label for decision in self._inputs())

    def _inputs(self) -> list[Decision]:
        behind = [node for node in self.topology.nodes if node > self.node]
        return [source for node in behind for _, source in self.topology.slots(node)]

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Whether it is a loose end under `arch`."""
        inputs = self._inputs()
        return all(d.label in arch and d.parse(arch[d.label]) != self.node for d in inputs)

    def __str__(self) -> str:
        return f"nothing in {self.topology.label} reads node {self.node}"


def base_name(module: nn.Module, path: str) -> str:
    """Return the wished name of a module's region: its label, otherwise its path."""
    if isinstance(module, LayerChoice | InputChoice | Cell):
        return module.label
    if isinstance(module, Repeat) and isinstance(module.depth, Choice):
        return module.depth.decision.label
    return path or type(module).__name__


def layout(primitive: Primitive, path: str, *, on_wire: bool = False) -> Region:
    """Return the region of a choice, not yet placed under any condition.

    Args:
        primitive: The choice.
        path: Its path.
        on_wire: Whether it stands on a wire of a cell; there a primitive that is a decision and nothing else
            is written as its candidates, which are the operations of the cell.
    """
    region = Region(base_name(primitive, path), type(primitive).__name__, "", {})
    operation = _bare_decision(primitive) if on_wire else None
    if isinstance(primitive, LayerChoice):
        _layer_choice(primitive, region)
    elif isinstance(primitive, InputChoice):
        _input_choice(primitive, region)
    elif isinstance(primitive, Repeat):
        _repeat(primitive, region)
    elif isinstance(primitive, Cell):
        _cell(primitive, region)
    elif isinstance(operation, Categorical):
        _candidates(operation, region)
    else:
        _layer(primitive, region)
    return region


def _bare_decision(primitive: Primitive) -> Decision | None:
    """Return the decision of a primitive that has one, and no modules or weights; None of any other."""
    decisions = primitive.decisions()
    empty = not any(primitive.children()) and not any(primitive.parameters(recurse=False))
    return decisions[0] if len(decisions) == 1 and empty else None


def held_region(module: nn.Module, path: str) -> Region | None:
    """Return a lone node for values that a plain module keeps as attributes, or None if it keeps none."""
    if not held_values(module):
        return None
    held = {k: v for k, v in vars(module).items() if not k.startswith("_") and decisions_of(v)}
    region = Region(
        base_name(module, path), type(module).__name__, "", {"values": {"kind": "values"}}, held=held
    )
    region.inputs = ("values",)
    region.nodes["values"] |= {
        "decisions": [decision.label for decision in held_values(module)],
        "arguments": ", ".join(f"{name}={value}" for name, value in held.items()),
    }
    return region


def _nodes(region: Region, inputs: int | None = None) -> None:
    """Add input nodes (one called "in", or several numbered ones) and the output node."""
    names = ["in"] if inputs is None else [f"in_{i}" for i in range(inputs)]
    region.nodes = {name: {"kind": "input", "index": i} for i, name in enumerate(names)}
    region.nodes["out"] = {"kind": "output"}
    region.inputs = tuple(names)


def _edge(
    region: Region,
    source: str,
    target: str,
    key: object,
    kind: str,
    local: Condition,
    decisions: tuple[Decision, ...],
    **attributes: Any,
) -> Edge:
    ends = End(region, source), End(region, target)
    labels = [decision.label for decision in decisions]
    return Edge(*ends, str(key), kind, local, region, {"decisions": labels, **attributes}, decisions)


def _layer_choice(choice: LayerChoice, region: Region) -> None:
    _candidates(choice.decision, region)


def _candidates(decision: Categorical, region: Region) -> None:
    """One edge for every candidate of a decision."""
    _nodes(region)
    region.label = decision.label
    for k, name in enumerate(decision.candidates):
        chosen = Is(Choice(decision), (name,))
        region.edges[f"candidates.{k}"] = _edge(
            region, "in", "out", name, "candidate", chosen, (decision,),
            candidate=name, groups=[decision.label], row=0, columns=[k],
        )  # fmt: skip


def _input_choice(choice: InputChoice, region: Region) -> None:
    _nodes(region, choice.n_candidates)
    region.label, decision = choice.label, choice.decision
    for k in decision.candidates:
        chosen = Contains(decision, k) if isinstance(decision, Subset) else Is(Choice(decision), (k,))
        region.edges[f"{k}"] = _edge(
            region, f"in_{k}", "out", k, "candidate", chosen, (decision,),
            candidate=k, groups=[choice.label], row=0, columns=[k], reduction=choice.reduction,
        )  # fmt: skip


def _repeat(repeat: Repeat, region: Region) -> None:
    """A chain of feature maps; each depth that can be chosen leads from where it ends to the output."""
    _nodes(region)
    decisions = repeat.decisions()
    region.label = decisions[0].label if len(decisions) == 1 else ""
    region.nodes |= {f"block_{i}": {"kind": "block", "index": i} for i in range(len(repeat.blocks))}
    region.nodes["out"] = region.nodes.pop("out")  # last
    columns = _columns_by_depth(repeat)
    groups = [decision.label for decision in decisions]
    for index, (condition, branch, _) in enumerate(repeat.branches()):
        deeper = list(itertools.chain(*(columns[depth] for depth in repeat.depths if depth > index)))
        source = _after(index)
        region.edges[branch] = _edge(
            region, source, f"block_{index}", f"block_{index}", "block", condition, decisions,
            groups=groups, row=0, columns=deeper,
        )  # fmt: skip
    for depth in repeat.depths:
        region.edges[f"depth {depth}"] = _edge(
            region, _after(depth), "out", depth, "candidate", Is(repeat.depth, (depth,)), decisions,
            candidate=depth, groups=groups, row=0, columns=columns[depth],
        )  # fmt: skip


def _after(depth: int) -> str:
    """Node that holds the feature map after `depth` blocks."""
    return f"block_{depth - 1}" if depth else "in"


def _columns_by_depth(repeat: Repeat) -> dict[int, list[int]]:
    """For each depth the candidates that give it, one column per decision, combination after combination."""
    decisions = repeat.decisions()
    columns: dict[int, list[int]] = {depth: [] for depth in repeat.depths}
    for combination in itertools.product(*(range(len(d.candidates)) for d in decisions)):
        arch = {d.label: d.candidates[k] for d, k in zip(decisions, combination, strict=True)}
        columns[repeat.depth.evaluate(arch)] += combination
    return columns


def _cell(cell: Cell, region: Region) -> None:
    topology, merge_op = cell.topology, cell.frame.merge_op
    region.is_cell, region.topology, region.label = True, topology, topology.label
    region.loose_end, region.exchangeable = merge_op == "loose_end", merge_op != "all"
    _nodes(region, topology.num_predecessors)
    region.nodes |= {f"node_{node}": {"kind": "node", "index": node} for node in topology.nodes}
    region.nodes["out"] = region.nodes.pop("out")  # last
    for row, (source, node) in enumerate(topology.edges):
        decisions = tuple(decision for slot in topology.slots(node) for decision in slot)
        for k in topology.ranks(row):
            name = topology.operations[k]
            region.edges[f"edges.{row}.{k}"] = _edge(
                region, state_name(topology, source), f"node_{node}", name, "candidate",
                topology.used(source, node, k), decisions,
                candidate=name, groups=[topology.label], row=row, columns=[k],
            )  # fmt: skip
    kind = merge_op if merge_op in ("mean", "sum") else "concat"
    for position, node in enumerate(cell.frame.ends(())):
        end = Unread(topology, node) if region.loose_end else ALWAYS
        inputs = tuple(d for d in topology.decisions() if region.loose_end and d.label in end.labels)
        place = {"position": position} if kind == "concat" else {}
        region.edges[f"{kind} {node}"] = _edge(
            region, state_name(topology, node), "out", kind, str(kind), end, inputs, **place
        )
        if inputs:
            region.edges[f"{kind} {node}"].attributes["groups"] = [topology.label]


def state_name(topology: CellTopology, node: int) -> str:
    """Local name of a node of a cell."""
    return f"in_{node}" if node < topology.num_predecessors else f"node_{node}"


def _layer(primitive: Primitive, region: Region) -> None:
    """One edge for a layer with chosen arguments, or a primitive of the user's own."""
    _nodes(region)
    decisions = primitive.decisions()
    region.label = decisions[0].label if len(decisions) == 1 else ""
    name = type(primitive).__name__
    edge = _edge(region, "in", "out", name, "layer", ALWAYS, decisions, candidate=name)
    if isinstance(primitive, ValueLayer):
        edge.costs[0].spec = primitive.spec
        edge.attributes["arguments"] = str(primitive.spec)
    region.edges = {branch: edge for _, branch, _ in primitive.branches()} or {"": edge}
