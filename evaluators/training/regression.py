"""Regression: a LightningModule and its evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from spacelang.errors import SpaceError
from spacelang.trials import Minimize

from .lightning_training import Lightning
from .loaders import Loaders
from .training_module import Loss, TrainingModule, described, made_loss, refuse_export


class RegressionModule(TrainingModule):
    """A LightningModule for real numbers: mean squared error, one optimiser, loss and errors logged.

    Logs `train_loss, train_mse, train_mae` and the same of `val` and `test`, each the mean over the samples
    of an epoch; for validation and test also `val_r2` and `test_r2` over all samples of an epoch. A subclass
    may override any hook; it finds `self.model`, `self.criterion`, `self.metrics` (functions of output and
    targets by name) and `self.hparams.learning_rate`.

    Output and targets have one shape, (B,) or (B, ...); (B, 1) and (B,) also fit each other. Targets may
    have another number type than the output.

    Numbers may be value choices, for `Lightning` to decide.

    Args:
        criterion: Loss of (output, targets): a module, a function or a class to call without arguments.
        learning_rate: Learning rate of the optimiser.
        weight_decay: Weight decay of the optimiser.
        optimizer: Called as `optimizer(parameters, lr=..., weight_decay=...)`.
        export_onnx: Accepted for code written for NNI; must be false.

    Raises:
        SpaceError: A value is out of range; in training, output and targets do not fit.
    """

    def __init__(
        self,
        criterion: Loss | type[nn.Module] = nn.MSELoss,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        export_onnx: bool = False,
    ) -> None:
        refuse_export(export_onnx)
        super().__init__(made_loss(criterion, "(output, targets)"), learning_rate, weight_decay, optimizer)
        self.metrics = {"mse": F.mse_loss, "mae": F.l1_loss}
        self.r2 = R2()

    def compared(self, output: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """Return output and targets of one shape and number type, of at least 32 bits."""
        if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
            raise SpaceError(
                f"the model returned {described(output)} for {described(targets)}; expected two tensors of "
                "one shape"
            )
        # Otherwise the loss of (B, 1) and (B,) would be that of all (B, B) pairs.
        if output.shape == (*targets.shape, 1) or targets.shape == (*output.shape, 1):
            output = output.reshape(targets.shape)
        if output.shape != targets.shape:
            raise SpaceError(
                f"the model returned shape {tuple(output.shape)} for targets of shape "
                f"{tuple(targets.shape)}; expected one shape, such as (batch,) or (batch, outputs). The "
                "model's last layer needs as many outputs as a target has numbers"
            )
        dtype = torch.promote_types(output.dtype, torch.float32)
        return output.to(dtype), targets.to(dtype)

    def epoch_metrics(self, loss: Tensor, output: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        self.r2.update(output, targets)
        return {"r2": self.r2}


class Regression(Lightning):
    """An evaluator of models of real numbers: a `Lightning` with a `RegressionModule`.

    Args:
        criterion, learning_rate, weight_decay, optimizer, export_onnx: See `RegressionModule`.
        train_dataloaders, val_dataloaders, datamodule: See `Lightning`; batches are (inputs, targets).
        trainer_kwargs: Arguments of `Trainer`, such as `max_epochs=10`.
    """

    default_objective = Minimize("val_mse")

    def __init__(
        self,
        criterion: Loss | type[nn.Module] = nn.MSELoss,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        export_onnx: bool = False,
        *,
        train_dataloaders: Loaders = None,
        val_dataloaders: Loaders = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        super().__init__(
            RegressionModule(criterion, learning_rate, weight_decay, optimizer, export_onnx),
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **trainer_kwargs,
        )


class R2(Metric):
    """A metric: the coefficient of determination over all batches seen.

    R2 = 1 - sum (y - output)^2 / sum (y - mean of y)^2.

    With several numbers in a sample it is the mean over these. Where y does not vary it is 1 if the output is
    exact and 0 otherwise; for fewer than two samples it is NaN.

    Batches are merged about their means, for torchmetrics' `R2Score` subtracts sums of squares: its float32
    cancels where the mean of y is far from 0, and sums below some 1e-4 count as 0.

    Source: Chan, Golub and LeVeque 1979, eq. 2.1.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    count: Tensor
    mean: Tensor
    total: Tensor
    residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx=None)
        for name in ("mean", "total", "residual"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx=None)

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Add a batch: two tensors (B, ...)."""
        y = targets.flatten(1) if targets.dim() > 1 else targets.unsqueeze(1)  # (B, outputs)
        mean = y.mean(0)
        residual = (y - output.reshape_as(y)).square().sum(0)
        batch = (torch.tensor(len(y), device=y.device), mean, (y - mean).square().sum(0), residual)
        self.count, self.mean, self.total, self.residual = _merged(self._states(), batch)

    def compute(self) -> Tensor:
        """Return the value so far, a scalar."""
        states = self._states()
        if self.count.dim():  # those of all processes, stacked
            states = reduce(_merged, zip(*states, strict=True))
        count, _, total, residual = states
        score = torch.where(total > 0, 1 - residual / total, (residual == 0).to(total.dtype))
        return torch.where(count > 1, score.mean(), torch.nan)

    def _states(self) -> tuple[Tensor, ...]:
        return self.count, self.mean, self.total, self.residual


def _merged(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return count, mean, sum of squares about the mean and of residuals of two groups together."""
    (count_a, mean_a, total_a, residual_a), (count_b, mean_b, total_b, residual_b) = a, b
    count = count_a + count_b
    share = count_b / count.clamp(min=1)
    apart = mean_b - mean_a
    total = total_a + total_b + apart.square() * count_a * share
    return count, mean_a + apart * share, total, residual_a + residual_b
