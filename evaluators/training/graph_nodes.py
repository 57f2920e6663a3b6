"""Classification of the nodes of graphs: a LightningModule, its evaluator, and the batches it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryF1Score

from spacelang.errors import SpaceError
from spacelang.trials import Maximize

from .classification import accuracy
from .lightning_training import Lightning
from .loaders import Loaders
from .training_module import Batch, TrainingModule, described


class GraphBatch(NamedTuple):
    """A graph, or several side by side, as one batch.

    Attributes:
        x: Features of nodes, (N, F).
        edge_index: Edges j -> i, (2, E): nodes j in row 0 and i in row 1.
        y: Class numbers (N,), or for several labels a node zeros and ones (N, L).
        mask: Nodes that count, (N,); None for all.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor
    mask: Tensor | None = None


def node_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy: of class numbers (N,), or of each of several labels (N, L)."""
    if targets.dim() == 1:
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


class NodeModule(TrainingModule):
    """A LightningModule that classifies the nodes of graphs: cross entropy and one optimiser.

    A batch is a `GraphBatch`, or an object with the attributes `x`, `edge_index` and `y`, as the `Data` and
    `Batch` of torch_geometric; of these `train_mask` counts in training and `val_mask` in validation, where
    there are such. The model maps (x, edge_index) to logits (N, classes).

    Logs the loss and, of class numbers, the accuracy `val_acc`; of several labels a node micro-averaged F1,
    `val_f1`, for which a logit above 0 is a label.

    Args:
        learning_rate, weight_decay, optimizer: See `TrainingModule`.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    ) -> None:
        super().__init__(node_loss, learning_rate, weight_decay, optimizer)
        self.metrics = {}
        self.f1 = BinaryF1Score()

    def forward(self, x: Any) -> Tensor:
        """Return the logits of the nodes that count, (n, classes)."""
        logits = self.model(x.x, x.edge_index)
        if not isinstance(logits, Tensor) or logits.shape[:-1] != x.x.shape[:1]:
            raise SpaceError(
                f"the model returned {described(logits)} for {len(x.x)} nodes; expected logits "
                f"({len(x.x)}, classes)"
            )
        counted: Tensor = logits if x.mask is None else logits[x.mask]
        return counted

    def split_batch(self, batch: Any) -> Batch:
        """Return a graph and the targets of the nodes that count."""
        if not isinstance(batch, GraphBatch):
            if not all(hasattr(batch, name) for name in ("x", "edge_index", "y")):
                raise SpaceError(
                    f"a batch is {described(batch)}; expected a GraphBatch(x, edge_index, y), or an object "
                    "with these attributes, as torch_geometric's Data"
                )
            stage = "train" if self.training else "val"
            batch = GraphBatch(batch.x, batch.edge_index, batch.y, getattr(batch, f"{stage}_mask", None))
        return batch, batch.y if batch.mask is None else batch.y[batch.mask]

    def compared(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and targets, (n,) or (n, classes)."""
        return output, targets

    def log_stage(self, stage: str, loss: Tensor, output: Tensor, targets: Tensor) -> None:
        self.metrics = {"acc": accuracy} if targets.dim() == 1 else {}
        super().log_stage(stage, loss, output, targets)

    def epoch_metrics(self, loss: Tensor, output: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        if targets.dim() == 1:
            return {}
        self.f1.update((output > 0).flatten().int(), targets.flatten().int())
        return {"f1": self.f1}


class Nodes(Lightning):
    """An evaluator of networks that classify the nodes of graphs: a `Lightning` with a `NodeModule`.

    Args:
        learning_rate, weight_decay, optimizer: See `NodeModule`.
        train_dataloaders, val_dataloaders, datamodule: See `Lightning`; batches are graphs.
            `DataLoader([graph], batch_size=None)` is the loader of one graph.
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
            NodeModule(learning_rate, weight_decay, optimizer),
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **trainer_kwargs,
        )
