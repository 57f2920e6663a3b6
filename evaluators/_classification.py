"""Image classification: a LightningModule and the evaluator made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from spacelang.errors import SpaceError
from spacelang.language import Value

from ._lightning import Lightning, Loaders

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Batch: TypeAlias = tuple[Tensor, Tensor]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of a batch whose largest logit is the label's.

    Args:
        logits: scores, (B, classes).
        labels: class numbers, (B,).

    Returns:
        Scalar in [0, 1].
    """
    return multiclass_accuracy(logits, labels, logits.shape[1], average="micro", validate_args=False)


class ClassificationModule(LightningModule):
    """Train a classifier: cross entropy, one optimiser, loss and accuracy logged for each stage.

    Logs `train_loss, train_acc, val_loss, val_acc, test_loss, test_acc`, each the mean over the samples
    of an epoch. A subclass may override any hook; it finds `self.model`, `self.criterion`,
    `self.metrics` (functions of logits and labels by name) and `self.hparams.learning_rate`.

    Numbers may be value choices, for `Lightning` to decide.

    Args:
        criterion: loss of (logits, labels), a module, a function or a class to call without arguments;
            default cross entropy.
        learning_rate: of the optimiser.
        weight_decay: of the optimiser.
        optimizer: called as `optimizer(parameters, lr=..., weight_decay=...)`.
        num_classes: checked against the model's output where given.
        label_smoothing: of the default cross entropy in training; validation and test are not smoothed.
        export_onnx: accepted for code written for NNI; must be false.

    Raises:
        SpaceError: a value out of range.
    """

    model: nn.Module

    def __init__(
        self,
        criterion: Loss | type[nn.Module] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        export_onnx: bool = False,
    ) -> None:
        super().__init__()
        _check_values(criterion, learning_rate, weight_decay, num_classes, label_smoothing, export_onnx)
        # Only plain numbers: they are stored in checkpoints, which are read with weights_only=True.
        self.save_hyperparameters(
            {
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "num_classes": num_classes,
                "label_smoothing": label_smoothing,
            }
        )
        self.optimizer = optimizer
        self.criterion: Loss
        self.evaluation_criterion: Loss
        if criterion is None:
            self.criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
            self.evaluation_criterion = nn.CrossEntropyLoss()
        else:
            self.criterion = criterion() if isinstance(criterion, type) else criterion
            self.evaluation_criterion = self.criterion
        # Functions, not torchmetrics objects: a search also calls training_step with validation batches,
        # and a metric that keeps counts would mix them into the training accuracy.
        self.metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"acc": accuracy}

    def set_model(self, model: nn.Module) -> None:
        """Take the model to train."""
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Return the model's output for images (B, C, H, W); normally logits (B, classes)."""
        if "model" not in self._modules:
            raise SpaceError(f"{type(self).__name__} has no model yet; call set_model(model) first")
        return self.model(x)

    def configure_optimizers(self) -> Any:
        return self.optimizer(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self._checked(self(x))
        loss = self.criterion(logits, y)
        self.log_stage("train", loss, logits, y)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluation_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluation_step("test", batch)

    def log_stage(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Log the loss and every metric of one batch as `{stage}_{name}`, averaged over the epoch."""
        values = {"loss": loss.detach()}
        values |= {name: metric(logits.detach(), labels) for name, metric in self.metrics.items()}
        self.log_dict(
            {f"{stage}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            sync_dist=True,
            batch_size=len(labels),
        )

    def _evaluation_step(self, stage: str, batch: Batch) -> None:
        x, y = batch
        output = self(x)
        logits = self._checked(output[0] if isinstance(output, tuple) else output)
        self.log_stage(stage, self.evaluation_criterion(logits, y), logits, y)

    def _checked(self, logits: object) -> Tensor:
        """Return `logits` if it is (B, classes) with the expected number of classes."""
        if not isinstance(logits, Tensor):
            raise SpaceError(
                f"the model returned a {type(logits).__name__}; expected logits (batch, classes). "
                "A model with an auxiliary head returns a pair: train it with DartsTrainingModule, "
                "or build it without"
            )
        classes = self.hparams["num_classes"]
        if logits.dim() != 2 or classes not in (None, logits.shape[1]):
            expected = "classes" if classes is None else classes
            raise SpaceError(f"the model returned shape {tuple(logits.shape)}; expected (batch, {expected})")
        return logits


class Classification(Lightning):
    """Evaluate an image classifier: a `Lightning` evaluator with a `ClassificationModule`.

    Args:
        criterion, learning_rate, weight_decay, optimizer, num_classes, label_smoothing, export_onnx: see
            `ClassificationModule`.
        train_dataloaders, val_dataloaders, datamodule: see `Lightning`; batches are (images, labels).
        trainer_kwargs: arguments of `Trainer`, such as `max_epochs=10`.
    """

    def __init__(
        self,
        criterion: Loss | type[nn.Module] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        export_onnx: bool = False,
        *,
        train_dataloaders: Loaders = None,
        val_dataloaders: Loaders = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        module = ClassificationModule(
            criterion=criterion,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            optimizer=optimizer,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            export_onnx=export_onnx,
        )
        super().__init__(
            module,
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **trainer_kwargs,
        )


def possible(setting: Any) -> tuple[Any, ...]:
    """Every value a setting may take: those of a value choice, otherwise itself alone."""
    return setting.possible() if isinstance(setting, Value) else (setting,)


def _check_values(
    criterion: object,
    learning_rate: float,
    weight_decay: float,
    num_classes: int | None,
    label_smoothing: float,
    export_onnx: bool,
) -> None:
    if criterion is not None and not callable(criterion):
        raise SpaceError(f"criterion is {criterion!r}; expected a loss of (logits, labels)")
    if criterion is not None and any(possible(label_smoothing)):
        raise SpaceError(
            f"label_smoothing={label_smoothing} and a criterion were given; "
            "smooth in the criterion: nn.CrossEntropyLoss(label_smoothing=...)"
        )
    for value in possible(learning_rate):
        if not value > 0:
            raise SpaceError(f"learning_rate is {value!r}; expected a number above 0")
    for value in possible(weight_decay):
        if not value >= 0:
            raise SpaceError(f"weight_decay is {value!r}; expected 0 or more")
    for value in possible(label_smoothing):
        if not 0 <= value < 1:
            raise SpaceError(f"label_smoothing is {value!r}; expected a number in [0, 1)")
    if num_classes is not None and num_classes < 1:
        raise SpaceError(f"num_classes is {num_classes!r}; expected None or at least 1")
    if export_onnx:
        raise SpaceError(
            "export_onnx=True is not supported; call spacelang.export_onnx(model, path, example_input)"
        )
