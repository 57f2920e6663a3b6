"""Operations on graphs and on points: states (..., C) and neighbours to new states (..., C).

i is the node that receives, j a neighbour. [ , ] puts channels side by side. An MLP is a linear layer without
bias, ReLU and batch norm. Source: SGAS, arXiv:1912.00195, section 4.2 and the code its authors published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..operations.cell_operations import DropPath
from .neighbours import Neighbours


class ChannelNorm(nn.BatchNorm1d):
    """Batch norm of the last dimension, over all others: (..., C) -> (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


class MLP(nn.Sequential):
    """Linear layer without bias, ReLU, batch norm: (..., a) -> (..., b)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs, bias=False), nn.ReLU(), ChannelNorm(outputs))


class Skip(nn.Module):
    """y_i = x_i."""

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        return x


class Conv1x1(nn.Module):
    """y_i = MLP(x_i)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = MLP(channels, channels)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        y: Tensor = self.mlp(x)
        return y


class EdgeConv(nn.Module):
    """y_i = max_j MLP([x_i, x_j - x_i]). Source: arXiv:1801.07829."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * channels, channels)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.others
        own = edges.own(x)
        return edges.max(self.mlp(torch.cat([own, edges.other(x) - own], dim=-1)))


class MaxRelative(nn.Module):
    """y_i = MLP([x_i, max_j (x_j - x_i)]). Source: DeepGCNs, arXiv:1904.03751."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * channels, channels)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.others
        y: Tensor = self.mlp(torch.cat([x, edges.max(edges.other(x) - edges.own(x))], dim=-1))
        return y


class Attention(nn.Module):
    """y_i = sum_j a_ij h_j, a_ij = softmax_j LeakyReLU(u . h_i + v . h_j), i among the j.

    On graphs h = x W, and ReLU and batch norm follow; on points h = MLP(x). Source: GAT, arXiv:1710.10903.

    Args:
        channels: C.
        points: Whether on points.
    """

    def __init__(self, channels: int, points: bool) -> None:
        super().__init__()
        self.first, self.last = _around(channels, points)
        self.own = nn.Linear(channels, 1, bias=False)
        self.other = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.looped
        h = self.first(x)
        scores = F.leaky_relu(edges.own(self.own(h)) + edges.other(self.other(h)), 0.2)
        y: Tensor = self.last(edges.sum(edges.softmax(scores) * edges.other(h)))
        return y


def _around(channels: int, points: bool) -> tuple[nn.Module, nn.Module]:
    """Return the parts before and after the messages of attention and graph convolution."""
    if points:
        return MLP(channels, channels), nn.Identity()
    return nn.Linear(channels, channels, bias=False), nn.Sequential(nn.ReLU(), ChannelNorm(channels))


class SemiGCN(nn.Module):
    """Graph convolution, i among the j.

    On graphs y = BN(ReLU(sum_j x_j W / sqrt(d_i d_j))), d the number of edges into a node; on points
    y_i = mean_j MLP(x_j). Source: GCN, arXiv:1609.02907.
    """

    def __init__(self, channels: int, points: bool) -> None:
        super().__init__()
        self.first, self.last = _around(channels, points)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.looped
        y: Tensor = self.last(edges.smooth(edges.other(self.first(x))))
        return y


class Isomorphism(nn.Module):
    """y_i = MLP(x_i + sum_j x_j). Source: GIN, arXiv:1810.00826."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = MLP(channels, channels)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.others
        y: Tensor = self.mlp(x + edges.sum(edges.other(x)))
        return y


class Sage(nn.Module):
    """y_i = g([x_i, m_i]) / |g|, i among the j.

    On graphs m_i = mean_j x_j W and g an MLP; on points m_i = max_j ReLU(x_j W) and g a linear layer with
    ReLU. A relative one has x_j - x_i in place of x_j. Source: GraphSAGE, arXiv:1706.02216.
    """

    def __init__(self, channels: int, points: bool, relative: bool) -> None:
        super().__init__()
        self.points = points
        self.relative = relative
        self.first = nn.Linear(channels, channels, bias=False)
        layers = list(MLP(2 * channels, channels))
        self.last = nn.Sequential(*layers[:2] if points else layers)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        edges = neighbours.looped
        messages = edges.other(x) - edges.own(x) if self.relative else edges.other(x)
        messages = self.first(messages)
        found = edges.max(messages.relu()) if self.points else edges.mean(messages)
        return F.normalize(self.last(torch.cat([x, found], dim=-1)), dim=-1)


OPERATIONS: Mapping[str, Callable[[int, bool], nn.Module]] = {
    "skip_connect": lambda channels, points: Skip(),
    "conv_1x1": lambda channels, points: Conv1x1(channels),
    "edge_conv": lambda channels, points: EdgeConv(channels),
    "mr_conv": lambda channels, points: MaxRelative(channels),
    "gat": Attention,
    "semi_gcn": SemiGCN,
    "gin": lambda channels, points: Isomorphism(channels),
    "sage": lambda channels, points: Sage(channels, points, relative=False),
    "rel_sage": lambda channels, points: Sage(channels, points, relative=True),
}
"""Makers of operations by name, from channels and whether on points; `none` is the strategies' own."""


class Dropped(nn.Module):
    """An operation with drop path; a graph drops the paths of single nodes."""

    def __init__(self, operation: nn.Module, p: float) -> None:
        super().__init__()
        self.operation = operation
        self.drop_path = DropPath(p)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        y: Tensor = self.drop_path(self.operation(x, neighbours))
        return y


def make_operation(name: str, channels: int, points: bool, drop_path: float) -> nn.Module:
    """Make an operation, with drop path unless it is the skip connection or the rate is 0."""
    operation = OPERATIONS[name](channels, points)
    return operation if name == "skip_connect" or not drop_path else Dropped(operation, drop_path)
