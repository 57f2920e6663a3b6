"""Watch over a fit: a search stops at the first loss, logit or weight that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from spacelang.errors import DivergenceError, listed
from spacelang.finite import largest, not_finite

from .trainer import Training

_EVERY = 50  # Numbers seen between two looks, where a look makes a device or other processes wait.


class Watch:
    """Sees the numbers of one fit and ends it when one of them is not finite.

    On one CPU it looks at each number at once. Otherwise it looks at 50 together, and at the end of an epoch,
    so that a device is not asked at every step; all processes then stop at the same place.

    Args:
        training: The fit.
        logits: Returns the present logits, or other numbers that decide the architecture, by name.
    """

    def __init__(self, training: Training, logits: Callable[[], Mapping[str, Tensor]]) -> None:
        self._training = training
        self._logits = logits
        self._seen: list[tuple[str, Tensor]] = []

    def see(self, what: str, *tensors: Tensor) -> None:
        """Note whether tensors are finite; `what` begins a sentence."""
        trainer, module = self._training.trainer, self._training.module
        batch = trainer.fit_loop.epoch_loop.batch_idx
        place = f"{what} in epoch {trainer.current_epoch}, batch {batch} (both counted from 0)"
        number = tensors[0] if len(tensors) == 1 and tensors[0].dim() == 0 else largest(tensors)
        self._seen.append((place, torch.isfinite(number.detach())))
        at_once = trainer.world_size == 1 and module.device.type == "cpu"
        if at_once or len(self._seen) == _EVERY:
            self.look()

    def look(self) -> None:
        """Raise if a number seen since the last look was not finite.

        Raises:
            DivergenceError: Names the first, with its place, and what else is not finite by now.
        """
        if not self._seen:
            return
        finite = torch.stack([flag for _, flag in self._seen]).float()
        if self._training.trainer.world_size > 1:
            finite = self._training.mean(finite)
        first = next((i for i, share in enumerate(finite.tolist()) if share < 1), None)
        if first is not None:
            place, _ = self._seen[first]
            raise DivergenceError(f"{place} is not finite. {self._state()}")
        self._seen.clear()

    def look_at_everything(self) -> None:
        """Look, then raise if a weight or a logit is not finite; to be called before a checkpoint is written.

        Raises:
            DivergenceError: Names what is not finite.
        """
        self.look()
        if broken := self._broken():
            epoch = self._training.trainer.current_epoch
            raise DivergenceError(f"After epoch {epoch} (counted from 0) not finite: {listed(broken, 6)}.")

    def _state(self) -> str:
        broken = self._broken()
        if not broken:
            return (
                "Every weight and logit is still finite: look at the data of this batch, the loss and the "
                "learning rate."
            )
        return f"By now not finite: {listed(broken, 6)}."

    def _broken(self) -> list[str]:
        module = self._training.module
        logits = [f"logits of {label!r}" for label in not_finite(self._logits())]
        weights = [f"weight {name!r}" for name in not_finite(dict(module.named_parameters()))]
        buffers = [f"buffer {name!r}" for name in not_finite(dict(module.named_buffers()), infinite=False)]
        return [*logits, *weights, *buffers]
