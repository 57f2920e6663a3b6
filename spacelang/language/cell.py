"""Cell: a small directed acyclic graph whose operations and inputs are chosen."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import SpaceError, listed, quoted, require_integer, require_one_of
from .choices import as_inputs, made, named_candidates, sum_in_order
from .conditions import AllOf, AnyOf, Condition, Constraint, Is, Symmetry
from .context import FreezeContext
from .decisions import Categorical, Decision
from .labels import branch_scope, make_label
from .primitive import Primitive, Relaxer, Undecided, is_frozen
from .values import Choice, Value, distinct

OpFactory: TypeAlias = Callable[[int, int | None, int], nn.Module]
MergeOp = Literal["all", "loose_end"]
Preprocessor: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]
Postprocessor: TypeAlias = Callable[[Tensor, list[Tensor]], Any]


@dataclass(frozen=True)
class CellTopology:
    """Shape of a cell's graph, and the decisions on it.

    Nodes `0 .. num_predecessors - 1` are the cell's inputs; each later node adds the results of
    `num_ops_per_node` slots, a slot being one operation on one earlier node.

    Args:
        label: Prefix of every label.
        operations: Candidate names, or indices.
        num_nodes: Number of intermediate nodes.
        num_ops_per_node: Number of slots of each.
        num_predecessors: Number of inputs of the cell.
        distinct_inputs: Whether two slots of one node must read different nodes.
    """

    label: str
    operations: tuple[Any, ...]
    num_nodes: int
    num_ops_per_node: int
    num_predecessors: int
    distinct_inputs: bool

    def __post_init__(self) -> None:
        for name in ("num_nodes", "num_ops_per_node", "num_predecessors"):
            require_integer(f"cell {self.label!r}: {name}", getattr(self, name), least=1)
        if self.distinct_inputs and self.num_ops_per_node > self.num_predecessors:
            raise SpaceError(
                f"cell {self.label!r}: num_ops_per_node={self.num_ops_per_node} different inputs do not "
                f"exist for the first node, which sees num_predecessors={self.num_predecessors}; "
                "write distinct_inputs=False."
            )

    @property
    def nodes(self) -> range:
        """Indices of the intermediate nodes."""
        return range(self.num_predecessors, self.num_predecessors + self.num_nodes)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every possible `(source, node)`, node by node: the row order of a cell's mixture."""
        return tuple((source, node) for node in self.nodes for source in range(node))

    def rows_into(self, node: int) -> range:
        """Return the rows of the edges that enter an intermediate node, by source."""
        first = sum(range(self.num_predecessors, node))
        return range(first, first + node)

    def op(self, node: int, slot: int) -> Categorical:
        """Return the decision on the operation of a slot."""
        return Categorical(_label(self.label, "op", node, slot), self.operations)

    def input(self, node: int, slot: int) -> Categorical:
        """Return the decision on the node a slot reads."""
        return Categorical(_label(self.label, "input", node, slot), range(node))

    def slots(self, node: int) -> list[tuple[Categorical, Categorical]]:
        """Return the `(operation, input)` decisions of a node."""
        return [(self.op(node, k), self.input(node, k)) for k in range(self.num_ops_per_node)]

    def decisions(self) -> tuple[Decision, ...]:
        """Return every decision, node by node."""
        return tuple(decision for node in self.nodes for slot in self.slots(node) for decision in slot)

    def constraints(self) -> Iterable[Constraint]:
        """Yield, with `distinct_inputs`, that no node reads another twice."""
        for node in self.nodes if self.distinct_inputs else ():
            inputs = [source for _, source in self.slots(node)]
            yield Constraint(
                distinct(*map(Choice, inputs)),
                f"node {node} of cell {self.label!r} must read different inputs in "
                f"{', '.join(repr(d.label) for d in inputs)}.",
            )

    def chosen(self, arch: Mapping[str, Any]) -> dict[int, list[tuple[int, int]]]:
        """Return `{node: [(source, operation index) of each slot]}` under `arch`."""
        return {
            node: [
                (source.parse(arch[source.label]), op.position(arch[op.label]))
                for op, source in self.slots(node)
            ]
            for node in self.nodes
        }

    def used(self, source: int, node: int, operation: int) -> Condition:
        """Return the condition that some slot of `node` applies the operation to `source`."""
        name = self.operations[operation]
        return AnyOf(
            tuple(
                AllOf((Is(Choice(op), (name,)), Is(Choice(chosen), (source,))))
                for op, chosen in self.slots(node)
            )
        )


def _label(cell: str, kind: str, node: int, slot: int) -> str:
    return f"{cell}/{kind}_{node}_{slot}"


_LABEL = re.compile(r"(?P<cell>.+)/(?P<kind>op|input)_(?P<node>[0-9]{1,6})_(?P<slot>[0-9]{1,6})\Z", re.ASCII)


def cells_in(arch: Mapping[str, Any]) -> tuple[dict[str, list[tuple[int, int, str]]], list[str]]:
    """Recognise the cells of an architecture whose space is not known, by the labels of `CellTopology`.

    Returns:
        `{cell: [(node, source, operation) of each slot]}`, node by node, and the labels of no cell.

    Raises:
        SpaceError: the labels of a cell contradict each other, or an input is not an earlier node.
    """
    found: dict[str, dict[str, set[tuple[int, int]]]] = {}
    for label in arch:
        if match := _LABEL.match(label):
            kinds = found.setdefault(match["cell"], {"op": set(), "input": set()})
            kinds[match["kind"]].add((int(match["node"]), int(match["slot"])))
    # One kind alone: labels that only look like a cell's.
    found = {cell: kinds for cell, kinds in found.items() if kinds["op"] and kinds["input"]}
    cells: dict[str, list[tuple[int, int, str]]] = {}
    for cell, kinds in found.items():
        _check_slots(cell, kinds["op"], kinds["input"])
        cells[cell] = []
        for node, slot in sorted(kinds["op"]):
            source = _source(arch, _label(cell, "input", node, slot), node)
            cells[cell].append((node, source, str(arch[_label(cell, "op", node, slot)])))
    others = [label for label in arch if not ((match := _LABEL.match(label)) and match["cell"] in cells)]
    return cells, others


def _check_slots(cell: str, operations: set[tuple[int, int]], inputs: set[tuple[int, int]]) -> None:
    for node, slot in sorted(operations ^ inputs):
        lacking = "input" if (node, slot) in operations else "op"
        raise SpaceError(
            f"cell {cell!r} has no {_label(cell, lacking, node, slot)!r}; each slot needs op and input."
        )
    nodes = sorted({node for node, _ in operations})
    missing = [node for node in range(nodes[0], nodes[-1] + 1) if node not in nodes][:3]
    if missing:
        raise SpaceError(f"cell {cell!r} has nodes {quoted(nodes)} and none numbered {quoted(missing)}.")


def _source(arch: Mapping[str, Any], label: str, node: int) -> int:
    """Return an input choice, an int or a list of one, as a node index below `node`."""
    value = arch[label]
    single = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if type(single) is not int or not 0 <= single < node:
        raise SpaceError(
            f"{label!r} got {value!r:.60}; expected an int from 0 to {node - 1}, or a list of one."
        )
    return single


class LooseEnds(Value):
    """Number of intermediate nodes of a cell that no other node reads."""

    def __init__(self, topology: CellTopology) -> None:
        self.topology = topology

    def decisions(self) -> tuple[Categorical, ...]:
        nodes = self.topology.nodes
        return tuple(source for node in nodes for _, source in self.topology.slots(node))

    def evaluate(self, arch: Mapping[str, Any]) -> int:
        sources = {d.parse(arch[d.label]) for d in self.decisions()}
        return len(loose_ends(self.topology, sources))

    def possible(self) -> tuple[int, ...]:
        return tuple(range(1, self.topology.num_nodes + 1))

    # As a `Tally`, a state is the nodes nobody has read yet, and what the present node has read.
    start: ClassVar[tuple[frozenset[int], frozenset[int]]] = (frozenset(), frozenset())

    def step(
        self, state: tuple[frozenset[int], frozenset[int]], position: int, value: int
    ) -> tuple[frozenset[int], frozenset[int]] | None:
        (unread, read), slots = state, self.topology.num_ops_per_node
        if self.topology.distinct_inputs and value in read:
            return None
        if (position + 1) % slots:
            return unread, read | {value}
        return unread - read - {value} | {self.topology.nodes[position // slots]}, frozenset()

    def result(self, state: tuple[frozenset[int], frozenset[int]]) -> int:
        return len(state[0])

    def __str__(self) -> str:
        kind = ", distinct inputs" if self.topology.distinct_inputs else ""
        return f"loose_ends({self.topology.label}{kind})"


def _num_outputs(topology: CellTopology, merge_op: MergeOp) -> Any:
    return topology.num_nodes if merge_op == "all" else LooseEnds(topology)


def loose_ends(topology: CellTopology, sources: Iterable[int]) -> list[int]:
    """Return the intermediate nodes that are nobody's source."""
    read = set(sources)
    return [node for node in topology.nodes if node not in read]


def _as_list(result: Any, where: str, count: int) -> list[Tensor]:
    if not isinstance(result, list | tuple) or len(result) != count:
        raise SpaceError(
            f"{where}: the preprocessor must return a list of {count} tensors; got {type(result).__name__}."
        )
    return list(result)


class CellFrame(nn.Module):
    """The parts that every form of a cell shares: preprocessing, the merge of its nodes, postprocessing."""

    def __init__(
        self,
        topology: CellTopology,
        merge_op: MergeOp,
        preprocessor: Preprocessor | None,
        postprocessor: Postprocessor | None,
        concat_dim: int,
    ) -> None:
        super().__init__()
        require_one_of(f"cell {topology.label!r}: merge_op", merge_op, ("all", "loose_end"))
        self.topology = topology
        self.merge_op = merge_op
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.concat_dim = concat_dim

    def states(self, inputs: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the inputs as given, and after preprocessing."""
        where, count = f"cell {self.topology.label!r}", self.topology.num_predecessors
        given = as_inputs(inputs, count, where)
        return given, given if self.preprocessor is None else _as_list(self.preprocessor(given), where, count)

    def merge(self, states: Sequence[Tensor], sources: Iterable[int], given: list[Tensor]) -> Any:
        """Concatenate the output nodes and postprocess."""
        ends = self.topology.nodes if self.merge_op == "all" else loose_ends(self.topology, sources)
        output = torch.cat([states[node] for node in ends], dim=self.concat_dim)
        return output if self.postprocessor is None else self.postprocessor(output, given)


class FrozenCell(nn.Module):
    """A cell with its operations and inputs chosen.

    Args:
        frame: Preprocessing, merging and postprocessing.
        slots: `(source, rank of the operation, module)` of each slot, by intermediate node.
    """

    def __init__(self, frame: CellFrame, slots: Mapping[int, Sequence[tuple[int, int, nn.Module]]]) -> None:
        super().__init__()
        self.frame = frame
        self.operations = nn.ModuleList(nn.ModuleList(op for _, _, op in slots[node]) for node in slots)
        self.sources = tuple(tuple(source for source, _, _ in slots[node]) for node in slots)
        # Added in the order of sources, whatever the order of slots, as a supernet adds them.
        self._order = tuple(
            tuple(sorted(range(len(row)), key=lambda k: row[k][:2])) for row in map(list, slots.values())
        )

    @property
    def num_outputs(self) -> int:
        """Number of nodes concatenated in the output."""
        topology = self.frame.topology
        if self.frame.merge_op == "all":
            return topology.num_nodes
        return len(loose_ends(topology, (s for row in self.sources for s in row)))

    def forward(self, *inputs: Any) -> Any:
        given, states = self.frame.states(inputs)
        for sources, operations, order in zip(self.sources, self.operations, self._order, strict=True):
            states.append(sum_in_order([operations[k](states[sources[k]]) for k in order]))  # type: ignore[index]
        return self.frame.merge(states, (s for row in self.sources for s in row), given)


class Cell(Primitive):
    """A directed acyclic graph with chosen operations and inputs (NASNet, DARTS).

    Each of `num_nodes` intermediate nodes adds `num_ops_per_node` operations, each on one earlier node.
    Decisions are `{label}/op_{i}_{k}` and `{label}/input_{i}_{k}`, node `i` counting from
    `num_predecessors`, slot `k` from 0. Cells that share a label share them.

    Args:
        op_candidates: Operations by name or in a list; modules (copied for every edge) or factories
            `f(node_index, op_index, input_index)`. In a space one module stands on each edge for all slots,
            and `op_index` is None; in `model_context` it is the slot.
        num_nodes: Number of intermediate nodes.
        num_ops_per_node: Number of operations added in each.
        num_predecessors: Number of inputs of the cell.
        merge_op: Nodes joined in the output: "all" intermediate ones, or those nobody reads ("loose_end").
        preprocessor: Function or module, list of inputs -> list of as many tensors.
        postprocessor: Function or module, (output, list of inputs as given) -> result.
        concat_dim: Dimension of the concatenation.
        label: Prefix of the labels; numbered inside `ModelSpace.__init__` when missing.
        distinct_inputs: Whether two operations of one node must read different inputs.

    Source: NASNet, arXiv:1707.07012; DARTS, arXiv:1806.09055, section 2.1.
    """

    def __init__(
        self,
        op_candidates: Mapping[str, nn.Module | OpFactory] | Sequence[nn.Module | OpFactory],
        num_nodes: int,
        num_ops_per_node: int = 1,
        num_predecessors: int = 1,
        merge_op: MergeOp = "all",
        preprocessor: Preprocessor | None = None,
        postprocessor: Postprocessor | None = None,
        concat_dim: int = 1,
        *,
        label: str | None = None,
        distinct_inputs: bool = False,
    ) -> None:
        super().__init__()
        label = make_label("cell", label)
        named = named_candidates(op_candidates, label)
        self.topology = CellTopology(
            label, tuple(named), num_nodes, num_ops_per_node, num_predecessors, distinct_inputs
        )
        self.frame = CellFrame(self.topology, merge_op, preprocessor, postprocessor, concat_dim)
        self.edges = nn.ModuleList(
            nn.ModuleList(_make_op(label, named[name], name, node, None, source) for name in named)
            for source, node in self.topology.edges
        )

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        if context is None:
            return None
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        label = make_label("cell", given["label"])
        named = named_candidates(given["op_candidates"], label)
        shape = (given[x] for x in ("num_nodes", "num_ops_per_node", "num_predecessors", "distinct_inputs"))
        topology = CellTopology(label, tuple(named), *shape)
        problems = context.problems(topology.decisions())
        problems = problems or [c.message for c in topology.constraints() if not c.holds(context.arch)]
        if problems:
            return Undecided(problems, num_outputs=_num_outputs(topology, given["merge_op"]))
        frame = CellFrame(
            topology, *(given[x] for x in ("merge_op", "preprocessor", "postprocessor", "concat_dim"))
        )
        slots = {}
        for node, row in topology.chosen(context.arch).items():
            names = [(source, rank, topology.operations[rank]) for source, rank in row]
            slots[node] = [
                (source, rank, _make_op(label, named[name], name, node, slot, source))
                for slot, (source, rank, name) in enumerate(names)
            ]
        return FrozenCell(frame, slots)

    @property
    def label(self) -> str:
        """Prefix of the labels."""
        return self.topology.label

    @property
    def num_outputs(self) -> Any:
        """Number of nodes concatenated in the output; with "loose_end" it depends on the architecture."""
        return _num_outputs(self.topology, self.frame.merge_op)

    def decisions(self) -> tuple[Decision, ...]:
        return self.topology.decisions()

    def extra_repr(self) -> str:
        shape = self.topology
        return (
            f"{self.label!r}: {listed(shape.operations)}; num_nodes={shape.num_nodes}, "
            f"num_ops_per_node={shape.num_ops_per_node}, num_predecessors={shape.num_predecessors}"
        )

    def shown(self) -> Iterable[tuple[str, nn.Module]]:
        yield from self.frame.named_children()
        # One edge stands for all of them.
        for name, module in zip(self.topology.operations, self.edges[0].children(), strict=True):
            if not is_frozen(module):
                yield str(name), module

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        yield AllOf(), "frame", self.frame
        for e, (source, node) in enumerate(self.topology.edges):
            for k, module in enumerate(self.edges[e].children()):
                yield self.topology.used(source, node, k), f"edges.{e}.{k}", module

    def constraints(self) -> Iterable[Constraint]:
        return self.topology.constraints()

    def symmetries(self) -> Iterable[Symmetry]:
        if self.topology.num_ops_per_node > 1:
            for node in self.topology.nodes:
                yield Symmetry(tuple((source.label, op.label) for op, source in self.topology.slots(node)))

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        taken: set[int] = set()
        slots: dict[int, list[tuple[int, int, nn.Module]]] = {}
        for node, row in self.topology.chosen(arch).items():
            slots[node] = []
            entering = self.topology.rows_into(node)
            for source, rank in row:
                module = self.edges[entering[source]][rank]  # type: ignore[index]
                # Two slots with the same operation on the same input must not become one module.
                module = copy.deepcopy(module) if id(module) in taken else module
                taken.add(id(module))
                slots[node].append((source, rank, module))
        return FrozenCell(self.frame, slots)

    def relax(self, builder: Relaxer) -> nn.Module:
        return builder.mixed(self)

    def forward(self, *inputs: Any) -> Any:
        first: dict[str, Any] = {d.label: next(iter(d.values())) for d in self.decisions()}
        if self.topology.distinct_inputs:
            first |= {
                self.topology.input(n, k).label: k
                for n in self.topology.nodes
                for k in range(self.topology.num_ops_per_node)
            }
        return self.freeze(first)(*inputs)


def _make_op(label: str, candidate: Any, name: object, node: int, slot: int | None, source: int) -> nn.Module:
    with branch_scope(label, f"edge_{source}_{node}/{name}"):
        if isinstance(candidate, nn.Module):
            return copy.deepcopy(candidate)
        return made(candidate, f"cell {label!r}: candidate {name!r}", node, slot, source)
