"""The cell space of NAS-Bench-101: small graphs with an operation on every inner vertex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from spacelang.errors import SpaceError, require_integer
from spacelang.language import Architecture

from ..images import Dataset, resolve_images
from ..published import PublishedSpace
from .graph_cells import GraphCellChoice, conv_bn_relu
from .matrices import OPERATIONS as OPERATIONS
from .matrices import GraphLimits

MOST_VERTICES = 7
MOST_EDGES = 9


class NASBench101(PublishedSpace):
    """Cells that are graphs of up to 7 vertices and 9 edges; 423,624 are different.

    The network has three stacks of cells; between two stacks a max pool halves the map and the channels
    double. The output of a cell concatenates its inputs. An inner vertex adds its inputs, each cut to its own
    channels. A vertex that reads the cell's input reads a 1x1 convolution of it. Decisions are
    `cell/num_vertices`, `cell/op_{i}` of the inner vertices, and `cell/input_{i}`, the vertices that vertex i
    reads. Every vertex except the output is read by another, so every part of a cell has an effect.
    `hash(arch)` is the hash in the benchmark's table, the same for isomorphic cells; `sample` draws all
    architectures of the `size()` with the same probability. Source: arXiv:1902.09635.

    Args:
        width: Channels of the first stack (128 in the benchmark).
        num_cells: Number of cells in each stack (3 in the benchmark).
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: Overrides the dataset's.
        num_stacks: Number of stacks.
        max_vertices: Largest number of vertices in a cell, 2 to 7.
        max_edges: Largest number of edges in a cell.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        width: int = 128,
        num_cells: int = 3,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        num_stacks: int = 3,
        max_vertices: int = MOST_VERTICES,
        max_edges: int = MOST_EDGES,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "num_cells": num_cells, "num_stacks": num_stacks, "max_edges": max_edges}
        for name, value in sizes.items():
            require_integer(name, value, least=1)
        require_integer("max_vertices", max_vertices, least=2, most=MOST_VERTICES)
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError(
                "NASBench101 has no stem for 'imagenet'; pass dataset=(channels, size, classes)."
            )
        self._limits = GraphLimits(max_vertices, max_edges)
        layers: list[nn.Module] = [conv_bn_relu(data.channels, width, 3)]
        channels = width
        for stack in range(num_stacks):
            if stack > 0:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(num_cells):
                layers.append(GraphCellChoice(self._limits, channels, width * 2**stack))
                channels = width * 2**stack
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.layers(images)).flatten(1))
        return logits

    def size(self) -> int:
        """Return the exact number of architectures; isomorphic ones are counted separately."""
        return self._limits.size()

    @property
    def size_is_exact(self) -> bool:
        """Whether `size()` is exact: always."""
        return True

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture; all of the `size()` have the same probability."""
        return self._limits.architecture(self._limits.sample(rng))

    def hash(self, arch: Mapping[str, Any]) -> str:
        """Return the benchmark's hash of the cell, equal for isomorphic ones."""
        return self._limits.graph(self.canonical(arch)).fingerprint()
