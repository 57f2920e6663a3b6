"""Execution plans of cells, compiled from the graph of the space.

A plan says how each candidate of a cell is computed:

- "bundle": separable convolutions that leave one feature map run together, as one operation, and in native
  kernels the pools beside them;
- "shared": a pool and its normalisation, or the identity, runs once for all edges that leave its feature map;
- "apart": everything else runs on its edge. The plan says why.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import nn

from .steps import SampleScale, Steps, all_hooks, split

if TYPE_CHECKING:
    import networkx as nx

How: TypeAlias = Literal["bundle", "shared", "apart"]


@dataclass(frozen=True)
class Block:
    """ReLU, depthwise convolution, 1x1 convolution and batch norm without parameters.

    Args:
        depthwise: Convolution, (C, 1, k, k), k odd.
        pointwise: Convolution, (C, C, 1, 1).
        norm: Batch norm.
    """

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def shape(self) -> tuple[int, int, int]:
        """Kernel, dilation, stride."""
        return self.depthwise.kernel_size[0], self.depthwise.dilation[0], self.depthwise.stride[0]


@dataclass(frozen=True)
class Pooled:
    """A pool, whose size is odd and padded by half, and a batch norm without parameters.

    Args:
        pool: The pool.
        norm: The batch norm.
    """

    pool: nn.MaxPool2d | nn.AvgPool2d
    norm: nn.BatchNorm2d

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Kernel, stride, and whether it is the maximum."""
        return _one(self.pool.kernel_size), _one(self.pool.stride), isinstance(self.pool, nn.MaxPool2d)


def _one(size: int | tuple[int, ...]) -> int:
    """Return the one size of all dimensions; -1 if they differ."""
    sizes = {size} if isinstance(size, int) else set(size)
    return sizes.pop() if len(sizes) == 1 else -1


@dataclass(frozen=True)
class Planned:
    """One candidate of a cell and how it is computed.

    Args:
        source: Feature map that it reads.
        node: Node that it is added to.
        row: Row of its edge in the cell's table.
        column: Its column.
        name: Its name.
        steps: Its modules.
        blocks: Its blocks, if it runs in a bundle.
        pooled: The pool that it is, if native kernels can compute it in the bundle of its source.
        scale: Module at its end that multiplies the samples of its bundle or shared steps, if any.
        reason: Why it runs apart; empty if it does not.
    """

    source: int
    node: int
    row: int
    column: int
    name: str
    steps: Steps
    blocks: tuple[Block, ...] = ()
    pooled: Pooled | None = None
    scale: SampleScale | None = None
    reason: str = ""

    @property
    def how(self) -> How:
        """The way it is computed, pools as PyTorch does it."""
        return "bundle" if self.blocks else "apart" if self.reason else "shared"


@dataclass(frozen=True)
class CellPlan:
    """The plan of one cell.

    Args:
        path: Path of the cell in the network.
        candidates: Its candidates that are not pruned, by row and column.
    """

    path: str
    candidates: tuple[Planned, ...]

    @cached_property
    def leaving(self) -> Mapping[int, tuple[Planned, ...]]:
        """Candidates by the feature map they read."""
        found: dict[int, list[Planned]] = defaultdict(list)
        for planned in self.candidates:
            found[planned.source].append(planned)
        return {source: tuple(found[source]) for source in sorted(found)}

    def text(self, pools: bool) -> str:
        """Return a line for each way in which a candidate is computed.

        Args:
            pools: Whether bundles compute pools.
        """
        return "\n".join([f"{self.path}:", *self._lines(pools)])

    def _lines(self, pools: bool) -> Iterator[str]:
        for source, candidates in self.leaving.items():
            nodes: dict[tuple[How, str, str], list[str]] = defaultdict(list)
            for planned in candidates:
                how: How = "bundle" if pools and planned.pooled else planned.how
                nodes[how, planned.name, planned.reason].append(str(planned.node))
            for (how, name, reason), into in sorted(nodes.items(), key=lambda item: _ORDER.index(item[0][0])):
                why = f" ({reason})" if reason else ""
                yield f"  {how:6}  {name}: {source} -> {', '.join(into)}{why}"


_ORDER = ("bundle", "shared", "apart")
_PROJECTED = "each node projects what it reads"
_NO_BLOCKS = "it is not made of ReLU, depthwise convolution, 1x1 convolution and batch norm"


def cell_plan(
    path: str, label: str, edges: Sequence[Sequence[nn.Module]], graph: nx.MultiDiGraph, projected: bool
) -> CellPlan:
    """Compile the plan of a cell.

    Args:
        path: Path of the cell in the network.
        label: Label of the cell.
        edges: Modules of its candidates, by row and column.
        graph: Graph of the space, without what was pruned.
        projected: Whether states pass a projection of their node before candidates get them.
    """
    found = []
    for start, end, name, edge in graph.edges(keys=True, data=True):
        if edge["kind"] == "candidate" and json.loads(edge.get("groups", "[]")) == [label]:
            source, node = graph.nodes[start]["index"], graph.nodes[end]["index"]
            row, (column,) = edge["row"], json.loads(edge["columns"])
            module = edges[row][column]
            found.append(_planned(source, node, row, column, str(name), module, projected))
    found.sort(key=lambda planned: (planned.row, planned.column))
    return CellPlan(path, tuple(_fitting(found)))


def _planned(
    source: int, node: int, row: int, column: int, name: str, module: nn.Module, projected: bool
) -> Planned:
    """Return how a candidate is computed, as far as that depends on nothing but itself."""
    steps, (blocks, scale, reason) = split(module), _blocks(module)
    if projected:
        return Planned(source, node, row, column, name, steps, reason=_PROJECTED)
    pooled = None
    if steps.shared and not blocks and (steps.scale is not None or not steps.rest):
        scale, reason, pooled = steps.scale, "", _pooled([module for _, module in steps.shared])
    return Planned(source, node, row, column, name, steps, blocks, pooled, scale, reason)


def _fitting(candidates: Sequence[Planned]) -> Iterator[Planned]:
    """Yield the candidates; what differs from most convolutions of its source is not in their bundle."""
    kinds: dict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
    for planned in candidates:
        if planned.blocks:
            kinds[planned.source][_kind(planned)] += 1
    for planned in candidates:
        ((usual, _),) = kinds[planned.source].most_common(1) or [((0, 0), 0)]
        if planned.blocks and _kind(planned) != usual:
            reason = f"stride and channels {_kind(planned)} differ from {usual} of the others"
            planned = replace(planned, blocks=(), reason=reason)
        if planned.pooled and (planned.pooled.shape[1], planned.pooled.norm.num_features) != usual:
            planned = replace(planned, pooled=None)
        yield planned


def _kind(planned: Planned) -> tuple[int, int]:
    first = planned.blocks[0]
    return first.shape[2], first.pointwise.in_channels


def _pooled(modules: Sequence[nn.Module]) -> Pooled | None:
    """Return a pool and its batch norm; None for other modules."""
    if len(modules) != 2:
        return None
    pool, norm = modules
    if not isinstance(norm, nn.BatchNorm2d) or not norm.track_running_stats:
        return None
    if not isinstance(pool, nn.MaxPool2d | nn.AvgPool2d) or pool.ceil_mode:
        return None
    kernel = _one(pool.kernel_size)
    if kernel % 2 == 0 or _one(pool.padding) != kernel // 2 or _one(pool.stride) < 1:
        return None
    if isinstance(pool, nn.MaxPool2d):
        differs = _one(pool.dilation) != 1 or pool.return_indices
    else:
        differs = pool.count_include_pad or pool.divisor_override is not None
    return None if differs else Pooled(pool, norm)


def _blocks(module: nn.Module) -> tuple[tuple[Block, ...], SampleScale | None, str]:
    """Return the blocks of an operation and the scale behind them; none, and why, if it has other parts."""
    if type(module) is not nn.Sequential:
        return (), None, f"it is a {type(module).__name__}"
    children = list(module.children())
    last = children[-1] if children else None
    scale = last if isinstance(last, SampleScale) else None
    children = children if scale is None else children[:-1]
    if len(children) % 4 or not children:
        return (), None, _NO_BLOCKS
    blocks = []
    for start in range(0, len(children), 4):
        relu, depthwise, pointwise, norm = children[start : start + 4]
        reason = _differs(relu, depthwise, pointwise, norm, first=start == 0)
        if reason:
            return (), None, reason
        blocks.append(Block(depthwise, pointwise, norm))  # type: ignore[arg-type]
    if any(all_hooks(module)):
        return (), None, "a hook is registered on it"
    return tuple(blocks), scale, ""


def _differs(
    relu: nn.Module, depthwise: nn.Module, pointwise: nn.Module, norm: nn.Module, *, first: bool
) -> str:
    """Return why four modules are not a block, or an empty text."""
    if type(relu) is not nn.ReLU or type(depthwise) is not nn.Conv2d or type(pointwise) is not nn.Conv2d:
        return _NO_BLOCKS
    if type(norm) is not nn.BatchNorm2d or norm.affine or not norm.track_running_stats:
        return "its normalisation is not a batch norm without parameters"
    kernel, dilation, stride = (set(getattr(depthwise, n)) for n in ("kernel_size", "dilation", "stride"))
    (k, *rest), channels = kernel, depthwise.in_channels
    same = {d * (k // 2) for d in dilation}
    if rest or k % 2 == 0 or len(dilation) > 1 or len(stride) > 1 or set(depthwise.padding) != same:
        return "its kernel is not odd, square and padded by half"
    if depthwise.groups != channels or depthwise.out_channels != channels or pointwise.groups != 1:
        return "its first convolution is not depthwise"
    if set(pointwise.kernel_size) != {1} or pointwise.stride != (1, 1) or pointwise.padding != (0, 0):
        return "its second convolution is not 1x1"
    if pointwise.out_channels != channels or pointwise.in_channels != channels:
        return "it changes the number of channels"
    if depthwise.bias is not None or pointwise.bias is not None or depthwise.padding_mode != "zeros":
        return "its convolutions have a bias, or do not pad with zeros"
    if not first and stride != {1}:
        return "a later block has a stride"
    return ""
