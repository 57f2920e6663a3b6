"""A tiny network, seeded fits on the digits, and a cache folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from spacelang.evaluators.data import digits

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class TinyNet(nn.Module):
    """Two layers for 8x8 digits; with `auxiliary` it returns a pair in training mode."""

    def __init__(self, auxiliary: bool = False, drop_path_prob: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(72, 10)
        self.auxiliary_head = nn.Linear(72, 10) if auxiliary else None
        self.drop_path_prob = drop_path_prob
        self.drop_path_calls: list[float] = []

    def set_drop_path_prob(self, probability: float) -> None:
        # overwrites the attribute, the harder case for a schedule that must not compound
        self.drop_path_prob = probability
        self.drop_path_calls.append(probability)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.stem(x)
        if self.training and self.auxiliary_head is not None:
            return self.head(features), self.auxiliary_head(features)
        return self.head(features)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home and a cache folder of its own (`home`, `cache`); return their parent."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def quiet() -> dict[str, object]:
    """Trainer arguments that print nothing."""
    return dict(QUIET)


@pytest.fixture
def make_net() -> Callable[..., TinyNet]:
    """A function that returns the same initial network at each call."""

    def make(**arguments: object) -> TinyNet:
        torch.manual_seed(0)
        return TinyNet(**arguments)

    return make


@pytest.fixture(scope="session")
def loaders() -> tuple[DataLoader, DataLoader]:
    """A shuffled loader of 8 batches of 32 digits, and 4 batches of 50 for validation."""
    splits = digits(seed=0)
    train, validation = Subset(splits.train, range(256)), Subset(splits.train, range(256, 456))
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=50)


@pytest.fixture
def data(loaders: tuple[DataLoader, DataLoader]) -> dict[str, object]:
    """The two loaders as evaluator arguments."""
    return {"train_dataloaders": loaders[0], "val_dataloaders": loaders[1]}
