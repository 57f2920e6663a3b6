"""Measures a supernet, or an architecture with its weights, during a fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from spacelang import SpaceError
from spacelang.errors import quoted
from spacelang.quiet import captured_log
from spacelang.randomness import global_generators_kept
from spacelang.supernet import Supernet, batch_statistics, recalibrate

from .trainer import Training, cycle
from .update import restored


class Scorer:
    """Measures the supernet during one fit: a metric of the user's module, or its loss.

    It is in evaluation mode; values are means over samples and processes. `OneShotSearch.scorer` makes one.

    Args:
        training: The present fit.
        supernet: The network being trained.
        metric: Name of a metric that `validation_step` logs; None for the loss of `training_step`.
        calibration_batches: Training batches from which batch-norm statistics are estimated for each
            measurement, which continues where the one before ended; 0 keeps the statistics of training.
        of_batch: Whether batch norms use the statistics of each batch instead.
    """

    def __init__(
        self,
        training: Training,
        supernet: Supernet,
        metric: str | None,
        calibration_batches: int = 0,
        of_batch: bool = False,
    ) -> None:
        self.training = training
        self.supernet = supernet
        self.metric = metric
        self.calibration_batches = calibration_batches
        self.of_batch = of_batch
        self._train_batches: Iterator[Any] = _train_batches(training)
        self._kept: list[Any] = []

    def measure(self, batches: int | None = None) -> float:
        """Measure the supernet as it computes now, under any mixture or as a selected architecture.

        Args:
            batches: Number of validation batches, always the same ones; None for all.
        """
        if self.calibration_batches:
            calibration = itertools.islice(self._train_batches, self.calibration_batches)
            recalibrate(self.training.module, (partial(self.training.loss, batch) for batch in calibration))
        return float(self.mean(self._value, batches))

    def measure_architecture(self, arch: Mapping[str, Any], batches: int | None = None) -> float:
        """Select an architecture in the supernet, then measure it; see `measure`."""
        self.supernet.select(arch)
        return self.measure(batches)

    def measure_on(self, batch: Any) -> float:
        """Measure the supernet as it computes now on one batch, normalised with that batch's statistics."""
        with batch_statistics():
            return float(self._mean(self._value, [batch]))

    def is_dead(self, arch: Mapping[str, Any]) -> bool:
        """Return whether an architecture computes the same for all samples of a validation batch.

        False where this cannot be seen: with one sample, or outputs that are no tensors.
        """
        calls: list[tuple[Any, Any]] = []
        hook = self.supernet.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        batch = next(iter(self._validation_batches(1)))
        try:
            with torch.no_grad():
                self.training.loss(batch)  # as in training: not every module computes it in evaluation mode
        finally:
            hook.remove()
        if not calls or _all_alike(calls[0]):
            return False
        args, kwargs = calls[0]
        self.supernet.select(arch)
        self.training.module.eval()
        with torch.no_grad(), self.training.trainer.precision_plugin.val_step_context():
            return _all_alike(self.supernet(*args, **kwargs))

    def mean(self, value: Callable[[Any], Tensor], batches: int | None = None) -> Tensor:
        """Return the mean over samples and processes of a function of a validation batch.

        Args:
            value: Function that returns a tensor for a batch; the module is in evaluation mode.
            batches: Number of validation batches, always the same ones; None for all.
        """
        if not self.of_batch:
            return self._mean(value, self._validation_batches(batches))
        with batch_statistics():
            return self._mean(value, self._validation_batches(batches))

    def _validation_batches(self, count: int | None) -> Iterable[Any]:
        loader = self.training.validation_loader()
        if count is None:
            return map(self.training.on_device, loader)
        if len(self._kept) < count:
            self._kept = list(itertools.islice(loader, count))
        return map(self.training.on_device, self._kept[:count])

    def _mean(self, value: Callable[[Any], Tensor], batches: Iterable[Any]) -> Tensor:
        module = self.training.module.eval()
        if self.of_batch:  # bundles ask the modules, which `untouched` restores with their statistics
            for norm in (child for child in module.modules() if isinstance(child, _BatchNorm)):
                norm.train()
        total, count = torch.zeros((), device=module.device), 0
        for batch in batches:
            size = _samples(batch)
            total = total + size * value(batch)
            count += size
        return self.training.mean(total / count)

    @torch.no_grad()
    def _value(self, batch: Any) -> Tensor:
        if self.metric is None:
            return self.training.loss(batch).detach()
        module = self.training.module
        with captured_log(module) as logged, self.training.trainer.precision_plugin.val_step_context():
            module.validation_step(batch, 0)
        if self.metric not in logged:
            raise SpaceError(
                f"metric={self.metric!r} is not logged by {type(module).__name__}.validation_step, which "
                f"logs {quoted(logged)}."
            )
        value = logged[self.metric]
        if isinstance(value, Metric):
            metric, value = value, value.compute()
            metric.reset()
        return torch.as_tensor(value, device=module.device).detach()


@contextmanager
def untouched(module: nn.Module, supernet: Supernet) -> Iterator[None]:
    """Leave buffers and modes of a module, the supernet's mixture and global generators as they were."""
    modes = [(child, child.training) for child in module.modules()]
    with global_generators_kept(), restored(module, []), supernet.mixture_kept():
        try:
            yield
        finally:
            for child, training in modes:
                child.training = training


def _train_batches(training: Training) -> Iterator[Any]:
    """Yield training batches over and over, as `training_step` gets them."""
    loader: Any = training.trainer.fit_loop._combined_loader
    for batch, _, _ in cycle(CombinedLoader(loader.iterables, loader._mode)):
        yield training.on_device(batch)


def _all_alike(value: Any) -> bool:
    """Return whether the rows of the first tensor in a value are the same, and more than one."""
    rows = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.dim()), None)
    if rows is None or len(rows) < 2 or not rows.numel():
        return False
    rows = rows.double()
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max())


def _samples(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor."""
    sizes = (len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim())
    return next(sizes, 1)
