"""Cells that are graphs of motifs, which are graphs of motifs in turn, down to primitive operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace
from spacelang.errors import SpaceError, require_integer
from spacelang.graph import Wire, Wiring
from spacelang.language import Architecture, Categorical, Decision, Primitive, Relaxer, Tally
from spacelang.randomness import require_generator
from spacelang.supernet import Group, Mixed

from ..images import Dataset, resolve_images
from ..operations.cell_operations import Zero, cifar_stem
from ..operations.held import Held

Operations = Mapping[str, Callable[[], nn.Module]]

PRIMITIVES: tuple[str, ...] = (
    "identity",
    "conv_1x1",
    "depthwise_conv_3x3",
    "sep_conv_3x3",
    "max_pool_3x3",
    "avg_pool_3x3",
    "none",
)
STAGES = 3


class HierarchicalCells(ModelSpace):
    """Cells whose edges are motifs, small graphs with primitive operations on their edges.

    The cell of the paper has 5 nodes, and chooses among 6 motifs of 4 nodes, which choose among 6 primitives;
    any edge may be "none". That makes 7^36 * 7^10 = 7.49e38 architectures. Decisions are
    `level{n}/motif{m}/{source}_{node}` and `cell/{source}_{node}`. Every motif is part of an architecture,
    also one that no edge uses: a mutation may change it, and another bring it into use. Each use of a motif
    has its own weights. `default()` has the identity, or the first motif, on every edge.

    From the paper are the levels, the primitives, the concatenation of what enters a node, and mutation. Its
    authors published no code, and these conventions are ours. A 1x1 convolution returns a concatenation of
    several maps to their width, one map passes through, and a node that nothing enters is zero. A mutation
    always changes an edge. The network has three stages of cells, between which a separable convolution
    halves the map and doubles the channels. Source: Liu et al. 2018, arXiv:1711.00436.

    Args:
        width: Channels of the first stage.
        num_cells: Number of cells in each stage.
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: Overrides the dataset's.
        motifs: (number, nodes) of the motifs of each level between the primitives and the cell; () for
            flat cells, whose edges are primitives.
        num_nodes: Number of nodes in the cell, with input and output.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        width: int = 16,
        num_cells: int = 1,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        motifs: Sequence[tuple[int, int]] = ((6, 4),),
        num_nodes: int = 5,
    ) -> None:
        super().__init__()
        require_integer("width", width, least=1)
        require_integer("num_cells", num_cells, least=1)
        require_integer("num_nodes", num_nodes, least=2)
        for number, nodes in motifs:
            require_integer("motifs: number", number, least=1)
            require_integer("motifs: nodes", nodes, least=2)
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError(
                "HierarchicalCells has no stem for 'imagenet'; pass dataset=(channels, size, classes)."
            )
        self._levels = _levels(motifs, num_nodes)
        graphs = [graph for level in self._levels for graph in level]
        self.genotype = Held(*(edge for graph in graphs for row in graph.rows() for edge in row))
        layers: list[nn.Module] = [cifar_stem(data.channels, width), nn.ReLU()]
        for stage in range(STAGES):
            channels = width * 2**stage
            if stage > 0:
                layers.append(_separable(channels // 2, channels, stride=2))
            layers += [_cell(self._levels, channels) for _ in range(num_cells)]
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.layers(images)).flatten(1))
        return logits

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Draw a level, a motif of it, a node, an earlier node, and another operation for their edge."""
        require_generator("rng", rng)
        graph = _drawn(_drawn(self._levels, rng), rng)
        edge = _drawn(_drawn(graph.rows(), rng), rng)
        parent = self.canonical(arch)
        others = [operation for operation in edge.candidates if operation != parent[edge.label]]
        return {**parent, edge.label: _drawn(others, rng)}


@dataclass(frozen=True)
class MotifGraph:
    """The decisions of a motif or cell: an operation for every pair of its nodes.

    Args:
        label: Beginning of the labels.
        nodes: Number of nodes; the first is the input and the last the output.
        operations: Names of the operations.
    """

    label: str
    nodes: int
    operations: tuple[str, ...]

    def rows(self) -> list[list[Categorical]]:
        """Return for every node except the input the edges from earlier nodes."""
        return [
            [Categorical(f"{self.label}/{source}_{node}", self.operations) for source in range(node)]
            for node in range(1, self.nodes)
        ]


def _levels(motifs: Iterable[tuple[int, int]], num_nodes: int) -> list[list[MotifGraph]]:
    """Return the motifs of each level from the second; the last level is the cell alone."""
    levels, operations = [], PRIMITIVES
    for level, (number, nodes) in enumerate(motifs, start=2):
        names = tuple(f"motif{m}" for m in range(number))
        levels.append([MotifGraph(f"level{level}/{name}", nodes, operations) for name in names])
        operations = (*names, "none")
    return [*levels, [MotifGraph("cell", num_nodes, operations)]]


def _cell(levels: Sequence[Sequence[MotifGraph]], channels: int) -> Motif:
    """Assemble the cell from the primitives upwards."""
    operations: Operations = {name: partial(_primitive, name, channels) for name in PRIMITIVES}
    *motifs, (cell,) = levels
    for level in motifs:
        factories = [partial(Motif, graph, channels, operations) for graph in level]
        operations = {**{f"motif{m}": factory for m, factory in enumerate(factories)}, "none": Zero}
    return Motif(cell, channels, operations)


class Motif(nn.Module):
    """A graph whose node i merges what the edges from earlier nodes bring; keeps (B, C, H, W)."""

    def __init__(self, graph: MotifGraph, channels: int, operations: Operations) -> None:
        super().__init__()
        self.graph = graph
        rows = graph.rows()
        self.edges = nn.ModuleList(
            nn.ModuleList(LayerChoice(operations, label=edge.label) for edge in row) for row in rows
        )
        self.merges = nn.ModuleList(Merge(row, channels) for row in rows[1:])

    def wiring(self) -> Wiring:
        """Return the graph of the motif."""
        wires = (
            Wire(source, node, f"edges.{node - 1}.{source}", absent="none")
            for node in range(1, self.graph.nodes)
            for source in range(node)
        )
        return Wiring(self.graph.label, 1, self.graph.nodes - 2, tuple(wires))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last node."""
        first, *rows = (list(row.children()) for row in self.edges)
        states: list[Tensor] = [x, first[0](x)]
        for row, merge in zip(rows, self.merges, strict=True):
            states.append(merge([edge(x) for edge, x in zip(row, states, strict=True)]))
        return states[-1]


@dataclass(frozen=True)
class EdgeCount:
    """A tally: how many edges are not "none"."""

    edges: tuple[Categorical, ...]
    start: int = 0

    def decisions(self) -> tuple[Categorical, ...]:
        return self.edges

    def step(self, state: int, position: int, value: str) -> int:
        return state + (value != "none")

    def result(self, state: int) -> int:
        return state

    def __str__(self) -> str:
        return f"edges({', '.join(edge.label for edge in self.edges)})"


class Merge(Primitive):
    """Joins the maps that enter a node into one: [(B, C, H, W), ...] -> (B, C, H, W).

    The maps of edges other than "none" are concatenated, and a 1x1 convolution, batch norm and ReLU return
    them to C channels. Its weight has a block of columns for each edge, and an architecture has those of its
    edges. One map passes through. Without any, the first does, which is the zeros of a "none".

    Args:
        edges: Decisions on the edges, at least two.
        channels: C.
    """

    def __init__(self, edges: Iterable[Categorical], channels: int) -> None:
        super().__init__()
        self.edges = tuple(edges)
        self.project = _block(nn.Conv2d(len(self.edges) * channels, channels, 1, bias=False))

    def decisions(self) -> tuple[Decision, ...]:
        return self.edges

    def tallies(self) -> tuple[Tally, ...]:
        return (EdgeCount(self.edges),)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return _merged(self.edges, self.project, arch)

    def relax(self, builder: Relaxer) -> nn.Module:
        return MixedMerge([builder.group(edge) for edge in self.edges], self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Merge with the first operation on every edge."""
        return self.project(torch.cat(list(maps), dim=1))  # type: ignore[no-any-return]


class MixedMerge(Mixed):
    """A `Merge` in a supernet; in a mixture every edge is there, and "none" brings zeros."""

    def __init__(self, groups: Sequence[Group], merge: Merge) -> None:
        super().__init__()
        self.groups = list(groups)
        self.decided = merge.edges
        self.project = merge.project

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if all(group.is_selected for group in self.groups):
            present = [k for k, group in enumerate(self.groups) if group.selected != "none"]
            if len(present) < 2:
                return maps[present[0] if present else 0]
        return self.project(torch.cat(list(maps), dim=1))  # type: ignore[no-any-return]

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return _merged(self.decided, self.project, arch)


class OneMap(nn.Module):
    """Passes one of several maps through."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the map, (B, C, H, W)."""
        return maps[self.place]


class Joined(nn.Module):
    """Concatenates the maps at some places and returns them to their width."""

    def __init__(self, places: Sequence[int], project: nn.Module) -> None:
        super().__init__()
        self.places = tuple(places)
        self.project = project

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return one map, (B, C, H, W)."""
        return self.project(torch.cat([maps[k] for k in self.places], dim=1))  # type: ignore[no-any-return]


def _merged(edges: Sequence[Categorical], project: nn.Sequential, arch: Mapping[str, Any]) -> nn.Module:
    """Return the merge of an architecture, with copies of its columns of the weight."""
    present = [k for k, edge in enumerate(edges) if arch[edge.label] != "none"]
    if len(present) < 2:
        return OneMap(present[0] if present else 0)
    conv, *others = project
    largest = conv.get_parameter("weight")
    blocks = largest.detach().chunk(len(edges), dim=1)
    weight = torch.cat([blocks[k] for k in present], dim=1)
    with torch.device("meta"):
        cut = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    cut.weight = nn.Parameter(weight, largest.requires_grad)
    return Joined(present, nn.Sequential(cut, *others)).train(project.training)


def _primitive(name: str, channels: int) -> nn.Module:
    if name == "conv_1x1":
        return _block(nn.Conv2d(channels, channels, 1, bias=False))
    if name == "depthwise_conv_3x3":
        return _block(_depthwise(channels))
    if name == "sep_conv_3x3":
        return _separable(channels, channels)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return Zero() if name == "none" else nn.Identity()


def _separable(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return _block(_depthwise(in_channels, stride), nn.Conv2d(in_channels, channels, 1, bias=False))


def _depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def _block(*convs: nn.Conv2d) -> nn.Sequential:
    """Follow convolutions by a batch norm and a ReLU."""
    return nn.Sequential(*convs, nn.BatchNorm2d(convs[-1].out_channels), nn.ReLU())


def _drawn(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]
