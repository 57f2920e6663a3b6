"""Spaces of cells: other candidates on each edge, graphs, recurrent cells, states of several tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import Cell, LayerChoice, ModelSpace
from spacelang.language.cell import MergeOp

C = 4  # channels
TRIANGLE = torch.tensor([[1, 2, 0, 2, 1], [0, 0, 1, 1, 2]])  # sources and targets of five edges


class Edges(ModelSpace):
    """A cell whose edges have different candidates, and one of them, 0 -> 3, has none."""

    def __init__(self, merge_op: MergeOp = "all", distinct_inputs: bool = False) -> None:
        super().__init__()
        self.cell = Cell(
            self.candidates,
            num_nodes=2,
            num_ops_per_node=2,
            num_predecessors=2,
            merge_op=merge_op,
            distinct_inputs=distinct_inputs,
            label="cell",
        )

    @staticmethod
    def candidates(node: int, source: int) -> dict[str, Any]:
        """Return the candidates of an edge."""
        names = {0: ["linear", "skip"], 1: ["tanh", "skip"], 2: ["linear", "tanh"]}
        makers = {"linear": linear, "tanh": lambda *_: nn.Tanh(), "skip": nn.Identity()}
        return {} if (source, node) == (0, 3) else {name: makers[name] for name in names[source]}

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell(x, x.cos())
        return output


def linear(node: int, slot: int | None, source: int) -> nn.Module:
    """Make a layer of an edge."""
    return nn.Linear(C, C)


# -- graphs ------------------------------------------------------------------------------------------------


class Skip(nn.Module):
    """The identity, on a graph."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x


class Gin(nn.Module):
    """y_i = W (x_i + sum_j x_j), arXiv:1810.00826."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        y: Tensor = self.linear(x.index_add(0, target, x[source]))
        return y


class EdgeConv(nn.Module):
    """y_i = max_j W [x_i, x_j - x_i], arXiv:1801.07829."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, channels, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        messages = self.linear(torch.cat([x[target], x[source] - x[target]], dim=1))
        index = target[:, None].expand_as(messages)
        return torch.zeros_like(x).scatter_reduce(0, index, messages, "amax", include_self=False)


class GraphNet(ModelSpace):
    """A cell of SGAS for graphs: three nodes; the output is states 1 to 4, so an input and all nodes."""

    def __init__(self, channels: int = C) -> None:
        super().__init__()
        self.stem = nn.Linear(3, channels)
        self.cell = Cell(
            {"skip": Skip(), "gin": lambda *_: Gin(channels), "edge": lambda *_: EdgeConv(channels)},
            num_nodes=3,
            num_ops_per_node=2,
            num_predecessors=2,
            merge_op=[1, 2, 3, 4],
            distinct_inputs=True,
            label="cell",
        )
        self.head = nn.Linear(4 * channels, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(self.cell(x, x.tanh(), edge_index=edge_index))
        return y


# -- recurrent cells ---------------------------------------------------------------------------------------


class Halves(nn.Module):
    """Project a state: (s, c, h) with (c, h) = s W."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width, bias=False)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c, h = self.linear(state).chunk(2, dim=-1)
        return state, c, h


class Gated(nn.Module):
    """s + sigmoid(c) (f(h) - s)."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, projected: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        state, c, h = projected
        return state + c.sigmoid() * (self.activation(h) - state)


class Recurrent(ModelSpace):
    """The recurrent cell of DARTS: an activation and a predecessor for each node, the mean of all nodes.

    Args:
        num_nodes: Number of nodes.
        width: Units; as many as inputs.
        norm: Whether each node is normalised by the statistics of the batch, as in the search network.
    """

    def __init__(self, num_nodes: int = 3, width: int = C, norm: bool = False) -> None:
        super().__init__()
        activations = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": same}
        self.first = nn.Linear(2 * width, 2 * width, bias=False)
        self.cell = Cell(
            {name: Gated(f) for name, f in activations.items()},
            num_nodes,
            merge_op="mean",
            projection=lambda node: Halves(width),
            node_postprocessor=nn.BatchNorm1d(width, affine=False) if norm else None,
            label="cell",
        )

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        c, h = self.first(torch.cat([x, hidden], dim=-1)).chunk(2, dim=-1)
        output: Tensor = self.cell(hidden + c.sigmoid() * (h.tanh() - hidden))
        return output


def same(x: Tensor) -> Tensor:
    """Return x."""
    return x


# -- states of several tensors -----------------------------------------------------------------------------


class Both(nn.Module):
    """A layer for each tensor of a state; adds a further argument to the first."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)
        self.scale = scale

    def forward(self, state: Any, shift: Tensor, *, times: float = 1.0) -> Any:
        if isinstance(state, dict):
            return {"a": self.linear(state["a"]) + shift, "b": self.scale * times * state["b"]}
        return self.linear(state[0]) + shift, self.scale * times * state[1]


class States(ModelSpace):
    """A cell on tuples or dicts, called with further arguments; a candidate is a choice itself."""

    def __init__(self, kind: type = tuple, merge_op: MergeOp = "sum") -> None:
        super().__init__()
        self.kind = kind
        inner = LayerChoice([Both(0.5), Both(0.25)], label="inner")
        self.cell = Cell([Both(1.0), inner], 2, num_predecessors=1, merge_op=merge_op, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        state: Any = (x, x.sin()) if self.kind is tuple else {"a": x, "b": x.sin()}
        output: Any = self.cell(state, x.cos(), times=2.0)
        first, second = output if isinstance(output, tuple) else output.values()
        y: Tensor = first + second
        return y
