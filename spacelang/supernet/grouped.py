"""Bundles in PyTorch: the separable convolutions that leave one feature map, computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Wiring:
    """Which chains a bundle has, and which edge each belongs to.

    A chain is one block or several of ReLU, depthwise convolution, 1x1 convolution and batch norm without
    parameters. The first blocks of all chains have one stride, the others have none.

    Args:
        edges: Number of edges.
        edge_of: Edge of each chain.
        starts: First block of each chain, and the number of blocks.
        shapes: Kernel, dilation and stride of each block.
    """

    edges: int
    edge_of: tuple[int, ...]
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, int, int], ...]

    @cached_property
    def table(self) -> list[int]:
        """The same as one list of numbers, which an operator of PyTorch can have as an argument."""
        numbers = [n for shape in self.shapes for n in shape]
        return [self.edges, len(self.edge_of), *self.edge_of, *self.starts, *numbers]

    @classmethod
    def of(cls, table: Sequence[int]) -> Wiring:
        """Return the wiring that has this table."""
        return _wiring(tuple(table))

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Return H' and W' for x, (N, C, H, W)."""
        stride = self.shapes[0][2]
        return -(-x.shape[2] // stride), -(-x.shape[3] // stride)


@cache
def _wiring(table: tuple[int, ...]) -> Wiring:
    edges, chains, *rest = table
    starts, numbers = rest[chains : 2 * chains + 1], rest[2 * chains + 1 :]
    shapes = tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    return Wiring(edges, tuple(rest[:chains]), tuple(starts), shapes)


def grouped_bundle(
    x: Tensor,
    given: Sequence[Tensor],
    mix: Tensor,
    weights: Sequence[Tensor],
    running: Sequence[Tensor],
    wiring: Wiring,
    eps: Sequence[float],
    of_batch: bool,
) -> tuple[list[Tensor], Tensor]:
    """Return the weighted sum of the chains and features of each edge.

        out[e] = sum_{chain j of e} mix[j] chain_j(x) + sum_f mix[chains + e F + f] given_f

    Args:
        x: Feature map that all chains read, (N, C, H, W).
        given: F feature maps that every edge adds, each (N, C, H', W').
        mix: Weights, (chains + edges F, 1), or (chains + edges F, N) for weights by sample.
        weights: Depthwise (C, 1, k, k) and 1x1 (C, C, 1, 1) weights of each block, in turn.
        running: Running mean and variance of each block, in turn, each (C,); may be empty if `of_batch`.
        wiring: Chains and edges.
        eps: Number that the batch norm of each block adds to the variance.
        of_batch: Whether to normalise with the statistics of the batch.

    Returns:
        The sums, each (N, C, H', W'), and mean and variance of each block, (blocks, 2, C).
    """
    outs: list[Tensor | None] = [None] * wiring.edges
    relu, statistics = F.relu(x), []

    def add(edge: int, term: int, y: Tensor) -> None:
        weight = mix[term].view(-1, 1, 1, 1) * y
        known = outs[edge]
        outs[edge] = weight if known is None else known + weight

    for j, edge in enumerate(wiring.edge_of):
        y = relu
        for b in range(wiring.starts[j], wiring.starts[j + 1]):
            kernel, dilation, stride = wiring.shapes[b]
            y = y if b == wiring.starts[j] else F.relu(y)
            depthwise, pointwise = weights[2 * b], weights[2 * b + 1]
            y = F.conv2d(y, depthwise, None, stride, dilation * (kernel // 2), dilation, x.shape[1])
            y = F.conv2d(y, pointwise)
            with torch.no_grad():
                found = torch.var_mean(y, (0, 2, 3), correction=0)
            statistics.append(torch.stack(found[::-1]))
            mean, var = (None, None) if of_batch else (running[2 * b], running[2 * b + 1])
            y = F.batch_norm(y, mean, var, None, None, of_batch, 0.0, eps[b])
        add(edge, j, y)
    for edge in range(wiring.edges):
        for f, feature in enumerate(given):
            add(edge, len(wiring.edge_of) + edge * len(given) + f, feature)
    return [out for out in outs if out is not None], torch.stack(statistics)


@torch.no_grad()
def update_running(
    running: Sequence[Tensor], counts: Sequence[Tensor], momenta: Sequence[float], found: Tensor, count: int
) -> None:
    """Move running statistics towards those of a batch, as `nn.BatchNorm2d` does.

    Args:
        running: Running mean and variance of each batch norm, in turn, (C,).
        counts: Number of batches that each has seen.
        momenta: Momentum of each.
        found: Mean and variance of the batch, (norms, 2, C); the variance without correction.
        count: Number of values of each channel.
    """
    for i, (mean, var) in enumerate(found.unbind()):
        running[2 * i].lerp_(mean, momenta[i])
        running[2 * i + 1].lerp_(var * (count / (count - 1)), momenta[i])
        counts[i].add_(1)
