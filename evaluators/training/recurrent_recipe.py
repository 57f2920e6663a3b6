"""Callbacks for recurrent language models: rates by the length of windows, averaged weights at the end."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging

from spacelang.errors import SpaceError, require_integer

from ..data.text import Window


class RateByLength(pl.Callback):
    """A callback that multiplies learning rates by T / length while a window of T words is trained.

    Long windows have fewer steps in a pass over the text, and so take larger ones. It acts before a search
    takes its step of the logits, whose virtual step then has this rate, too.

    Args:
        length: Usual length of a window.

    Source: AWD-LSTM, Merity et al. 2018, arXiv:1708.02182, section 3.1.
    """

    def __init__(self, length: int = 35) -> None:
        require_integer("length", length, least=1)
        self.length = length
        self._rates: list[tuple[dict[str, Any], float]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, Window):
            raise SpaceError(
                f"RateByLength reads the lengths of windows; a batch is a {type(batch).__name__}. Use "
                "Windows(text, batch_size) as the loader."
            )
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self._rates = [(group, group["lr"]) for group in groups]
        for group, rate in self._rates:
            group["lr"] = rate * batch.inputs.shape[1] / self.length

    def on_train_batch_end(self, *arguments: Any) -> None:
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates = []


class AverageOnPlateau(WeightAveraging):
    """A callback that averages the weights of all later steps once the validation loss stops falling.

    Until then the network is trained and validated as it is. The switch comes with the first validation loss
    that is above the least of those more than `patience` validations before it. From then on validation, and
    the network in the end, have the mean of the weights after each step since. With
    SGD this is averaged SGD (ASGD, t_0 = 0) from the switch on.

    Args:
        patience: Number of last validations that are not compared, 5 in the paper.

    Attributes:
        losses: Validation loss of each epoch.
        switched: Whether weights are averaged.

    Source: AWD-LSTM, Merity et al. 2018, arXiv:1708.02182, algorithm 1.
    """

    def __init__(self, patience: int = 5) -> None:
        super().__init__(use_buffers=False)
        require_integer("patience", patience, least=0)
        self.patience = patience
        self.losses: list[float] = []
        self.switched = False

    def on_train_batch_end(self, *arguments: Any) -> None:
        if not self.switched and self._average_model is not None:
            self._average_model.n_averaged.zero_()  # these weights are the first in the mean, so they are it
        super().on_train_batch_end(*arguments)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val_loss"])
        compared = self.losses[: max(0, len(self.losses) - self.patience)]
        if not self.switched and compared and loss > min(compared):
            self.switched = True
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()
        self.losses.append(loss)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "losses": list(self.losses), "switched": self.switched}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.losses, self.switched = list(state_dict["losses"]), state_dict["switched"]
