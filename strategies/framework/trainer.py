"""The user's Trainer and LightningModule, as a search sees them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from spacelang import SpaceError
from spacelang.quiet import captured_log
from spacelang.supernet import Supernet

NOTHING_TRAINED = "this fit would train nothing, so there is no search: {reason}."


class Training:
    """Batches, losses and loggers of one fit.

    Args:
        trainer: The user's Trainer, in `fit`.
        module: Its `training_step` is the loss.
        val_dataloader: Batches of the search; the Trainer's (first) validation loader by default.
    """

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, val_dataloader: Iterable[Any] | None = None
    ) -> None:
        self.trainer = trainer
        self.module = module
        self._val_dataloader = val_dataloader
        self._batches: Iterator[Any] = iter(())
        self._training_step: Callable[..., Any] = module.training_step
        self._batch_sizes: dict[BatchSampler, int] = {}  # as the user set them

    def check(self, supernet: Supernet) -> None:
        """Raise a `SpaceError` when this module cannot be searched."""
        name = type(self.module).__name__
        if not self.module.automatic_optimization:
            raise SpaceError(
                f"{name} optimises manually, so its training_step would train weights on validation batches; "
                "set automatic_optimization = True."
            )
        if not any(child is supernet for child in self.module.modules()):
            raise SpaceError(f"{name} does not contain the supernet; pass it as its model.")
        for limit in ("max_epochs", "max_steps", "limit_train_batches"):
            if getattr(self.trainer, limit) == 0:
                raise SpaceError(NOTHING_TRAINED.format(reason=f"the Trainer has {limit}=0"))

    def validation_loader(self) -> Iterable[Any]:
        """Return the loader of validation batches.

        Raises:
            SpaceError: there are none.
        """
        if self._val_dataloader is not None:
            return self._val_dataloader
        if self.trainer.val_dataloaders is None and self.trainer.enable_validation:
            # Lightning sets them up before the first epoch that validates (check_val_every_n_epoch).
            self.trainer.validating = True
            self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
            self.trainer.training = True
        loaders = self.trainer.val_dataloaders
        while isinstance(loaders, list | tuple | dict) and loaders:
            loaders = next(iter(loaders.values())) if isinstance(loaders, dict) else loaders[0]
        if not loaders:
            raise SpaceError(
                "the search needs validation batches: pass val_dataloaders to the evaluator (or to "
                "Trainer.fit), or val_dataloader to strategy.attach. limit_val_batches=0 also removes them."
            )
        return loaders  # type: ignore[no-any-return]

    def begin_epoch(self) -> None:
        """Begin a new pass over the validation batches."""
        self._batches = cycle(self.validation_loader())

    def validation_batch(self) -> Any:
        """Return the next validation batch, over and over, treated as Lightning treats training batches."""
        return self.on_device(next(self._batches))

    def on_device(self, batch: Any) -> Any:
        """Return a batch of a loader as `training_step` gets it."""
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def loss(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Return the module's own training loss on a batch, without its logging."""
        with captured_log(self.module), self.trainer.precision_plugin.train_step_context():
            output = self._training_step(batch, batch_idx)
        loss = output["loss"] if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise SpaceError(
                f"{type(self.module).__name__}.training_step must return the loss or a dict with 'loss'; "
                f"got {type(output).__name__}."
            )
        return loss

    def replace_loss(self, replacement: Callable[[Tensor], Tensor]) -> None:
        """Train the weights on `replacement(loss)` in place of the module's own loss, until `close`."""

        @functools.wraps(self._training_step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            output = self._training_step(*args, **kwargs)
            if isinstance(output, dict):
                return {**output, "loss": replacement(output["loss"])}
            return output if output is None else replacement(output)

        self.module.__dict__["training_step"] = training_step  # before the class's method

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return self.trainer.strategy.reduce(tensor, reduce_op="mean")

    def mean_where_any(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Return means over all processes, None where every process has None; else a None counts as zeros."""
        if self.trainer.world_size == 1:
            return tensors
        given = torch.tensor([float(tensor is not None) for tensor in tensors], device=like[0].device)
        filled = [torch.zeros_like(x) if t is None else t for t, x in zip(tensors, like, strict=True)]
        counts = self.mean(given).tolist()  # every process reduces the same tensors
        return [self.mean(t) if count > 0 else None for t, count in zip(filled, counts, strict=True)]

    def log(self, metrics: Mapping[str, float]) -> None:
        """Pass metrics to every logger of the user."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step=self.trainer.global_step)

    def enlarge_batches(self, samples: int) -> None:
        """Add `samples` to the user's size of training and validation batches, from the next epoch on.

        Raises:
            SpaceError: a loader without a batch size, or a Trainer limited to some of the batches.
        """
        if self.trainer.limit_train_batches != 1.0:
            raise SpaceError("batches cannot grow under Trainer(limit_train_batches=...); remove it.")
        loop: Any = self.trainer.fit_loop
        train = loop._combined_loader
        for loader in (*train.flattened, self.validation_loader()):
            sampler: Any = getattr(loader, "batch_sampler", None)
            if not isinstance(getattr(sampler, "batch_size", None), int):
                raise SpaceError(
                    f"batches cannot grow: a {type(loader).__name__} without a batch size; use a DataLoader "
                    "with batch_size=."
                )
            self._batch_sizes.setdefault(sampler, sampler.batch_size)
            sampler.batch_size = self._batch_sizes[sampler] + samples
        # Lightning computed these from the number of batches when it set up the loaders.
        train.limits = [len(loader) for loader in train.flattened]
        loop.max_batches = max(train.limits)
        if isinstance(self.trainer.val_check_interval, float):
            share = int(loop.max_batches * self.trainer.val_check_interval)
            self.trainer.val_check_batch = max(1, share)

    def unscaled(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Return gradients of a backward pass without the factor of 16-bit precision.

        All are None where it made one of them infinite: the weights' step is then left out, too.
        """
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None:
            return gradients
        if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
            return [None] * len(gradients)
        return [None if g is None else g / scaler.get_scale() for g in gradients]

    def reset_optimizers(self) -> None:
        """Let the optimisers forget their moments; settings and schedules continue."""
        for optimizer in self.trainer.optimizers:
            getattr(optimizer, "optimizer", optimizer).state.clear()

    def close(self) -> None:
        """Restore the module's loss and the loaders' batch sizes."""
        self.module.__dict__.pop("training_step", None)
        for sampler, size in self._batch_sizes.items():
            sampler.batch_size = size


def cycle(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield batches of a loader over and over, each pass shuffled again by the loader.

    Raises:
        SpaceError: the loader has none.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise SpaceError("the validation loader has no batch; use more data or a smaller batch size.")


def release(optimizers: Iterable[torch.optim.Optimizer], module: nn.Module) -> None:
    """Remove from optimisers the weights that were pruned from their module.

    Optimisers made for the pruned module would have the same weights, so that a resumed search fits.
    """
    present = set(module.parameters())
    for optimizer in optimizers:
        inner: Any = getattr(optimizer, "optimizer", optimizer)
        for group in inner.param_groups:
            for weight in [w for w in group["params"] if w not in present]:
                inner.state.pop(weight, None)
            group["params"] = [w for w in group["params"] if w in present]


@contextmanager
def progress(trainer: pl.Trainer, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps if the Trainer shows one; yield a function to call after each step."""
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        lines = bar.progress  # rich cannot show a second display next to the Trainer's
        task = lines.add_task(title, total=total)
        yield lambda: lines.update(task, advance=1, refresh=True)
    elif isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        with Tqdm(desc=title, total=total, dynamic_ncols=True, file=sys.stdout) as line:
            yield lambda: line.update() and None
    else:
        yield lambda: None
