"""Cell: a small directed acyclic graph whose operations and inputs are chosen."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SpaceError, listed, require_one_of, short
from .choices import Candidates, called, made, named_candidates, sum_in_order
from .conditions import AllOf, Condition, Constraint, Symmetry
from .context import FreezeContext
from .decisions import Decision
from .labels import branch_scope, make_label
from .primitive import Primitive, Relaxer, Undecided, is_frozen
from .topology import CellTopology, LooseEnds, loose_ends

OpFactory: TypeAlias = Callable[[int, int | None, int], nn.Module]
OpCandidates: TypeAlias = "Candidates[nn.Module | OpFactory]"
NodeModule: TypeAlias = "nn.Module | Callable[[int], nn.Module]"
MergeOp: TypeAlias = Literal["all", "loose_end", "mean", "sum"] | Sequence[int]
Preprocessor: TypeAlias = Callable[[list[Any]], Sequence[Any]]
Postprocessor: TypeAlias = Callable[[Any, list[Any]], Any]

_MERGE_OPS = ("all", "loose_end", "mean", "sum")


@dataclass(frozen=True)
class Further:
    """Arguments of a cell's call beyond its inputs: each of its operations gets them."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)

    def apply(self, module: Callable[..., Any], x: Any) -> Any:
        """Return `module` of a state and these arguments."""
        return module(x, *self.args, **self.kwargs)


class Absent(nn.Module):
    """A stand-in where a table of candidates has none: the edge does not offer it, or it was pruned."""

    def forward(self, *args: object, **kwargs: object) -> object:
        raise SpaceError("a candidate was called that was pruned, or that its edge does not have.")


class CellFrame(nn.Module):
    """The parts that every form of a cell shares: all but the operations on its edges.

    Args:
        topology: Nodes and edges.
        merge_op: See `Cell`, as are the others.
        preprocessor: Function or module, or None.
        postprocessor: Function or module, or None.
        concat_dim: Dimension of the concatenation.
        projection: Module, or f(node), or None.
        node_postprocessor: Module, or f(node), or None.
    """

    def __init__(
        self,
        topology: CellTopology,
        merge_op: MergeOp,
        preprocessor: Preprocessor | None,
        postprocessor: Postprocessor | None,
        concat_dim: int,
        projection: NodeModule | None = None,
        node_postprocessor: NodeModule | None = None,
    ) -> None:
        super().__init__()
        self.topology = topology
        self.merge_op = _checked_merge_op(merge_op, topology)
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.concat_dim = concat_dim
        self.projection = _of_nodes("projection", projection, topology)
        self.node_postprocessor = _of_nodes("node_postprocessor", node_postprocessor, topology)

    def states(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], list[Any], Further]:
        """Return the inputs as given, the inputs after preprocessing, and the arguments beyond them."""
        where, count = f"cell {self.topology.label!r}", self.topology.num_predecessors
        given, args = _split(inputs, count, where)
        states = given if self.preprocessor is None else _as_list(self.preprocessor(given), where, count)
        return given, list(states), Further(args, kwargs)

    def read(self, node: int, state: Any, further: Further) -> Any:
        """Return a state as the operations of a node get it."""
        if self.projection is None:
            return state
        return further.apply(self._of(self.projection, node), state)

    def state(self, node: int, total: Any) -> Any:
        """Return the state of a node, whose operations add up to `total`."""
        return total if self.node_postprocessor is None else self._of(self.node_postprocessor, node)(total)

    def node_modules(self, node: int) -> list[nn.Module]:
        """Return the projection and the postprocessor of a node, where it has them."""
        return [self._of(x, node) for x in (self.projection, self.node_postprocessor) if x is not None]

    def _of(self, modules: nn.ModuleList, node: int) -> nn.Module:
        return modules[0] if len(modules) == 1 else modules[node - self.topology.num_predecessors]

    def ends(self, sources: Iterable[int]) -> Sequence[int]:
        """Return the states that make the output where nodes read `sources`."""
        if self.merge_op == "loose_end":
            return loose_ends(self.topology, sources)
        return self.topology.nodes if isinstance(self.merge_op, str) else self.merge_op

    def join(self, states: Sequence[Any], sources: Iterable[int]) -> Any:
        """Return the output where nodes read `sources`, before postprocessing."""
        return _joined([states[node] for node in self.ends(sources)], self.merge_op, self.concat_dim)

    def finish(self, output: Any, given: list[Any]) -> Any:
        """Return the output after postprocessing, which also gets the inputs as given."""
        return output if self.postprocessor is None else self.postprocessor(output, given)

    def merge(self, states: Sequence[Any], sources: Iterable[int], given: list[Any]) -> Any:
        """Join the states that make the output, and postprocess."""
        return self.finish(self.join(states, sources), given)


def _checked_merge_op(merge_op: Any, topology: CellTopology) -> str | tuple[int, ...]:
    where = f"cell {topology.label!r}: merge_op"
    if isinstance(merge_op, str) or not isinstance(merge_op, Sequence):
        require_one_of(where, merge_op, _MERGE_OPS)
        return str(merge_op)
    known = all(type(state) is int and 0 <= state < topology.nodes.stop for state in merge_op)
    if not merge_op or not known or len(set(merge_op)) < len(merge_op):
        raise SpaceError(
            f"{where}={short(merge_op)} must list different states from 0 to {topology.nodes.stop - 1}, of "
            f"which the first {topology.num_predecessors} are the inputs, or be one of {listed(_MERGE_OPS)}."
        )
    return tuple(merge_op)


def num_outputs(topology: CellTopology, merge_op: MergeOp) -> Any:
    """Return how many states a cell concatenates; a value where the architecture decides it."""
    if isinstance(merge_op, str):
        known = {"all": topology.num_nodes, "loose_end": LooseEnds(topology)}
        return known.get(merge_op, 1)
    return len(merge_op)


def _of_nodes(kind: str, given: NodeModule | None, topology: CellTopology) -> nn.ModuleList | None:
    """Return the module of each node, or the one of all."""
    if given is None or isinstance(given, nn.Module):
        return None if given is None else nn.ModuleList([given])
    modules = nn.ModuleList()
    for node in topology.nodes:
        with branch_scope(topology.label, f"{kind}_{node}"):
            modules.append(made(given, f"cell {topology.label!r}: {kind}", node))
    return modules


def _split(arguments: tuple[Any, ...], count: int, where: str) -> tuple[list[Any], tuple[Any, ...]]:
    """Separate the inputs, given one by one or as one list, from the arguments after them."""
    first = arguments[0] if arguments else None
    # A tuple may be a state; it can be the list of inputs where nothing else is given.
    is_list = isinstance(first, list) or (isinstance(first, tuple) and len(arguments) == 1 and count > 1)
    inputs = list(first) if is_list else list(arguments[:count])  # type: ignore[arg-type]
    if len(inputs) != count:
        raise SpaceError(f"{where} takes {count} inputs; got {len(inputs)}.")
    return inputs, arguments[1 if is_list else count :]


def _as_list(result: Any, where: str, count: int) -> list[Any]:
    if not isinstance(result, list | tuple) or len(result) != count:
        raise SpaceError(
            f"{where}: the preprocessor must return a list of {count} tensors; got {type(result).__name__}."
        )
    return list(result)


def _joined(states: Sequence[Any], merge_op: str | tuple[int, ...], dim: int) -> Any:
    if isinstance(states[0], tuple | list | dict):
        return tree_map(lambda *leaves: _joined_leaves(leaves, merge_op, dim), *states)
    if merge_op not in ("mean", "sum"):
        return torch.cat(list(states), dim=dim)
    total = sum_in_order(states)
    return total / len(states) if merge_op == "mean" else total


def _joined_leaves(leaves: Sequence[Any], merge_op: str | tuple[int, ...], dim: int) -> Any:
    return _joined(leaves, merge_op, dim) if isinstance(leaves[0], Tensor) else leaves[0]


class FrozenCell(nn.Module):
    """A cell with its operations and inputs chosen.

    Args:
        frame: All but the operations.
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
        """Number of states concatenated in the output."""
        if self.frame.merge_op in ("mean", "sum"):
            return 1
        return len(self.frame.ends(source for row in self.sources for source in row))

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        given, states, further = self.frame.states(inputs, kwargs)
        slots = zip(self.frame.topology.nodes, self.sources, self.operations, self._order, strict=True)
        for node, sources, operations, order in slots:
            read = [self.frame.read(node, states[sources[k]], further) for k in order]
            terms = [further.apply(operations[k], x) for k, x in zip(order, read, strict=True)]  # type: ignore[index]
            states.append(self.frame.state(node, sum_in_order(terms)))
        return self.frame.merge(states, (s for row in self.sources for s in row), given)


class Cell(Primitive):
    """A directed acyclic graph with chosen operations and inputs (NASNet, DARTS).

    Each of `num_nodes` intermediate nodes adds `num_ops_per_node` operations, each on one earlier node.
    Decisions are `{label}/op_{i}_{k}` and `{label}/input_{i}_{k}`, node `i` counting from
    `num_predecessors`, slot `k` from 0. Cells that share a label share them.

    The inputs of a call come one by one or as one list, `cell(a, b)` or `cell([a, b])`. Further arguments, as
    in `cell(a, b, mask, edge_index=edges)`, reach every operation. A state may be a tensor, or a tuple or
    dict of tensors, which are added and joined tensor by tensor.

    Args:
        op_candidates: Operations by name or in a list; modules (copied for every edge) or factories
            `f(node_index, op_index, input_index)`. In a space one module stands on each edge for all slots,
            and `op_index` is None; in `model_context` it is the slot. Where edges differ, a function
            `f(node_index, input_index)` that returns the candidates of an edge; none make it no edge.
        num_nodes: Number of intermediate nodes.
        num_ops_per_node: Number of operations added in each.
        num_predecessors: Number of inputs of the cell.
        merge_op: Output: the concatenation of "all" intermediate nodes, of those nobody reads ("loose_end"),
            or of the states in a list (inputs are states, too, and come first); or the "mean" or "sum" of all
            intermediate nodes.
        preprocessor: Function or module, list of inputs -> list of as many states.
        postprocessor: Function or module, (output, list of inputs as given) -> result.
        concat_dim: Dimension of the concatenation.
        label: Prefix of the labels; numbered inside `ModelSpace.__init__` when missing.
        distinct_inputs: Whether two operations of one node must read different inputs.
        projection: Module, or factory `f(node_index)`, that every state passes on its way to a node; it gets
            the further arguments, too. All candidates of the edge share its result.
        node_postprocessor: Module, or factory `f(node_index)`, applied to the sum in a node, as a batch norm.

    Source: NASNet, arXiv:1707.07012; DARTS, arXiv:1806.09055, section 2.1.
    """

    def __init__(
        self,
        op_candidates: OpCandidates | Callable[[int, int], OpCandidates],
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
        projection: NodeModule | None = None,
        node_postprocessor: NodeModule | None = None,
    ) -> None:
        super().__init__()
        shape = CellTopology(
            make_label("cell", label), (), num_nodes, num_ops_per_node, num_predecessors, distinct_inputs
        )
        self.topology, candidates = _declared(shape, op_candidates)
        self.frame = CellFrame(
            self.topology, merge_op, preprocessor, postprocessor, concat_dim, projection, node_postprocessor
        )
        self.edges = nn.ModuleList(
            nn.ModuleList(
                _make_op(offered, shape.label, name, node, None, source) for name in self.topology.operations
            )
            for (source, node), offered in zip(self.topology.edges, candidates, strict=True)
        )

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        if context is None:
            return None
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        of_shape = ("num_nodes", "num_ops_per_node", "num_predecessors", "distinct_inputs")
        shape = CellTopology(make_label("cell", given["label"]), (), *(given[x] for x in of_shape))
        topology, candidates = _declared(shape, given["op_candidates"])
        problems = context.problems(topology.decisions())
        problems = problems or [c.message for c in topology.constraints() if not c.holds(context.arch)]
        if problems:
            return Undecided(problems, num_outputs=num_outputs(topology, given["merge_op"]))
        of_frame = ("merge_op", "preprocessor", "postprocessor", "concat_dim")
        of_nodes = ("projection", "node_postprocessor")
        frame = CellFrame(topology, *(given[x] for x in (*of_frame, *of_nodes)))
        slots: dict[int, list[tuple[int, int, nn.Module]]] = {}
        for node, row in topology.chosen(context.arch).items():
            entering, slots[node] = topology.rows_into(node), []
            for slot, (source, rank) in enumerate(row):
                offered, name = candidates[entering[source]], topology.operations[rank]
                slots[node].append((source, rank, _make_op(offered, shape.label, name, node, slot, source)))
        return FrozenCell(frame, slots)

    @property
    def label(self) -> str:
        """Prefix of the labels."""
        return self.topology.label

    @property
    def num_outputs(self) -> Any:
        """Number of states concatenated in the output; with "loose_end" it depends on the architecture."""
        return num_outputs(self.topology, self.frame.merge_op)  # type: ignore[arg-type]

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
        # One edge stands for all that offer a candidate.
        for k, name in enumerate(self.topology.operations):
            modules = (edge[k] for edge in self.edges)  # type: ignore[index]
            module = next(module for module in modules if not isinstance(module, Absent))
            if not is_frozen(module):
                yield str(name), module

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        yield AllOf(), "frame", self.frame
        for e, (source, node) in enumerate(self.topology.edges):
            for k in self.topology.ranks(e):
                yield self.topology.used(source, node, k), f"edges.{e}.{k}", self.edges[e][k]  # type: ignore[index]

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

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.freeze(self.topology.first())(*inputs, **kwargs)


def _declared(shape: CellTopology, op_candidates: Any) -> tuple[CellTopology, list[dict[Any, Any]]]:
    """Return the topology of a cell, and the candidates of each edge by name."""
    if callable(op_candidates) and not isinstance(op_candidates, nn.Module):
        candidates = [_of_edge(shape, op_candidates, node, source) for source, node in shape.edges]
    else:
        candidates = [named_candidates(op_candidates, shape.label)] * len(shape.edges)
    operations = tuple(dict.fromkeys(name for offered in candidates for name in offered))
    ranks = {name: rank for rank, name in enumerate(operations)}
    offers = tuple(tuple(sorted(map(ranks.__getitem__, offered))) for offered in candidates)
    is_same = all(len(offer) == len(operations) for offer in offers)
    return replace(shape, operations=operations, offered=None if is_same else offers), candidates


def _of_edge(shape: CellTopology, function: Any, node: int, source: int) -> dict[Any, Any]:
    where = f"cell {shape.label!r}: op_candidates of the edge {source}->{node}"
    with branch_scope(shape.label, f"edge_{source}_{node}"):
        return named_candidates(called(function, where, node, source), where)


def _make_op(
    offered: Mapping[Any, Any], label: str, name: object, node: int, slot: int | None, source: int
) -> nn.Module:
    if name not in offered:
        return Absent()
    candidate = offered[name]
    with branch_scope(label, f"edge_{source}_{node}/{name}"):
        if isinstance(candidate, nn.Module):
            return copy.deepcopy(candidate)
        return made(candidate, f"cell {label!r}: candidate {name!r}", node, slot, source)
