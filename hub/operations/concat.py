"""Layers that read a cell's output where the architecture decides its nodes or their widths.

A cell's output is its nodes' feature maps side by side. With a fixed number of nodes and channels, a plain
layer reads it. Where only loose ends are in the output, or widths are chosen, the layer's largest weight has
a block of columns for every node. Each architecture uses the columns of its own nodes and channels, so a node
meets the same weights whatever stands next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spacelang import language
from spacelang import nn as space_nn
from spacelang.errors import SpaceError
from spacelang.language import Categorical, CellTopology, Decision, Primitive, Relaxer, Tally, Value
from spacelang.supernet import Group, Mixed


class Nodes(Protocol):
    """The nodes of a cell that are in its output."""

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions that choose the nodes."""
        ...

    def present(self, arch: Mapping[str, Any]) -> list[int]:
        """Return the positions of the nodes in the output, from 0, increasing."""
        ...

    def groups(self, builder: Relaxer) -> list[Group]:
        """Return the groups of these decisions in a supernet."""
        ...

    def selected(self, groups: Sequence[Group]) -> list[int] | None:
        """Return `present` of the selected architecture; None in a mixture, where every node is present."""
        ...

    def tallies(self) -> Sequence[Tally]:
        """Return the number of nodes in the output, or nothing where it is fixed."""
        ...


@dataclass(frozen=True, eq=False)
class LooseEnds:
    """The nodes of a cell that no other node reads."""

    topology: CellTopology

    def decisions(self) -> tuple[Categorical, ...]:
        """Return the decisions on the inputs of every slot; operations change nothing."""
        nodes = self.topology.nodes
        return tuple(source for node in nodes for _, source in self.topology.slots(node))

    def present(self, arch: Mapping[str, Any]) -> list[int]:
        """Return the positions of the nodes that no slot of `arch` reads."""
        return self._unread({source.parse(arch[source.label]) for source in self.decisions()})

    def groups(self, builder: Relaxer) -> list[Group]:
        """Return the group of the cell."""
        return [builder.cell_group(self.topology)]

    def selected(self, groups: Sequence[Group]) -> list[int] | None:
        """Return the positions of the loose ends of the selected cell, or None in a mixture."""
        (group,) = groups
        if not group.is_selected:
            return None
        edges = zip(self.topology.edges, group.active, strict=True)
        return self._unread({source for (source, _), active in edges if active})

    def tallies(self) -> list[Tally]:
        """Return the number of loose ends."""
        return [language.LooseEnds(self.topology)]

    def _unread(self, sources: set[int]) -> list[int]:
        return [k for k, node in enumerate(self.topology.nodes) if node not in sources]


@dataclass(frozen=True, eq=False)
class AllNodes:
    """Every node of a cell."""

    count: int

    def decisions(self) -> tuple[Decision, ...]:
        """Return no decision."""
        return ()

    def present(self, arch: Mapping[str, Any]) -> list[int]:
        """Return every position."""
        return list(range(self.count))

    def groups(self, builder: Relaxer) -> list[Group]:
        """Return no group."""
        return []

    def selected(self, groups: Sequence[Group]) -> list[int] | None:
        """Return None, which stands for every node."""
        return None

    def tallies(self) -> list[Tally]:
        """Return nothing."""
        return []


@dataclass(frozen=True, eq=False)
class Concat:
    """Output of a cell: `channels` for each of the `nodes` in it, at most `num_nodes`."""

    num_nodes: int
    nodes: Nodes
    channels: int | Value


class ConcatLayer(Primitive):
    """A convolution or linear layer on a `Concat`, (B, n * channels, ...) -> (B, out_channels, ...).

    Args:
        layer_type: `nn.Conv2d` or `nn.Linear`.
        concat: Output of a cell, which the layer reads.
        out_channels: Number of channels or features that the layer makes.
        options: Other arguments of the layer.
    """

    def __init__(
        self, layer_type: type[nn.Module], concat: Concat, out_channels: int | Value, **options: Any
    ) -> None:
        super().__init__()
        self.spec = ConcatSpec(layer_type, concat, out_channels, options)
        self.largest = self.spec.build(concat.num_nodes, _largest(concat.channels), _largest(out_channels))

    def decisions(self) -> tuple[Decision, ...]:
        return (*self.spec.concat.nodes.decisions(), *self.spec.size_decisions)

    def tallies(self) -> Sequence[Tally]:
        return self.spec.concat.nodes.tallies()

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.spec.cut(self.largest, self.spec.concat.nodes.present(arch), arch)

    def relax(self, builder: Relaxer) -> nn.Module:
        sizes = [builder.group(decision) for decision in self.spec.size_decisions]
        return MixedConcatLayer(self.spec, self.largest, self.spec.concat.nodes.groups(builder), sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with every node and the first sizes, like a cell in a space."""
        first = {d.label: next(iter(d.values())) for d in self.spec.size_decisions}
        nodes = range(self.spec.concat.num_nodes)
        y: Tensor = self.spec.call(self.largest, nodes, first, x)
        return y


class MixedConcatLayer(Mixed):
    """A `ConcatLayer` in a supernet; it mixes nodes, and computes one choice of sizes at a time."""

    def __init__(
        self, spec: ConcatSpec, largest: nn.Module, node_groups: list[Group], size_groups: list[Group]
    ) -> None:
        super().__init__()
        self.spec = spec
        self.largest = largest
        self.node_groups = node_groups
        self.size_groups = size_groups
        if size_groups:
            labels = ", ".join(repr(group.label) for group in size_groups)
            self.soft_refusal = f"{labels}: {spec} computes one choice at a time"

    def forward(self, x: Tensor) -> Tensor:
        if not all(group.is_selected for group in self.size_groups):
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        sizes = {group.label: group.selected for group in self.size_groups}
        nodes = self.spec.concat.nodes.selected(self.node_groups)
        y: Tensor = self.spec.call(
            self.largest, range(self.spec.concat.num_nodes) if nodes is None else nodes, sizes, x
        )
        return y

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.spec.cut(self.largest, self.spec.concat.nodes.present(arch), arch)


@dataclass(frozen=True, eq=False)
class ConcatSpec:
    """A layer type and its arguments; cuts the weights of an architecture out of the largest layer."""

    layer_type: type[nn.Module]
    concat: Concat
    out_channels: int | Value
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.layer_type.__name__}(up to {self.concat.num_nodes} * {self.concat.channels}, ...)"

    def __deepcopy__(self, memo: dict[int, Any]) -> ConcatSpec:
        return self  # immutable, and its values stay symbolic in copies

    @property
    def size_decisions(self) -> tuple[Decision, ...]:
        """Return the decisions on widths."""
        sizes = [size for size in (self.concat.channels, self.out_channels) if isinstance(size, Value)]
        return tuple({d.label: d for size in sizes for d in size.decisions()}.values())

    def build(self, num_nodes: int, channels: int, out_channels: int) -> nn.Module:
        """Construct a plain layer."""
        return self.layer_type(num_nodes * channels, out_channels, **self.options)

    def call(self, largest: nn.Module, nodes: Sequence[int], arch: Mapping[str, Any], x: Tensor) -> Any:
        """Apply the layer of an architecture to x, with slices of the largest weights."""
        return functional_call(largest, self._tensors(largest, nodes, arch), (x,))

    def cut(self, largest: nn.Module, nodes: Sequence[int], arch: Mapping[str, Any]) -> nn.Module:
        """Return the plain layer of an architecture, with copies of its slices of the largest weights."""
        with torch.device("meta"):
            sizes = _value(self.concat.channels, arch), _value(self.out_channels, arch)
            layer = self.build(len(nodes), *sizes)
        for name, tensor in self._tensors(largest, nodes, arch).items():
            source = largest.get_parameter(name)
            weight = nn.Parameter(tensor.detach().clone(), requires_grad=source.requires_grad)
            setattr(layer, name, weight)
        return layer.train(largest.training)

    def _tensors(
        self, largest: nn.Module, nodes: Sequence[int], arch: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return the parameters of the architecture's layer, by name."""
        most, channels = _largest(self.concat.channels), _value(self.concat.channels, arch)
        rows = _value(self.out_channels, arch)
        cut = {name: tensor[:rows] for name, tensor in largest.named_parameters()}
        if len(nodes) < self.concat.num_nodes or channels < most:
            cut["weight"] = torch.cat([cut["weight"][:, k * most : k * most + channels] for k in nodes], 1)
        return cut


def conv2d(in_channels: int | Value | Concat, out_channels: int | Value, kernel: int, **options: Any) -> Any:
    """Build a convolution on a map whose channels are a number, a value choice or a `Concat`."""
    if isinstance(in_channels, Concat):
        return ConcatLayer(nn.Conv2d, in_channels, out_channels, kernel_size=kernel, **options)
    return space_nn.Conv2d(in_channels, out_channels, kernel, **options)


def linear(in_features: int | Value | Concat, out_features: int) -> Any:
    """Build a linear layer on features: a number, a value choice or a `Concat`."""
    if isinstance(in_features, Concat):
        return ConcatLayer(nn.Linear, in_features, out_features)
    return space_nn.Linear(in_features, out_features)


def _largest(size: int | Value) -> int:
    return max(size.possible()) if isinstance(size, Value) else size


def _value(size: int | Value, arch: Mapping[str, Any]) -> int:
    return size.evaluate(arch) if isinstance(size, Value) else size
