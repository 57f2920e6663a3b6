"""What tests of path-sampling strategies share: a small space, a module that trains anything, a Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, Supernet


class Small(ModelSpace):
    """21 architectures with batch norm and dropout: a conditional choice, a set of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
        self.blocks = Repeat(
            lambda i: LayerChoice({"linear": nn.Linear(4, 4), "tanh": nn.Tanh()}, label=f"block{i}"),
            (0, 2),
            label="depth",
        )
        self.join = InputChoice(2, n_chosen=None, label="join")
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.join(x, self.blocks(x)))


class Anything(pl.LightningModule):
    """Trains any network: the mean square of its outputs, which are to be ones.

    Attributes:
        seen: for each training step of `fit` that computed gradients, the first number of its batch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        return (self.model(*batch).float() - 1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        if torch.is_grad_enabled():
            self.seen.append(float(batch[0].flatten()[0]))
        self.log("train_loss", loss, batch_size=len(batch[0]))
        return loss if loss.requires_grad or not torch.is_grad_enabled() else loss.requires_grad_()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        metrics = {"val_loss": self.loss(batch), "val_first": batch[0].flatten()[0]}
        self.log_dict(metrics, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def rows(count: int, seed: int, size: int = 6) -> DataLoader[Any]:
    """`count` batches `(x,)` of (size, 3), always in the same order."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        [(torch.randn(size, 3, generator=generator) + seed,) for _ in range(count)], batch_size=None
    )


def trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    """A Trainer on the CPU that shows and writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "max_epochs": 1, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **(quiet | settings))


def searched(
    folder: Path, strategy: Any, *callbacks: pl.Callback, seed: int = 0, **settings: Any
) -> tuple[Any, Anything]:
    """Search `Small`: 4 batches to train on, 3 to validate on."""
    torch.manual_seed(0)
    supernet = Supernet(Small())
    search, module = strategy.attach(supernet, seed=seed), Anything(supernet)
    trainer(folder, search, *callbacks, **settings).fit(module, rows(4, 1), rows(3, 2))
    return search, module
