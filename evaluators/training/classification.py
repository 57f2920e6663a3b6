"""Image classification: a LightningModule and its evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from spacelang.errors import SpaceError, require_integer, require_number
from spacelang.trials import Maximize

from .lightning_training import Lightning
from .loaders import Loaders
from .training_module import Loss, TrainingModule, made_loss, possible, refuse_export, require_possible


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the fraction of a batch whose largest logit is the label's.

    Args:
        logits: scores, (B, classes).
        labels: class numbers, (B,).

    Returns:
        Scalar in [0, 1].
    """
    return multiclass_accuracy(logits, labels, logits.shape[1], average="micro", validate_args=False)


class ClassificationModule(TrainingModule):
    """A LightningModule for classifiers: cross entropy, one optimiser, loss and accuracy of each stage.

    Logs `train_loss, train_acc, val_loss, val_acc, test_loss, test_acc`, each the mean over the samples
    of an epoch. A subclass may override any hook; it finds `self.model`, `self.criterion`,
    `self.metrics` (functions of logits and labels by name) and `self.hparams.learning_rate`.

    Numbers may be value choices, for `Lightning` to decide.

    Args:
        criterion: Loss of (logits, labels): a module, a function or a class to call without arguments;
            cross entropy by default.
        learning_rate: Learning rate of the optimiser.
        weight_decay: Weight decay of the optimiser.
        optimizer: Called as `optimizer(parameters, lr=..., weight_decay=...)`.
        num_classes: Number of classes that the model's output must have; None not to check it.
        label_smoothing: Smoothing of the default cross entropy in training; validation and test have none.
        export_onnx: Accepted for code written for NNI; must be false.

    Raises:
        SpaceError: A value is out of range.
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
    ) -> None:
        _check_values(criterion, num_classes, label_smoothing)
        refuse_export(export_onnx)
        training: Loss
        evaluation: Loss
        if criterion is None:
            training = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
            evaluation = nn.CrossEntropyLoss()
        else:
            training = evaluation = made_loss(criterion, "(logits, labels)")
        super().__init__(
            training,
            learning_rate,
            weight_decay,
            optimizer,
            evaluation_criterion=evaluation,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
        )
        self.metrics = {"acc": accuracy}

    def compared(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, classes) and labels (B,)."""
        return self._checked(output), targets

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
    """An evaluator of image classifiers: a `Lightning` with a `ClassificationModule`.

    Args:
        criterion, learning_rate, weight_decay, optimizer, num_classes, label_smoothing, export_onnx: See
            `ClassificationModule`.
        train_dataloaders, val_dataloaders, datamodule: See `Lightning`; batches are (images, labels).
        trainer_kwargs: Arguments of `Trainer`, such as `max_epochs=10`.
    """

    default_objective = Maximize("val_acc")

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


def _check_values(criterion: object, num_classes: int | None, label_smoothing: float) -> None:
    if criterion is not None and any(possible(label_smoothing)):
        raise SpaceError(
            f"label_smoothing={label_smoothing} and a criterion were given; "
            "smooth in the criterion: nn.CrossEntropyLoss(label_smoothing=...)."
        )
    require_possible(require_number, "label_smoothing", label_smoothing, least=0, below=1)
    require_integer("num_classes", num_classes, least=1, optional=True)
