"""The cell space of NAS-Bench-201."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from spacelang import LayerChoice
from spacelang.errors import SpaceError, require_integer
from spacelang.graph import Wire, Wiring

from ..images import Dataset, resolve_images
from ..operations.cell_operations import cifar_stem, make_operation, relu_conv_bn
from ..published import PublishedSpace

OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")
NODES = 4
STAGES = 3  # of maps of 32, 16 and 8 pixels for CIFAR

_EDGES = tuple((source, node) for node in range(1, NODES) for source in range(node))  # the authors' order
_FOREIGN_EDGE = re.compile(r"cells\.(\d+)\.layers\.(\d+)\.op\.(.+)")
_FOREIGN_BLOCK = re.compile(r"cells\.(\d+)\.(conv_a\.op|conv_b\.op|downsample)\.(.+)")
_BLOCK = {"conv_a.op": "conv1", "conv_b.op": "conv2", "downsample": "shortcut"}
_REDUCTION = re.compile(r"(?:cells|layers)\.(\d+)\.conv(?:_a|1)\.")


class NASBench201(PublishedSpace):
    """One cell of four nodes with an operation on each of its six edges: 15,625 architectures.

    The network has three stages of cells, with width, 2 width and 4 width channels; between two stages a
    residual block halves the map. The decisions are `cell/{source}_{node}`. Source: arXiv:2001.00326.

    Args:
        width: Channels of the first stage (16 in the benchmark).
        num_cells: Number of cells in each stage (5 in the benchmark).
        dataset: "cifar" or (channels, size, classes); (3, 16, 120) is the benchmark's ImageNet16-120.
        num_classes: Overrides the dataset's; 100 for CIFAR-100.
        affine: Whether batch norms have parameters; the benchmark's networks do, its weight-sharing searches
            do not.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        width: int = 16,
        num_cells: int = 5,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        affine: bool = True,
    ) -> None:
        super().__init__()
        require_integer("width", width, least=1)
        require_integer("num_cells", num_cells, least=1)
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError(
                "NASBench201 has no stem for 'imagenet'; ImageNet16-120 is dataset=(3, 16, 120)."
            )
        self.stem = cifar_stem(data.channels, width)
        layers: list[nn.Module] = []
        for stage in range(STAGES):
            channels = width * 2**stage
            if stage > 0:
                layers.append(ReductionBlock(channels // 2, channels, affine))
            operations = {name: partial(_operation, name, channels, affine) for name in OPERATIONS}
            layers += [EdgeCell("cell", operations) for _ in range(num_cells)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.head(self.layers(self.stem(images))))
        return logits

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the benchmark's authors under the names of this network."""
        return {_from_authors(name): tensor for name, tensor in weights.items()}

    @classmethod
    def arguments_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the number of classes, the width and the number of cells of a state dict."""
        found = super().arguments_of(weights)
        reductions = [int(match[1]) for name in weights if (match := _REDUCTION.match(name))]
        if "stem.0.weight" in weights and reductions:
            found |= {"width": len(weights["stem.0.weight"]), "num_cells": min(reductions)}
        return found


def _from_authors(name: str) -> str:
    """Rename `cells.5.conv_a.op.1.weight` to `layers.5.conv1.1.weight`."""
    if (edge := _FOREIGN_EDGE.fullmatch(name)) and int(edge[2]) < len(_EDGES):
        source, node = _EDGES[int(edge[2])]
        return f"layers.{edge[1]}.edges.{node - 1}.{source}.{edge[3]}"
    if block := _FOREIGN_BLOCK.fullmatch(name):
        return f"layers.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"
    return re.sub(r"^lastact\.", "head.", name)


class EdgeCell(nn.Module):
    """Cell whose node j is the sum over i < j of the operation on edge (i, j); keeps (B, C, H, W).

    Args:
        label: Label of the cell; the decisions are `{label}/{source}_{node}`.
        operations: Factories of the candidates by name; one is "none".
    """

    def __init__(self, label: str, operations: Mapping[str, Callable[[], nn.Module]]) -> None:
        super().__init__()
        self.label = label
        self.edges = nn.ModuleList(
            nn.ModuleList(
                LayerChoice(dict(operations), label=f"{label}/{source}_{node}") for source in range(node)
            )
            for node in range(1, NODES)
        )

    def wiring(self) -> Wiring:
        """Return the graph of the cell."""
        wires = (
            Wire(source, node, f"edges.{node - 1}.{source}", absent="none")
            for node in range(1, NODES)
            for source in range(node)
        )
        return Wiring(self.label, 1, NODES - 2, tuple(wires))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last node."""
        states = [x]
        for row in self.edges:
            states.append(sum(edge(x) for edge, x in zip(row.children(), states, strict=True)))
        return states[-1]


class ReductionBlock(nn.Module):
    """Residual block of two 3x3 convolutions that halves the map: (B, C_in, H, W) -> (B, C_out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = relu_conv_bn(in_channels, out_channels, affine, kernel=3, stride=2)
        self.conv2 = relu_conv_bn(out_channels, out_channels, affine, kernel=3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut plus convolutions."""
        y: Tensor = self.shortcut(x) + self.conv2(self.conv1(x))
        return y


def _operation(name: str, channels: int, affine: bool) -> nn.Module:
    """Build an operation at stride 1; the benchmark's pool is never followed by a batch norm."""
    return make_operation(name, channels, 1, affine=affine or name == "avg_pool_3x3")


def unique_name(architecture: Mapping[str, Any], *, zeros: bool = True) -> str:
    """Return the benchmark's name of an architecture, the same for architectures that it counts as one.

    A node is the sorted sum of its terms "(node)@operation". A skip connection stands for the node it reads,
    and with `zeros` an edge that is "none" or reads "#" is "#". The 15,625 architectures have 6,466 different
    names, 12,751 without `zeros`. The benchmark's rule stops early: "#+#" is not "#", and a sum in a sum is
    not sorted again (in fact the architectures compute 4,930 different functions).
    """
    nodes = ["0"]
    for node in range(1, NODES):
        edges = ((architecture[f"cell/{source}_{node}"], nodes[source]) for source in range(node))
        nodes.append("+".join(sorted(_term(operation, source, zeros) for operation, source in edges)))
    return nodes[-1]


def _term(operation: str, source: str, zeros: bool) -> str:
    if zeros and (operation == "none" or source == "#"):
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"
