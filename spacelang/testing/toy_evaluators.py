"""A small regression, with the Trainer that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    """Squared error of a model that maps (B, 4, 6, 6) to (B, 2)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9, weight_decay=3e-4)


class Fit:
    """A fit of the regression on 24 random images, 8 a batch, for `epochs` epochs."""

    def __init__(self, epochs: int, callbacks: Sequence[pl.Callback] = ()) -> None:
        self.max_epochs = epochs
        self._callbacks = list(callbacks)

    def lightning_module(self, model: nn.Module) -> Regression:
        """Return the module that trains `model`."""
        return Regression(model)

    def fit(
        self,
        model: nn.Module,
        *,
        callbacks: Sequence[pl.Callback] = (),
        directory: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        checkpoint_io: Any = None,
        unused_parameters: bool = False,
    ) -> pl.Trainer:
        """Train `model` on the CPU, quietly."""
        trainer = quiet_trainer(
            self.max_epochs, directory, [*self._callbacks, *callbacks], plugins=[checkpoint_io]
        )
        trainer.fit(self.lightning_module(model), _batches(0), _batches(1), ckpt_path=ckpt_path)
        return trainer


def quiet_trainer(
    epochs: int, directory: str | Path | None, callbacks: Sequence[pl.Callback], **arguments: Any
) -> pl.Trainer:
    """Return a Trainer on the CPU that writes and prints nothing of its own."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=directory,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )


def example_batch() -> Tensor:
    """Return images, (8, 4, 6, 6), in double precision."""
    return torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _batches(seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(24, 4, 6, 6, generator=generator)
    targets = torch.stack([images.mean(dim=(1, 2, 3)), images[:, 0].amax(dim=(1, 2))], dim=1)
    return DataLoader(TensorDataset(images, targets), batch_size=8, shuffle=True)
