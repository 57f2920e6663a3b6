"""The space of SGAS for graphs and for points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spacelang import Cell
from spacelang.errors import SpaceError, require_integer, require_number, require_one_of

from ..operations.cell_operations import DropPath
from ..published import PublishedSpace
from .graph_operations import MLP, OPERATIONS, ChannelNorm, make_operation
from .neighbours import Edges, Nearest

STEM = 3  # the stem has 3 * width channels
NODES = 3  # of a cell
OUTPUT = (1, 2, 3, 4)  # states in a cell's output: its second input and its three nodes


class GraphCells(PublishedSpace):
    """Cells of graph convolutions, for the nodes of graphs or for clouds of points.

    Every cell is the same: two inputs (the cells before), three nodes that each add two operations on
    different earlier states, and the output is the second input with the three nodes. Decisions are
    `cell/op_{i}_{k}` and `cell/input_{i}_{k}`, i from 2 to 4.

    "graph" classifies nodes from their features and edges. "points" classifies clouds of points: each cell
    connects the points that are near in its older input, with holes that grow from cell to cell.

    Args:
        width: Channels of an operation: 32 in the searches, 512 or 64 in networks for PPI, 128 for ModelNet.
        num_cells: Number of cells: 1 (PPI) or 2 (ModelNet) in the searches, then 5, and 9 or 3.
        form: "graph" or "points".
        in_features: Features of a node, or coordinates of a point; 50 (PPI) or 3 by default.
        num_classes: Number of logits; 121 (PPI) or 40 (ModelNet40) by default.
        neighbours: Neighbours of a point, itself included: 9 in the search and the small network, or 20.
        operations: Names of the candidate operations, in place of the paper's nine.
        dropout: Dropout of the two hidden layers of the head for points.
        drop_path_prob: First rate of drop path, 0.2 in the paper's training on PPI; see `set_drop_path_prob`.

    Source: SGAS, arXiv:1912.00195, section 4.2, and the code its authors published.
    """

    def __init__(
        self,
        width: int = 32,
        num_cells: int = 1,
        form: Literal["graph", "points"] = "graph",
        *,
        in_features: int | None = None,
        num_classes: int | None = None,
        neighbours: int = 9,
        operations: Sequence[str] = tuple(OPERATIONS),
        dropout: float = 0.5,
        drop_path_prob: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("num_cells", num_cells), ("neighbours", neighbours)):
            require_integer(name, value, least=2 if name == "neighbours" else 1)
        require_one_of("form", form, ("graph", "points"))
        for operation in operations:
            require_one_of("operations", operation, OPERATIONS)
        require_number("dropout", dropout, least=0, below=1)
        require_number("drop_path_prob", drop_path_prob, least=0, below=1)
        self.points = form == "points"
        self.neighbour_count = neighbours
        self.drop_path_prob = drop_path_prob
        inputs = in_features or (3 if self.points else 50)
        classes = num_classes or (40 if self.points else 121)
        self.stem = nn.Sequential(nn.Linear(inputs, STEM * width, bias=False), ChannelNorm(STEM * width))
        sizes = [STEM * width, STEM * width, *[len(OUTPUT) * width] * num_cells]
        make = partial(make_operation, channels=width, points=self.points, drop_path=drop_path_prob)
        self.cells = nn.ModuleList(
            Cell(
                {name: _factory(make, name) for name in operations},
                num_nodes=NODES,
                num_ops_per_node=2,
                num_predecessors=2,
                merge_op=OUTPUT,
                preprocessor=GraphInputs(sizes[i], sizes[i + 1], width),
                concat_dim=-1,
                distinct_inputs=True,
                label="cell",
            )
            for i in range(num_cells)
        )
        self.head: nn.Module = (
            PointHead(sum(sizes[1:]), classes, dropout) if self.points else NodeHead(sizes[-1], classes)
        )

    def forward(self, x: Any, edge_index: Tensor | None = None) -> Tensor:
        """Return logits: of nodes, (N, num_classes), or of clouds, (B, num_classes).

        Args:
            x: Features of nodes, (N, in_features), or coordinates of points, (B, 3, N) or (B, 3, N, 1); or an
                object with both arguments as attributes, as the `Data` and `Batch` of torch_geometric.
            edge_index: Edges j -> i of a graph, (2, E): nodes j in row 0, i in row 1.
        """
        if not isinstance(x, Tensor):
            x, edge_index = x.x, x.edge_index
        return self._of_points(x) if self.points else self._of_nodes(x, edge_index)

    def _of_nodes(self, x: Tensor, edge_index: Tensor | None) -> Tensor:
        if edge_index is None or x.dim() != 2:
            raise SpaceError(
                "a graph is called as model(x, edge_index) with nodes (N, features) and edges (2, E); got x "
                f"{tuple(x.shape)} and {'no edges' if edge_index is None else 'edges'}. For clouds of points "
                "build GraphCells(form='points')."
            )
        graph = Edges(edge_index, x.shape[0])
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last, graph)
        logits: Tensor = self.head(last)
        return logits

    def _of_points(self, x: Tensor) -> Tensor:
        points = (x.squeeze(-1) if x.dim() == 4 else x).transpose(1, 2)  # (B, N, 3)
        before = last = self.stem(points)
        states = [last]
        for index, cell in enumerate(self.cells):
            graph = Nearest.of(before, self.neighbour_count, index + 1)
            before, last = last, cell(before, last, graph)
            states.append(last)
        logits: Tensor = self.head(torch.cat(states, dim=-1))
        return logits

    def set_drop_path_prob(self, p: float) -> None:
        """Set the current rate of every drop path; `drop_path_prob` keeps the constructor's value.

        Raises:
            SpaceError: p is outside 0 <= p < 1, or positive on a network built without drop path.
        """
        require_number("p", p, least=0, below=1)
        modules = [module for module in self.modules() if isinstance(module, DropPath)]
        if p > 0 and not modules:
            raise SpaceError(
                f"set_drop_path_prob({p:g}): this network was built without drop path; build it with "
                "drop_path_prob > 0."
            )
        for module in modules:
            module.p = p


def _factory(make: Any, name: str) -> Any:
    """Return a factory of a candidate; it is the same on every edge."""
    return lambda *_: make(name)


class GraphInputs(nn.Module):
    """Preprocessing of a cell's two inputs to its channels."""

    def __init__(self, older: int, newer: int, width: int) -> None:
        super().__init__()
        self.preprocess0 = MLP(older, width)
        self.preprocess1 = MLP(newer, width)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        older, newer = inputs
        return [self.preprocess0(older), self.preprocess1(newer)]


class NodeHead(nn.Module):
    """Logits of each node from its channels and their mean: (N, C) -> (N, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels + 1, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(torch.cat([x, x.mean(dim=1, keepdim=True)], dim=1))
        return y


class PointHead(nn.Module):
    """Logits of each cloud from the largest and the mean of its points: (B, N, C) -> (B, classes)."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Linear(channels, 1024, bias=False), nn.LeakyReLU(0.2), ChannelNorm(1024)
        )
        self.cloud = nn.Sequential(
            *_dropped(2048, 512, dropout), *_dropped(512, 256, dropout), nn.Linear(256, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        points = self.points(x)
        y: Tensor = self.cloud(torch.cat([points.amax(dim=1), points.mean(dim=1)], dim=1))
        return y


def _dropped(inputs: int, outputs: int, p: float) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.LeakyReLU(0.2), nn.BatchNorm1d(outputs), nn.Dropout(p)
