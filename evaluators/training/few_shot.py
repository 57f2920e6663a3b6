"""Few-shot classification by prototypes: a LightningModule and its evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F

from spacelang.errors import SpaceError
from spacelang.trials import Maximize

from ..data.episodes import Episode
from .classification import accuracy
from .lightning_training import Lightning
from .loaders import Loaders
from .training_module import Batch, TrainingModule, described


def prototype_logits(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return minus the squared distances of queries to the mean embedding of each class, (queries, classes).

    Args:
        support: Embeddings of labelled samples, (samples, features).
        labels: Class of each, from 0, (samples,).
        queries: Embeddings of the samples to classify, (queries, features).
    """
    members = F.one_hot(labels).to(support)  # (samples, classes)
    prototypes = members.T @ support / members.sum(dim=0)[:, None]  # (classes, features)
    return -(queries[:, None] - prototypes).square().sum(dim=2)


class FewShotModule(TrainingModule):
    """A LightningModule that learns to embed, so that queries are near the prototype of their class.

    A batch is an `Episode`; the model maps its samples to embeddings (B, features), support and queries in
    one call. Logs the cross entropy and the accuracy of the queries.

    Args:
        learning_rate, weight_decay, optimizer: See `TrainingModule`.

    Source: prototypical networks, Snell et al. 2017, arXiv:1703.05175, eq. 1 and 2.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    ) -> None:
        super().__init__(F.cross_entropy, learning_rate, weight_decay, optimizer)
        self.metrics = {"acc": accuracy}

    def forward(self, x: Any) -> Tensor:
        """Return logits of the queries of an episode, (queries, classes)."""
        embedded = self.model(torch.cat([x.support, x.queries]))
        if not isinstance(embedded, Tensor) or embedded.dim() != 2:
            raise SpaceError(f"the model returned {described(embedded)}; expected embeddings (B, features)")
        support, queries = embedded[: len(x.support)], embedded[len(x.support) :]
        return prototype_logits(support, x.support_labels, queries)

    def split_batch(self, batch: Any) -> Batch:
        """Return an episode and the labels of its queries."""
        if not isinstance(batch, Episode):
            raise SpaceError(
                f"a batch is {described(batch)}; expected an Episode. Use "
                "DataLoader(Episodes(dataset, classes=...), batch_size=None)"
            )
        return batch, batch.query_labels  # type: ignore[return-value]

    def compared(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (queries, classes) and labels (queries,)."""
        return output, targets


class FewShot(Lightning):
    """An evaluator of networks that embed samples of few-shot tasks: a `Lightning` with a `FewShotModule`.

    Args:
        learning_rate, weight_decay, optimizer: See `FewShotModule`.
        train_dataloaders, val_dataloaders, datamodule: See `Lightning`; batches are of
            `DataLoader(Episodes(dataset, classes=...), batch_size=None)`.
        trainer_kwargs: Arguments of `Trainer`, such as `max_epochs=10`.
    """

    default_objective = Maximize("val_acc")

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        *,
        train_dataloaders: Loaders = None,
        val_dataloaders: Loaders = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        super().__init__(
            FewShotModule(learning_rate, weight_decay, optimizer),
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **trainer_kwargs,
        )
