"""A graph-convolutional network whose last layer is a Bayesian linear regression."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import ModelSpace
from spacelang.graph import architecture_graph
from spacelang.language import Architecture
from spacelang.randomness import torch_seeded_from

from .bayesian_regression import BayesianRegression
from .predictor import Array, standardised

if TYPE_CHECKING:
    import networkx as nx

GLOBAL = "global"


class GraphNetwork:
    """Graph convolutions that embed an architecture's graph, and a regression of its value on the embedding.

    Feature maps and operations are nodes, told apart by their kind; each takes the mean over itself and the
    nodes it is computed from. A global node is computed from all others and gives the embedding, phi.
    Decisions on other things than operations, such as widths, are features of every node; on the global node
    alone they would fade, as each convolution takes the mean over all. The network is trained with a linear
    last layer on the squared error, in which good architectures weigh more. Then a Bayesian regression on phi
    replaces that layer.

    Args:
        space: Space whose architectures are predicted.
        layers: Number of graph convolutions.
        width: Width of each, and of phi.
        epochs: Steps of Adam on all data.
        learning_rate: Adam's learning rate.

    Source: Shi et al. 2020, arXiv:1911.09336, section 3.
    """

    def __init__(
        self,
        space: ModelSpace,
        *,
        layers: int = 4,
        width: int = 64,
        epochs: int = 100,
        learning_rate: float = 0.01,
    ) -> None:
        self.space = space
        self.layers = layers
        self.width = width
        self.epochs = epochs
        self.learning_rate = learning_rate
        self._graphs = _Graphs(space)

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`; values may have several columns, (n, k), which share the network."""
        columns = np.asarray(values, dtype=float).reshape(len(archs), -1)  # (n, k)
        scaled = [standardised(column) for column in columns.T]
        y = np.stack([column for column, _, _ in scaled], axis=1)
        self._scales = [(mean, scale) for _, mean, scale in scaled]
        self._train(self._graphs.batch(archs), y, rng)
        phi = self._embedded(archs)
        self._heads = [BayesianRegression.fit_evidence(phi, column) for column in y.T]

    def _train(self, batch: tuple[Tensor, Tensor], y: Array, rng: np.random.Generator) -> None:
        with torch_seeded_from(rng):
            self._network = _Network(batch[0].shape[2], self.width, self.layers)
            last = nn.Linear(self.width, y.shape[1])
        targets = torch.tensor(y, dtype=torch.float32)
        weights = _importance(targets)
        optimizer = torch.optim.Adam([*self._network.parameters(), *last.parameters()], lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                optimizer.zero_grad()
                (weights * (last(self._network(*batch)) - targets) ** 2).mean().backward()
                optimizer.step()

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`; several columns are predicted by `predict_all`, here the first."""
        mean, std = self.predict_all(archs)
        return mean[:, 0], std[:, 0]

    def predict_all(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """Return mean and standard deviation of every column, (n, k) and (n, k)."""
        phi = self._embedded(archs)
        columns = []
        for head, (mean, scale) in zip(self._heads, self._scales, strict=True):
            mu, variance = head.predict(phi)
            columns.append((mean + scale * mu, scale * np.sqrt(variance)))
        return np.stack([m for m, _ in columns], axis=1), np.stack([s for _, s in columns], axis=1)

    def _embedded(self, archs: Sequence[Architecture]) -> Array:
        """Return phi with a constant added, (n, width + 1)."""
        with torch.no_grad():
            phi = self._network(*self._graphs.batch(archs)).double().numpy()
        return np.concatenate([phi / math.sqrt(self.width), np.ones((len(archs), 1))], axis=1)


def _importance(targets: Tensor) -> Tensor:
    """Return exp(y), y scaled to [0, 1], over its mean: good architectures weigh up to e times more.

    Args:
        targets: Values y, (n, k).

    Returns:
        Weights, (n, k).
    """
    low, high = targets.amin(0), targets.amax(0)
    weights = ((targets - low) / (high - low).clamp(min=1e-12)).exp()
    return weights / weights.mean(0)


class _Network(nn.Module):
    """Graph convolutions H <- relu(A H W), and the global node's row at the end."""

    def __init__(self, features: int, width: int, layers: int) -> None:
        super().__init__()
        widths = [features, *[width] * layers]
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(layers))

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Return embeddings (n, width), from (n, N, features) and (n, N, N) with the global node first."""
        for layer in self.layers:
            nodes = layer(adjacency @ nodes).relu()
        return nodes[:, 0]


class _Graphs:
    """Architectures as node features and adjacency matrices."""

    def __init__(self, space: ModelSpace) -> None:
        self.space = space
        graph = space.graph
        kinds = [kind_of_node(data) for _, data in graph.nodes(data=True)]
        kinds += [kind_of_edge(data) for _, _, data in graph.edges(data=True)]
        self.kinds = {kind: i for i, kind in enumerate(dict.fromkeys([GLOBAL, *kinds]))}
        in_graph = {
            label
            for _, _, data in graph.edges(data=True)
            if data["kind"] == "candidate"
            for label in json.loads(data.get("decisions", "[]"))
        }
        self.beside = np.array(
            [d.label not in in_graph for d in space.decisions for _ in d.candidates], dtype=bool
        )

    def batch(self, archs: Sequence[Architecture]) -> tuple[Tensor, Tensor]:
        """Return node features (n, N, features) and row-normalised adjacency (n, N, N), padded by zeros."""
        import networkx as nx

        graphs = [self._expanded(arch) for arch in archs]
        size = max(len(graph) for graph in graphs)
        nodes = torch.zeros(len(archs), size, len(self.kinds) + int(self.beside.sum()))
        adjacency = torch.zeros(len(archs), size, size)
        for i, (arch, graph) in enumerate(zip(archs, graphs, strict=True)):
            for row, (_, kind) in enumerate(graph.nodes(data="kind")):
                nodes[i, row, self.kinds[kind]] = 1
            beside = self.space.encode(arch)[self.beside]
            count = len(graph)
            nodes[i, :count, len(self.kinds) :] = torch.from_numpy(beside)
            matrix = nx.to_numpy_array(graph, dtype=np.float32).T + np.eye(count, dtype=np.float32)
            adjacency[i, :count, :count] = torch.from_numpy(matrix / matrix.sum(axis=1, keepdims=True))
        return nodes, adjacency

    def _expanded(self, arch: Mapping[str, Any]) -> nx.DiGraph:
        """Return the architecture's graph with a node in place of each edge, and the global node first."""
        import networkx as nx

        graph = architecture_graph(self.space, arch)
        expanded = nx.DiGraph()
        expanded.add_node(GLOBAL, kind=GLOBAL)
        expanded.add_nodes_from(
            (("map", name), {"kind": kind_of_node(data)}) for name, data in graph.nodes(data=True)
        )
        for source, target, key, data in graph.edges(keys=True, data=True):
            here = ("edge", source, target, key)
            expanded.add_node(here, kind=kind_of_edge(data))
            nx.add_path(expanded, [("map", source), here, ("map", target)])
        expanded.add_edges_from([(node, GLOBAL) for node in expanded if node != GLOBAL])
        return expanded


def kind_of_node(data: Mapping[str, Any]) -> str:
    """Return the kind and the place of a feature map; inputs are told apart, nodes of a cell are not."""
    number = data["index"] if data["kind"] == "input" else ""
    return f"{data['region']}/{data['kind']}{number}"


def kind_of_edge(data: Mapping[str, Any]) -> str:
    """Return the kind of an edge and its candidate."""
    return f"{data['kind']} {data.get('candidate', '')}"
