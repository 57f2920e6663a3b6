"""Neighbours of nodes, in two forms: pairs of nodes of one graph, and the nearest points of each point.

Both gather states along edges (`own`, `other`) and reduce messages to nodes: operations are written once.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor


class Neighbours(Protocol):
    """The edges on which messages go from nodes j to nodes i."""

    @property
    def others(self) -> Neighbours:
        """Neighbours other than the node itself, as far as the form adds it by itself."""
        ...

    @property
    def looped(self) -> Neighbours:
        """Neighbours with every node itself."""
        ...

    def own(self, x: Tensor) -> Tensor:
        """Return the state x_i of the receiving node of every edge."""
        ...

    def other(self, x: Tensor) -> Tensor:
        """Return the state x_j of the sending node of every edge."""
        ...

    def sum(self, messages: Tensor) -> Tensor:
        """Return the sum of each node's messages; 0 without any, as for all reductions."""
        ...

    def mean(self, messages: Tensor) -> Tensor:
        """Return the mean of each node's messages."""
        ...

    def max(self, messages: Tensor) -> Tensor:
        """Return the largest of each node's messages, in every channel."""
        ...

    def softmax(self, scores: Tensor) -> Tensor:
        """Return scores of edges as shares that add up to one at each node."""
        ...

    def smooth(self, messages: Tensor) -> Tensor:
        """Return what a graph convolution makes of messages x_j: a sum with the weights of its form."""
        ...


class Edges:
    """The edges of a graph, sparse: states are (N, C), messages (E, C).

    Args:
        edge_index: Nodes j in row 0 and i in row 1, (2, E).
        nodes: N.
    """

    def __init__(self, edge_index: Tensor, nodes: int) -> None:
        self.source, self.target = edge_index[0], edge_index[1]
        self.nodes = nodes

    @property
    def others(self) -> Self:
        """The edges as given."""
        return self

    @cached_property
    def looped(self) -> Edges:
        """The edges between different nodes, and one from each node to itself."""
        different = self.source != self.target
        loops = torch.arange(self.nodes, device=self.source.device)
        pairs = (torch.cat([row[different], loops]) for row in (self.source, self.target))
        return Edges(torch.stack(list(pairs)), self.nodes)

    @cached_property
    def degrees(self) -> Tensor:
        """Number of edges into each node, at least 1, (N,)."""
        ones = torch.ones_like(self.target)
        return self._zeros(ones).index_add(0, self.target, ones).clamp(min=1)

    def own(self, x: Tensor) -> Tensor:
        return x[self.target]

    def other(self, x: Tensor) -> Tensor:
        return x[self.source]

    def sum(self, messages: Tensor) -> Tensor:
        return self._zeros(messages).index_add(0, self.target, messages)

    def mean(self, messages: Tensor) -> Tensor:
        return self.sum(messages) / self.degrees[:, None]

    def max(self, messages: Tensor) -> Tensor:
        index = self.target[:, None].expand_as(messages)
        return self._zeros(messages).scatter_reduce(0, index, messages, "amax", include_self=False)

    def softmax(self, scores: Tensor) -> Tensor:
        powers = (scores - self.own(self.max(scores.detach()))).exp()
        return powers / self.own(self.sum(powers))

    def smooth(self, messages: Tensor) -> Tensor:
        """Return sum_j x_j / sqrt(d_i d_j), d the number of edges into a node (GCN)."""
        weight = self.degrees.to(messages.dtype).rsqrt()
        return self.sum(messages * (self.own(weight) * self.other(weight))[:, None])

    def _zeros(self, messages: Tensor) -> Tensor:
        return messages.new_zeros(self.nodes, *messages.shape[1:])


class Nearest:
    """The nearest points of each point, dense: states are (B, N, C), messages (B, N, K, C).

    Args:
        index: Numbers of the neighbours of each point, (B, N, K); the first is the point itself.
    """

    def __init__(self, index: Tensor) -> None:
        self.index = index

    @classmethod
    def of(cls, x: Tensor, count: int, dilation: int = 1) -> Nearest:
        """Find the `count * dilation` nearest points by squared distance, itself included; keep each d-th.

        Args:
            x: States of points, (B, N, C); no gradient passes.
            count: Number of neighbours to keep.
            dilation: d.
        """
        x = x.detach()
        square = x.square().sum(dim=-1)
        distance = square[:, :, None] - 2 * x @ x.transpose(1, 2) + square[:, None, :]  # (B, N, N)
        # Rounding must not put another point before the point itself.
        distance = distance - torch.diag_embed(torch.full_like(square, torch.inf))
        return cls(distance.topk(count * dilation, largest=False).indices[:, :, ::dilation])

    @cached_property
    def others(self) -> Nearest:
        """The neighbours without the point itself."""
        return Nearest(self.index[:, :, 1:])

    @property
    def looped(self) -> Nearest:
        """All neighbours: the point itself is among them."""
        return self

    def own(self, x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, self.index.shape[2], -1)

    def other(self, x: Tensor) -> Tensor:
        batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
        return x[batch, self.index]

    def sum(self, messages: Tensor) -> Tensor:
        return messages.sum(dim=2)

    def mean(self, messages: Tensor) -> Tensor:
        return messages.mean(dim=2)

    def max(self, messages: Tensor) -> Tensor:
        return messages.amax(dim=2)

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=2)

    def smooth(self, messages: Tensor) -> Tensor:
        """Return the mean: every point has as many neighbours."""
        return self.mean(messages)
