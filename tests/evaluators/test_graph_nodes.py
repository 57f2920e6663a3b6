"""`Nodes`: losses and F1 in closed form, masks, data of torch_geometric; SGAS on the karate club."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spacelang import Experiment, model_context
from spacelang.errors import SpaceError
from spacelang.evaluators import GraphBatch, NodeModule, Nodes
from spacelang.evaluators.data import digits_graph, karate_club
from spacelang.hub import GraphCells
from spacelang.quiet import captured_log
from spacelang.strategies import SGAS


class Features(nn.Module):
    """Logits are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x * self.scale


def one(*graphs: Any) -> DataLoader[Any]:
    return DataLoader(graphs, batch_size=None)  # type: ignore[arg-type]


NONE = torch.zeros(2, 0, dtype=torch.long)


def test_accuracy_and_loss_of_the_nodes_that_count(quiet: Any) -> None:
    x = torch.tensor([[math.log(3), 0], [0, math.log(3)], [9, 0]])
    graph = GraphBatch(x, NONE, torch.tensor([0, 0, 1]), torch.tensor([True, True, False]))
    metrics = Nodes(val_dataloaders=one(graph), **quiet).validate(Features())
    # Probabilities of the classes are 3/4 and 1/4.
    expected = {"val_loss": -(math.log(3 / 4) + math.log(1 / 4)) / 2, "val_acc": 0.5}
    assert metrics == pytest.approx(expected)


def test_micro_averaged_f1_over_all_graphs(quiet: Any) -> None:
    """3 right labels, 1 wrong, 2 missed in both graphs together: 2 * 3 / (2 * 3 + 1 + 2)."""
    first = GraphBatch(torch.tensor([[1.0, 1, -1], [-1, 1, -1]]), NONE, torch.tensor([[1, 1, 1], [0, 1, 0]]))
    second = GraphBatch(torch.tensor([[2.0, -1, -2]]), NONE, torch.tensor([[0.0, 1, 0]]))
    metrics = Nodes(val_dataloaders=one(first, second), **quiet).validate(Features())
    assert metrics["val_f1"] == pytest.approx(6 / 9)
    alone = Nodes(val_dataloaders=one(second), **quiet).validate(Features())
    entropy = math.log(1 + math.exp(2)) + math.log(1 + math.exp(1)) + math.log(1 + math.exp(-2))
    assert alone["val_loss"] == pytest.approx(entropy / 3)


def test_data_with_masks_of_its_own() -> None:
    y, first = torch.tensor([0, 1, 1]), torch.tensor([True, False, False])
    data = SimpleNamespace(x=torch.zeros(3, 2), edge_index=NONE, y=y, train_mask=first, val_mask=~first)
    module = NodeModule()
    for training, expected in ((True, [0]), (False, [1, 1])):
        graph, targets = module.train(training).split_batch(data)
        assert targets.tolist() == expected
        assert graph.mask is (data.train_mask if training else data.val_mask)  # type: ignore[attr-defined]


def test_what_does_not_fit() -> None:
    module = NodeModule()
    module.set_model(nn.Identity())
    with captured_log(module), pytest.raises(SpaceError, match="expected a GraphBatch"):
        module.training_step(torch.zeros(3, 2), 0)
    module.set_model(Flat())
    graph = GraphBatch(torch.zeros(3, 2), NONE, torch.zeros(3).long())
    with (
        captured_log(module),
        pytest.raises(SpaceError, match=r"\(2,\).* for 3 nodes; expected logits \(3, cl"),
    ):
        module.training_step(graph, 0)


class Flat(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return torch.zeros(2)


def test_the_karate_club() -> None:
    """Counts of the published graph, and parts with as many members of either side."""
    club = karate_club()
    assert club.x.shape == (34, 34)
    assert club.edge_index.shape == (2, 2 * 78)
    assert {tuple(pair) for pair in club.edge_index.T.tolist()} == {
        tuple(pair) for pair in club.edge_index.flip(0).T.tolist()
    }
    parts = torch.stack([club.train, club.val, club.test])
    assert parts.sum(0).tolist() == [1] * 34
    for part, count in zip(parts, (4, 4, 9), strict=True):
        assert [int((club.y[part] == side).sum()) for side in (0, 1)] == [count, count]
    assert torch.equal(club.train, karate_club().train)
    assert not torch.equal(club.train, karate_club(seed=1).train)
    with pytest.raises(SpaceError, match="val=13 must be an integer from 1 to 12"):
        karate_club(val=13)


def test_the_digits_as_a_graph() -> None:
    """The edges are those of scikit-learn's nearest neighbours, and of ones that are as near."""
    source, graph = load_digits(), digits_graph()
    images = torch.from_numpy(source.images)
    assert torch.equal(graph.x * 16, images[:, 3:5, 3:5].reshape(-1, 4).float())
    assert torch.equal(graph.y, torch.from_numpy(source.target))
    edges = set(map(tuple, graph.edge_index.T.tolist()))
    assert len(edges) == graph.edge_index.shape[1] == 12_664
    distances, nearest = NearestNeighbors(n_neighbors=5).fit(source.data).kneighbors()
    expected = {(i, int(j)) for i, row in enumerate(nearest) for j in row}
    expected |= {(j, i) for i, j in expected}
    assert expected <= edges
    for i, j in edges - expected:
        between = np.linalg.norm(source.data[i] - source.data[j])
        assert math.isclose(between, distances[i, -1]) or math.isclose(between, distances[j, -1])
    parts = torch.stack([graph.train, graph.val, graph.test])
    assert (parts.sum(0) == 1).all()
    assert [graph.y[part].bincount().tolist() for part in parts[:2]] == [[20] * 10, [50] * 10]
    assert torch.equal(graph.val, digits_graph().val)
    with pytest.raises(SpaceError, match="train=173 must be an integer from 1 to 172"):
        digits_graph(train=173)


@pytest.mark.slow
def test_sgas_searches_the_karate_club(tmp_path: Path, quiet: Any) -> None:
    """The found cell, trained on those who were searched with, tells the sides of the others."""
    club = karate_club()

    def members(mask: Tensor) -> DataLoader[Any]:
        return one(GraphBatch(club.x, club.edge_index, club.y, mask))

    parts = {"train_dataloaders": members(club.train), "val_dataloaders": members(club.val)}
    evaluator = Nodes(1e-2, 1e-3, **parts, max_epochs=20, **quiet)
    settings: dict[str, Any] = {"width": 8, "in_features": 34, "num_classes": 2}
    space = GraphCells(**settings, operations=["skip_connect", "gin", "semi_gcn"])
    strategy = SGAS(learning_rate=3e-3, first_decision=4, period=3)  # six decisions, as there are six slots
    experiment = Experiment(space, evaluator, strategy, directory=tmp_path / "run", seed=0)
    experiment.run()
    torch.manual_seed(0)
    with model_context(experiment.best):
        network = GraphCells(**settings)
    parts = {"train_dataloaders": members(~club.test), "val_dataloaders": members(club.test)}
    metrics = Nodes(1e-2, 1e-3, **parts, max_epochs=60, **quiet).evaluate(network)
    assert metrics["val_acc"] > 0.75  # nine of each side were never seen
