"""LSTM and GRU of `spacelang.nn`, of chosen width and depth, in a search along single paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.evaluators import Classification
from spacelang.strategies import RandomOneShot


class Reader(ModelSpace):
    """Classes of sequences (B, T, 3) from the last output of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([4, 6], label="width")
        layers = value_choice([1, 2], label="layers")
        self.layer = LayerChoice(
            {
                "lstm": space_nn.LSTM(3, width, num_layers=layers, batch_first=True),
                "gru": space_nn.GRU(3, width, num_layers=layers, batch_first=True),
            },
            label="layer",
        )
        self.head = space_nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layer(x)
        y: Tensor = self.head(outputs[:, -1])
        return y


def test_every_path_is_its_frozen_network() -> None:
    torch.manual_seed(0)
    space = Reader().double()
    supernet, x = Supernet(space), torch.randn(4, 5, 3, dtype=torch.float64)
    assert space.size() == 8
    for arch in space.grid():
        supernet.select(arch)
        frozen: Any = supernet.freeze(arch)
        assert type(frozen.layer) is {"lstm": nn.LSTM, "gru": nn.GRU}[arch["layer"]]
        assert (frozen.layer.hidden_size, frozen.layer.num_layers) == (arch["width"], arch["layers"])
        torch.testing.assert_close(supernet(x), frozen(x), rtol=0, atol=1e-14)


@pytest.mark.slow
def test_a_search_along_single_paths(tmp_path: Path) -> None:
    """The class is the sign of a feature of the last step but one, which the layer must remember."""
    x = torch.tensor(np.random.default_rng(0).normal(size=(96, 4, 3))).float()
    rows = TensorDataset(x, (x[:, -2, 0] > 0).long())
    loader = DataLoader(rows, 16)
    evaluator = Classification(
        train_dataloaders=loader,
        val_dataloaders=loader,
        learning_rate=0.03,
        max_epochs=25,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    strategy = RandomOneShot(candidates=6, first_batches=1, finalists=2, calibration_batches=0)
    experiment = Experiment(Reader(), evaluator, strategy, directory=tmp_path / "run", seed=0)
    experiment.run()
    network = experiment.export_top_models(formatter="instance")[0]  # with the supernet's weights
    accuracy = (network.eval()(x).argmax(1) == rows.tensors[1]).float().mean()
    assert accuracy > 0.8
