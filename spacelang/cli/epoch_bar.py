"""One progress bar for one training, drawn by rich and fed by Lightning."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar(Callback):
    """Show all epochs as one bar with the last accuracy; without a terminal, write a line per epoch."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self._bars: Progress | None = None
        self._task = TaskID(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> ProgressBar:
        """Return the bar itself: evaluators copy callbacks for each fit, and a screen cannot be copied."""
        return self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, at the place a resumed training is at."""
        batches = int(trainer.num_training_batches)
        total = batches * (trainer.max_epochs or 1)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bars.add_task(
            self._text(trainer), total=total, completed=batches * trainer.current_epoch
        )
        self._bars.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Advance by one batch."""
        if self._bars is not None:
            self._bars.update(self._task, advance=1, description=self._text(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line where there is no terminal to draw on."""
        if not self.console.is_terminal:
            self.console.print(self._text(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last epoch's accuracy and close the bar."""
        if self._bars is not None:
            self._bars.update(self._task, description=self._text(trainer))
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that Ctrl-C leaves the terminal as it was."""
        self._close()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _text(self, trainer: Trainer) -> str:
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        text = f"{self.title}: epoch {epoch}/{trainer.max_epochs}"
        for name, label in (("val_acc", "validation"), ("train_acc", "training")):
            if name in trainer.callback_metrics:
                return f"{text}, {label} accuracy {float(trainer.callback_metrics[name]):.1%}"
        return text
