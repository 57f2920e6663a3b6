"""Language modelling: a LightningModule that predicts next tokens, and its evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from spacelang.errors import SpaceError, require_integer, require_number
from spacelang.trials import Minimize

from ..data.text import Window
from .lightning_training import Lightning
from .loaders import Loaders
from .training_module import Batch, TrainingModule, described, require_possible


def token_loss(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the cross entropy, averaged over the tokens that are not ignored; 0 where all are.

    Args:
        logits: scores, (B, T, vocabulary).
        targets: token numbers, (B, T).
        ignore_index: Target to leave out.

    Returns:
        Scalar, in nats.
    """
    total = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index, reduction="sum"
    )
    return total / (targets != ignore_index).sum().clamp(min=1)


def slowness(states: object) -> Tensor:
    """Return the mean squared difference of successive hidden states, (B, T, units); 0 for a single one.

    Raises:
        SpaceError: That is not what the states are.
    """
    if not isinstance(states, Tensor) or states.dim() != 3:
        raise SpaceError(
            "slowness compares the hidden states (batch, time, units) that a model returns for a window; got "
            f"{described(states)}. Leave it out, or train hub.RecurrentLM on Windows(text, batch_size)"
        )
    differences = states[:, 1:] - states[:, :-1]
    return differences.square().mean() if differences.numel() else states.new_zeros(())


class LanguageModule(TrainingModule):
    """A LightningModule that predicts the next token: cross entropy and one optimiser.

    A batch is a tensor of tokens, whose targets are the same tokens one step on, or a pair (inputs, targets)
    of such tensors; each is (B, T) of integers. The model maps inputs (B, T) to logits
    (B, T, vocabulary). It sees the whole of a single tensor, whose last logits do not count.

    A batch may also be a `Window`, as the loader `spacelang.evaluators.data.Windows` makes them: a part of a
    text that the next batch continues. Then the model is recurrent, (inputs, state) -> (logits, state), and
    called without a state at first. The state is carried from window to window, detached. Each pass over a
    text has its own: those of training, of validation and of a search's steps of the logits never mix.

    Logs `train_loss, val_loss, test_loss`, each the mean over the tokens of an epoch, and `val_perplexity,
    test_perplexity`, the exponential of that mean. A subclass may override any hook; it finds `self.model`,
    `self.criterion`, `self.metrics` (functions of logits and targets by name) and
    `self.hparams.learning_rate`.

    Numbers may be value choices, for `Lightning` to decide.

    Args:
        learning_rate: Learning rate of the optimiser.
        weight_decay: Weight decay of the optimiser.
        optimizer: Called as `optimizer(parameters, lr=..., weight_decay=...)`.
        ignore_index: Targets with this number do not count. Padding in a single tensor is also an input, so
            it must be a token that the model knows.
        slowness: Weight of the mean squared difference of successive hidden states, added to the loss in
            training; a positive one needs windows and a model whose state is the tensor of hidden states
            (B, T, units). 1e-3 in AWD-LSTM and DARTS.

    Raises:
        SpaceError: A value is out of range; in training, batches or logits have another shape or type.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        ignore_index: int = -100,
        slowness: float = 0.0,
    ) -> None:
        require_integer("ignore_index", ignore_index)
        require_possible(require_number, "slowness", slowness, least=0)
        loss = partial(token_loss, ignore_index=ignore_index)
        super().__init__(
            loss, learning_rate, weight_decay, optimizer, ignore_index=ignore_index, slowness=slowness
        )
        self.perplexity = Perplexity()

    def forward(self, x: Any) -> Any:
        """Return the output for tokens (B, T); for a window (logits, state), and carry the state on."""
        if not isinstance(x, Window):
            return super().forward(x)
        output = self.recurrent(x)
        x.memory.keep(x.start, x.start + x.inputs.shape[1], output[1])
        return output

    def recurrent(self, window: Window) -> tuple[Tensor, Any]:
        """Return (logits, state) of a recurrent model, which continues from the window before."""
        state = window.memory.before(window.start)
        output = self.model(window.inputs) if state is None else self.model(window.inputs, state)
        if not isinstance(output, tuple) or len(output) != 2:
            raise SpaceError(
                f"the model returned {described(output)} for a window of text; expected (logits, state), as "
                "hub.RecurrentLM returns. Give a model without a state batches of tokens (batch, time)"
            )
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.split_batch(batch)
        output = self(x)
        logits, y = self.compared(output[0] if isinstance(x, Window) else output, y)
        loss = self.criterion(logits, y)
        self.log_stage("train", loss, logits, y)
        weight = self.hparams["slowness"]
        return loss + weight * slowness(output[1] if isinstance(x, Window) else None) if weight else loss

    def split_batch(self, batch: Any) -> Batch:
        """Return inputs and targets of a batch, both (B, T); of a window itself in place of the inputs."""
        if isinstance(batch, Window):
            return batch, batch.targets  # type: ignore[return-value]
        tensors = [batch] if isinstance(batch, Tensor) else batch
        if not isinstance(tensors, list | tuple) or len(tensors) not in (1, 2):
            raise SpaceError(
                f"a batch is {described(batch)}; expected tokens (batch, time), or a pair (inputs, "
                "targets) of such. Make it so in the DataLoader's collate_fn"
            )
        for tokens in tensors:
            _check_tokens(tokens)
        inputs, targets = tensors if len(tensors) == 2 else (tensors[0], self._next(tensors[0]))
        if inputs.shape != targets.shape:
            raise SpaceError(
                f"inputs have shape {tuple(inputs.shape)} and targets {tuple(targets.shape)}; expected one "
                "shape, with the token that follows input [b, t] as target [b, t]"
            )
        return inputs, targets.long()

    def compared(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, vocabulary), of at least 32 bits, and targets (B, T)."""
        shape = tuple(targets.shape)
        if not isinstance(output, Tensor) or output.dim() != 3 or output.shape[:2] != shape:
            raise SpaceError(
                f"the model returned {described(output)} for tokens of shape {shape}; expected logits "
                f"({shape[0]}, {shape[1]}, vocabulary) alone, without a recurrent state"
            )
        return output.to(torch.promote_types(output.dtype, torch.float32)), targets

    def batch_weight(self, targets: Tensor) -> int:
        """Return the number of tokens that count."""
        return int((targets != self.hparams["ignore_index"]).sum())

    def epoch_metrics(self, loss: Tensor, output: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        self.perplexity.update(loss, self.batch_weight(targets))
        return {"perplexity": self.perplexity}

    def _next(self, tokens: Tensor) -> Tensor:
        """Return the token after each; after the last token there is none to predict."""
        if tokens.shape[1] < 2:
            raise SpaceError(
                f"tokens of shape {tuple(tokens.shape)} have no next token; use rows of at least two, or a "
                "pair (inputs, targets)"
            )
        return F.pad(tokens[:, 1:].long(), (0, 1), value=self.hparams["ignore_index"])


class Language(Lightning):
    """An evaluator of language models: a `Lightning` with a `LanguageModule`.

    Args:
        learning_rate, weight_decay, optimizer, ignore_index, slowness: See `LanguageModule`.
        train_dataloaders, val_dataloaders, datamodule: See `Lightning`; batches are tokens (B, T), pairs
            (inputs, targets), or windows of a text (`spacelang.evaluators.data.Windows`).
        trainer_kwargs: Arguments of `Trainer`, such as `max_epochs=10`.
    """

    default_objective = Minimize("val_perplexity")

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        ignore_index: int = -100,
        slowness: float = 0.0,
        *,
        train_dataloaders: Loaders = None,
        val_dataloaders: Loaders = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        super().__init__(
            LanguageModule(learning_rate, weight_decay, optimizer, ignore_index, slowness),
            train_dataloaders=train_dataloaders,
            val_dataloaders=val_dataloaders,
            datamodule=datamodule,
            **trainer_kwargs,
        )


class Perplexity(Metric):
    """A metric: exp of the mean loss over all tokens seen.

    It uses losses, where torchmetrics' `Perplexity` uses probabilities. In float32 these round to 0 at a loss
    of 104, and one such token makes it infinite.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, tokens: int) -> None:
        """Add a batch: its mean loss, and the number of tokens in that mean."""
        self.total = self.total + loss * tokens
        self.count = self.count + tokens

    def compute(self) -> Tensor:
        """Return the value so far, a scalar."""
        return (self.total / self.count).exp()


def _check_tokens(tokens: object) -> None:
    integers = (torch.int64, torch.int32)
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype not in integers:
        raise SpaceError(
            f"a batch holds {described(tokens)}; expected tokens (batch, time), torch.int64. Convert "
            "numbers of another type with tokens.long(), and pass a single row as tokens[None]"
        )
