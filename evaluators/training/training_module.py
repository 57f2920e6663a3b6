"""Common base of the LightningModules for classification, regression and language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from spacelang.errors import SpaceError, require_number
from spacelang.language import Value

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Batch: TypeAlias = tuple[Tensor, Tensor]


class TrainingModule(LightningModule):
    """A LightningModule with one loss and one optimiser, which logs the loss and metrics of each stage.

    A subclass defines in `compared` the arguments of losses and metrics, and keeps its metrics in
    `self.metrics`.

    Numbers may be value choices, for `Lightning` to decide.

    Args:
        criterion: Loss of (output, targets).
        learning_rate: Learning rate of the optimiser.
        weight_decay: Weight decay of the optimiser.
        optimizer: Called as `optimizer(parameters, lr=..., weight_decay=...)`.
        evaluation_criterion: Loss in validation and test; the same by default.
        hyper_parameters: Further plain numbers to keep in `hparams`.

    Raises:
        SpaceError: A value is out of range.
    """

    model: nn.Module

    def __init__(
        self,
        criterion: Loss,
        learning_rate: float,
        weight_decay: float,
        optimizer: Callable[..., torch.optim.Optimizer],
        *,
        evaluation_criterion: Loss | None = None,
        **hyper_parameters: Any,
    ) -> None:
        super().__init__()
        require_possible(require_number, "learning_rate", learning_rate, above=0)
        require_possible(require_number, "weight_decay", weight_decay, least=0)
        # Only plain numbers: they are stored in checkpoints, which are read with weights_only=True.
        self.save_hyperparameters(
            {"learning_rate": learning_rate, "weight_decay": weight_decay, **hyper_parameters}
        )
        self.optimizer = optimizer
        self.criterion = criterion
        self.evaluation_criterion = criterion if evaluation_criterion is None else evaluation_criterion
        # Functions, not torchmetrics objects: a search also calls training_step with validation batches,
        # and a metric that keeps counts would mix them into the training metrics.
        self.metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}

    def set_model(self, model: nn.Module) -> None:
        """Set the model to train."""
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Return the model's output for inputs (B, ...)."""
        if "model" not in self._modules:
            raise SpaceError(f"{type(self).__name__} has no model yet; call set_model(model) first")
        return self.model(x)

    def configure_optimizers(self) -> Any:
        return self.optimizer(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.split_batch(batch)
        output, y = self.compared(self(x), y)
        loss = self.criterion(output, y)
        self.log_stage("train", loss, output, y)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step("test", batch)

    def on_validation_epoch_start(self) -> None:
        self._reset_epoch_metrics()

    def on_test_epoch_start(self) -> None:
        self._reset_epoch_metrics()

    def split_batch(self, batch: Any) -> Batch:
        """Return inputs and targets of a batch.

        Raises:
            SpaceError: The batch is not a pair.
        """
        if isinstance(batch, list | tuple) and len(batch) == 2:
            return batch[0], batch[1]
        raise SpaceError(
            f"a batch is {described(batch)}; expected a pair (inputs, targets). Make it one in the "
            "data set's __getitem__ or the DataLoader's collate_fn"
        )

    def compared(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments of losses and metrics: the model's output and the targets, checked.

        Raises:
            SpaceError: They do not fit.
        """
        raise NotImplementedError

    def batch_weight(self, targets: Tensor) -> int:
        """Return the weight of a batch in the mean over an epoch: its number of samples."""
        return len(targets)

    def epoch_metrics(self, loss: Tensor, output: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """Return metrics that are not means over samples, updated with a batch; for validation and test."""
        return {}

    def log_stage(self, stage: str, loss: Tensor, output: Tensor, targets: Tensor) -> None:
        """Log the loss and every metric of one batch as `{stage}_{name}`, to be averaged over the epoch."""
        loss, output = loss.detach(), output.detach()
        values: dict[str, Any] = {"loss": loss}
        values |= {name: metric(output, targets) for name, metric in self.metrics.items()}
        if stage != "train":
            values |= self.epoch_metrics(loss, output, targets)
        self.log_dict(
            {f"{stage}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=self.batch_weight(targets),
        )

    def _evaluation_step(self, stage: str, batch: Any) -> None:
        x, y = self.split_batch(batch)
        output = self(x)
        output, y = self.compared(output[0] if isinstance(output, tuple) else output, y)
        self.log_stage(stage, self.evaluation_criterion(output, y), output, y)

    def _reset_epoch_metrics(self) -> None:
        # Lightning does so after an epoch, but since then a search may have called validation_step.
        for part in self.children():
            if isinstance(part, Metric):
                part.reset()


def possible(setting: Any) -> tuple[Any, ...]:
    """Return every value that a setting may take: those of a value choice, otherwise itself alone."""
    return setting.possible() if isinstance(setting, Value) else (setting,)


def require_possible(check: Callable[..., None], name: str, setting: Any, **bounds: Any) -> None:
    """Apply a check such as `require_number` to every value that a setting may take."""
    for value in possible(setting):
        check(name, value, **bounds)


def made_loss(criterion: Loss | type[nn.Module], arguments: str) -> Loss:
    """Return the loss for which a module, a function or a class to call without arguments stands."""
    if not callable(criterion):
        raise SpaceError(f"criterion={criterion!r} must be a loss of {arguments}")
    return criterion() if isinstance(criterion, type) else criterion


def refuse_export(export_onnx: bool) -> None:
    """Refuse NNI's argument unless it is false."""
    if export_onnx:
        raise SpaceError(
            "export_onnx=True is not supported; call spacelang.export_onnx(model, path, example_inputs)"
        )


def described(value: object) -> str:
    """Return a description of a tensor or another object, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
