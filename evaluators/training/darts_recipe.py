"""Training recipe of DARTS, for search and for retraining."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from spacelang.errors import SpaceError, require_integer, require_number

from .classification import ClassificationModule
from .training_module import Batch, possible, require_possible


class DartsTrainingModule(ClassificationModule):
    """A LightningModule that trains classifiers as DARTS does, with `Trainer(gradient_clip_val=5.)`.

    SGD with momentum, the learning rate falling by a cosine over `max_epochs`,
    lr(t) = eta_min + (learning_rate - eta_min) (1 + cos(pi t / max_epochs)) / 2 in epoch t = 0, 1, ...
    Loss: cross entropy of the logits + `auxiliary_loss_weight` * cross entropy of the auxiliary logits.
    Drop-path probability in epoch t: p t / max_epochs, p the model's own `drop_path_prob`.

    The defaults are those of retraining on CIFAR-10 (600 epochs, batch 96). The search uses
    `DartsTrainingModule(auxiliary_loss_weight=0., eta_min=1e-3, max_epochs=50)` with batch 64.

    Args:
        learning_rate: Learning rate of epoch 0.
        weight_decay: Weight decay of SGD.
        momentum: Momentum of SGD.
        auxiliary_loss_weight: Weight of the auxiliary loss; 0 for a model without an auxiliary head.
            Otherwise the model in training mode must return (logits, auxiliary logits).
        max_epochs: Length of both schedules; set the Trainer's to the same.
        eta_min: Learning rate in which the cosine ends.
        num_classes: Number of classes that the model's output must have; None not to check it.
        label_smoothing: Smoothing in training; 0.1 in the paper's ImageNet runs.

    Raises:
        SpaceError: A value is out of range, or the model lacks the auxiliary output.

    Source: DARTS, arXiv:1806.09055, and the training code its authors published.
    """

    def __init__(
        self,
        learning_rate: float = 0.025,
        weight_decay: float = 3e-4,
        momentum: float = 0.9,
        auxiliary_loss_weight: float = 0.4,
        max_epochs: int = 600,
        eta_min: float = 0.0,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            optimizer=torch.optim.SGD,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
        )
        require_possible(require_number, "momentum", momentum, least=0, below=1)
        require_possible(require_number, "auxiliary_loss_weight", auxiliary_loss_weight, least=0)
        require_possible(require_integer, "max_epochs", max_epochs, least=1)
        require_possible(require_number, "eta_min", eta_min, least=0)
        if not all(possible(eta_min <= learning_rate)):  # of value choices the comparison is one, too
            raise SpaceError(f"eta_min={eta_min!r} must be at most learning_rate={learning_rate!r}.")
        self.momentum = momentum
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.max_epochs = max_epochs
        self.eta_min = eta_min
        self._final_drop_path = 0.0

    def set_model(self, model: nn.Module) -> None:
        super().set_model(model)
        # Read once: a model may overwrite the attribute in set_drop_path_prob, which would compound.
        self._final_drop_path = float(getattr(model, "drop_path_prob", 0.0))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=self.hparams["learning_rate"],
            momentum=self.momentum,
            weight_decay=self.hparams["weight_decay"],
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs, eta_min=self.eta_min)
        return {"optimizer": optimizer, "lr_scheduler": cosine}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        output = self(x)
        if not self.auxiliary_loss_weight:
            logits = self._checked(output[0] if isinstance(output, tuple) else output)
            loss = self.criterion(logits, y)
        else:
            logits, auxiliary = self._checked_pair(output)
            loss = self.criterion(logits, y) + self.auxiliary_loss_weight * self.criterion(auxiliary, y)
        self.log_stage("train", loss, logits, y)
        return loss

    def on_fit_start(self) -> None:
        epochs = self.trainer.max_epochs
        if epochs is not None and epochs > self.max_epochs:
            rank_zero_warn(
                f"the Trainer runs {epochs} epochs, but the schedules of DartsTrainingModule end after "
                f"{self.max_epochs}, when the learning rate rises again; set both to the same max_epochs"
            )

    def on_train_epoch_start(self) -> None:
        self._set_drop_path(self._final_drop_path * self.current_epoch / self.max_epochs)

    def on_fit_end(self) -> None:
        self._set_drop_path(self._final_drop_path)

    def _set_drop_path(self, probability: float) -> None:
        set_drop_path_prob = getattr(self.model, "set_drop_path_prob", None)
        if callable(set_drop_path_prob):
            set_drop_path_prob(probability)

    def _checked_pair(self, output: object) -> tuple[Tensor, Tensor]:
        if isinstance(output, tuple) and len(output) == 2:
            return self._checked(output[0]), self._checked(output[1])
        raise SpaceError(
            f"auxiliary_loss_weight is {self.auxiliary_loss_weight}, but the model in training mode "
            f"returned a {type(output).__name__}; expected (logits, auxiliary logits). Build the model with "
            "an auxiliary head (auxiliary_loss=True), or set auxiliary_loss_weight=0"
        )
