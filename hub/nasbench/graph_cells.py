"""Cells that compute the graphs of NAS-Bench-101."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spacelang.errors import SpaceError
from spacelang.graph import Wire, Wiring
from spacelang.language import Categorical, Condition, Constraint, Decision, Primitive, Relaxer
from spacelang.supernet import Group, Mixed

from ..operations.held import Held
from .matrices import OPERATIONS, Allowed, CellGraph, GraphLimits, Reads


class GraphCell(nn.Module):
    """The cell of one graph: (B, C_in, H, W) -> (B, C_out, H, W).

    Source: arXiv:1902.09635, section 2.
    """

    def __init__(self, graph: CellGraph, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.graph = graph
        self.channels = graph.channels(out_channels)
        readers = [vertex for vertex in range(1, graph.output + 1) if 0 in graph.reads(vertex)]
        self.projections = nn.ModuleDict(
            {str(vertex): conv_bn_relu(in_channels, self.channels[vertex], 1) for vertex in readers}
        )
        self.operations = nn.ModuleDict(
            {
                str(vertex): nn.ModuleDict({name: _operation(name, self.channels[vertex])})
                for vertex, name in enumerate(graph.operations, start=1)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output vertex."""
        states = [x]
        for vertex, name in enumerate(self.graph.operations, start=1):
            width = self.channels[vertex]
            read = [states[source][:, :width] for source in self.graph.reads(vertex) if source > 0]
            total = self._sum(vertex, x, read)
            states.append(self.operations[str(vertex)][name](total))  # type: ignore[index]
        joined = [states[source] for source in self.graph.reads(self.graph.output) if source > 0]
        return self._sum(self.graph.output, x, [torch.cat(joined, dim=1)] if joined else [])

    def _sum(self, vertex: int, x: Tensor, terms: list[Tensor]) -> Tensor:
        """Return the sum of a vertex's inputs, the projected input of the cell first."""
        if str(vertex) in self.projections:
            terms = [self.projections[str(vertex)](x), *terms]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class LargestCell(nn.Module):
    """Weights of every vertex and operation at full width, named as `GraphCell` names its own."""

    def __init__(self, limits: GraphLimits, in_channels: int, out_channels: int) -> None:
        super().__init__()
        last = limits.max_vertices
        self.projections = nn.ModuleDict(
            {str(vertex): conv_bn_relu(in_channels, out_channels, 1) for vertex in range(1, last)}
        )
        self.operations = nn.ModuleDict(
            {
                str(vertex): nn.ModuleDict({name: _operation(name, out_channels) for name in OPERATIONS})
                for vertex in range(1, last - 1)
            }
        )

    def cut(self, cell: GraphCell) -> dict[str, Tensor]:
        """Return the parameters and buffers of a cell, by name, as views of these weights."""
        return {name: _first(self.get_parameter(name), like) for name, like in cell.named_parameters()} | {
            name: _first(self.get_buffer(name), like) for name, like in cell.named_buffers()
        }

    def frozen(self, cell: GraphCell) -> GraphCell:
        """Fill the cell with copies of its part of these weights, and return it."""
        cell.load_state_dict(
            {name: tensor.detach().clone() for name, tensor in self.cut(cell).items()}, assign=True
        )
        for name, parameter in cell.named_parameters():
            parameter.requires_grad_(self.get_parameter(name).requires_grad)
        return cell.train(self.training)


class GraphCellChoice(Primitive):
    """A cell whose graph is chosen; its weights are slices of one cell with every vertex at full width.

    Args:
        limits: Limits on the size of the graph.
        in_channels: C_in.
        out_channels: C_out.
        fresh: Whether to hold no weights, and freeze to a newly initialised cell.
    """

    def __init__(
        self, limits: GraphLimits, in_channels: int, out_channels: int, *, fresh: bool = False
    ) -> None:
        super().__init__()
        self.limits = limits
        self.sizes = in_channels, out_channels
        self.conditional = nn.ModuleList(Held(decision) for _, decision in limits.conditional())
        self.largest = None if fresh else LargestCell(limits, in_channels, out_channels)

    @classmethod
    def build(cls, context: Any, *args: Any, **kwargs: Any) -> nn.Module | None:
        return super().build(context, *args, **{**kwargs, "fresh": True})

    def decisions(self) -> tuple[Decision, ...]:
        return (self.limits.num_vertices,)

    def reads(self) -> tuple[Decision, ...]:
        return (self.limits.num_vertices, *(decision for _, decision in self.limits.conditional()))

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        yield from (branch for branch in super().branches() if branch[1] == "largest")
        for index, (condition, _) in enumerate(self.limits.conditional()):
            yield condition, f"conditional.{index}", self.conditional[index]

    def wiring(self) -> Wiring:
        """Return the graph of the cell: two nodes for each vertex, what it reads and what it computes."""
        inner = self.limits.max_vertices - 2
        output = 2 * inner + 1
        wires = []
        for index, (_, decision) in enumerate(self.limits.conditional()):
            vertex = int(decision.label.rsplit("_", 1)[1])
            if isinstance(decision, Categorical):
                wires.append(Wire(2 * vertex - 1, 2 * vertex, f"conditional.{index}"))
                continue
            for source in range(vertex):
                wires.append(Wire(2 * source, output, when=Reads(self.limits, vertex, source, True)))
                if vertex <= inner:
                    when = Reads(self.limits, vertex, source, False)
                    wires.append(Wire(2 * source, 2 * vertex - 1, when=when))
        return Wiring("cell", 1, 2 * inner, tuple(wires))

    def constraints(self) -> Iterable[Constraint]:
        for vertices in range(2, self.limits.max_vertices + 1):
            yield Constraint(
                Allowed(self.limits, vertices),
                f"a cell of {vertices} vertices has at most {self.limits.max_edges} edges, and every vertex "
                "but the last is read.",
            )

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        graph = self.limits.graph(arch)
        if self.largest is None:
            return GraphCell(graph, *self.sizes)
        return self.largest.frozen(_without_memory(graph, self.sizes))

    def relax(self, builder: Relaxer) -> nn.Module:
        assert self.largest is not None
        return MixedGraphCell(list(map(builder.group, self.reads())), self.limits, self.sizes, self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with the smallest graph, input to output."""
        y: Tensor = self.freeze({self.limits.num_vertices.label: 2, self.limits.inputs(1).label: [0]})(x)
        return y


class MixedGraphCell(Mixed):
    """A `GraphCellChoice` in a supernet; it computes one graph at a time."""

    def __init__(
        self, groups: list[Group], limits: GraphLimits, sizes: tuple[int, int], largest: LargestCell
    ) -> None:
        super().__init__()
        self.groups = groups
        self.limits = limits
        self.sizes = sizes
        self.largest = largest
        self._plain: dict[CellGraph, GraphCell] = {}
        self.soft_refusal = (
            "'cell/num_vertices': channels follow from the graph, and graphs are computed one at a time"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plain": {}}

    def forward(self, x: Tensor) -> Tensor:
        if not self.groups[0].is_selected:
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        graph = self.limits.graph({g.label: _value(g) for g in self.groups if g.is_selected})
        if graph not in self._plain:
            self._plain[graph] = _without_memory(graph, self.sizes)
        cell = self._plain[graph].train(self.training)
        y: Tensor = functional_call(cell, self.largest.cut(cell), (x,))
        return y

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.largest.frozen(_without_memory(self.limits.graph(arch), self.sizes))


def _value(group: Group) -> Any:
    return list(group.selected) if group.is_subset else group.selected


def _without_memory(graph: CellGraph, sizes: tuple[int, int]) -> GraphCell:
    with torch.device("meta"):
        return GraphCell(graph, *sizes)


def _first(source: Tensor, like: Tensor) -> Tensor:
    """Return a view of the first entries of `source` in every dimension, as many as `like` has."""
    for dim, size in enumerate(like.shape):
        source = source.narrow(dim, 0, size)
    return source


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Build convolution, batch norm, ReLU: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _operation(name: str, channels: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return conv_bn_relu(channels, channels, 3 if name.startswith("conv3x3") else 1)
