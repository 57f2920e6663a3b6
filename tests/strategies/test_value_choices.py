"""Differentiable strategies search widths and kernels by mixtures of differently sized layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import ModelSpace, Repeat, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.strategies import DARTS, GDAS

from .test_search import quiet_trainer


class Net(ModelSpace):
    """Detect a pattern four pixels wide: kernel 5 can, 1 cannot."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = value_choice([2, 8], label="width"), value_choice([1, 5], label="kernel")
        self.layers = nn.Sequential(
            space_nn.Conv1d(1, width, kernel, padding=kernel // 2, bias=False),
            space_nn.BatchNorm1d(width),
            nn.ReLU(),
            Repeat(lambda i: space_nn.Conv1d(width, width, 1), (0, 1), label="depth"),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            space_nn.Linear(width, 2),
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


def batches(seed: int) -> DataLoader[Any]:
    """Signs in random order, or in blocks of four: alike for whoever sees one at a time."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (256, 16), generator=generator).float() * 2 - 1
    label = torch.arange(256) % 2
    blocks = signs[:, ::4].repeat_interleave(4, dim=1)
    x = torch.where(label[:, None] == 1, blocks, signs)[:, None]
    return DataLoader(TensorDataset(x, label), batch_size=64)


def search(strategy: DARTS | GDAS, tmp_path: Path, epochs: int) -> Any:
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    torch.manual_seed(0)
    supernet = Supernet(Net())
    strategy.check(supernet)
    callback = strategy.attach(supernet, seed=0, val_dataloader=batches(1))
    quiet_trainer(tmp_path, callback, max_epochs=epochs).fit(Classifier(supernet), batches(0))
    return callback


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_darts_finds_the_kernel_that_sees_the_pattern(order: int, tmp_path: Path) -> None:
    found = search(DARTS(order=order, learning_rate=0.1, weight_decay=0.0), tmp_path, epochs=10)
    (arch,) = found.derive()
    assert set(arch) == {"width", "kernel", "depth"}
    assert arch["kernel"] == 5
    assert found.probabilities()["kernel"][0, 1] > 0.6
    assert found.supernet.freeze(arch)(torch.zeros(1, 1, 16)).shape == (1, 2)


def test_gdas_runs_one_slice_at_a_time(tmp_path: Path) -> None:
    found = search(GDAS(), tmp_path, epochs=1)
    assert all(logits.isfinite().all() for logits in found.parameters.logits.values())
    assert all(len(group.active[0]) == 1 for group in found.supernet.groups.values())
