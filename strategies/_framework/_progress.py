"""A progress bar in the Trainer's own style, for what is done between its epochs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


@contextmanager
def progress(trainer: pl.Trainer, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps if the Trainer shows one; yields what to call after each step."""
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        lines = bar.progress  # a second display of rich's beside the Trainer's is not possible
        task = lines.add_task(title, total=total)
        yield lambda: lines.update(task, advance=1, refresh=True)
    elif isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        with Tqdm(desc=title, total=total, dynamic_ncols=True, file=sys.stdout) as line:
            yield lambda: line.update() and None
    else:
        yield lambda: None
