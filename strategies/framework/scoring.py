"""What an architecture reaches with the weights of a supernet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
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
    """Measures architectures during one fit.

    Values are means over samples and processes. Use it within `untouched(module)`.

    Args:
        training: the fit.
        supernet: what is trained.
        metric: name of a metric that `validation_step` logs; None for the loss of `training_step`.
        calibration_batches: training batches that each architecture's batch-norm statistics are estimated
            from; the batches go on from one architecture to the next.
    """

    def __init__(
        self, training: Training, supernet: Supernet, metric: str | None, calibration_batches: int
    ) -> None:
        self.training = training
        self.supernet = supernet
        self.metric = metric
        self.calibration_batches = calibration_batches
        self._train_batches: Iterator[Any] = _train_batches(training)
        self._kept: list[Any] = []

    def measure(self, arch: Mapping[str, Any], batches: int | None) -> float:
        """Mean over validation batches, with statistics estimated on training batches.

        Args:
            arch: is selected in the supernet.
            batches: how many, always the same ones; None for all.
        """
        self.supernet.select(arch)
        if self.calibration_batches:
            calibration = itertools.islice(self._train_batches, self.calibration_batches)
            recalibrate(self.training.module, (partial(self.training.loss, batch) for batch in calibration))
        return self._mean(self._validation_batches(batches))

    def measure_on(self, arch: Mapping[str, Any], batch: Any) -> float:
        """Value on one batch, normalised with the statistics of that batch."""
        self.supernet.select(arch)
        with batch_statistics():
            return self._mean([batch])

    def _validation_batches(self, count: int | None) -> Iterable[Any]:
        loader = self.training.validation_loader()
        if count is None:
            return map(self.training.on_device, loader)
        if len(self._kept) < count:
            self._kept = list(itertools.islice(loader, count))
        return map(self.training.on_device, self._kept[:count])

    def _mean(self, batches: Iterable[Any]) -> float:
        self.training.module.eval()
        total, count = torch.zeros((), device=self.training.module.device), 0
        with torch.no_grad():
            for batch in batches:
                size = _samples(batch)
                total += size * self._value(batch)
                count += size
        return float(self.training.mean(total / count))

    def _value(self, batch: Any) -> Tensor:
        if self.metric is None:
            return self.training.loss(batch).detach()
        module = self.training.module
        with captured_log(module) as logged, self.training.trainer.precision_plugin.val_step_context():
            module.validation_step(batch, 0)
        if self.metric not in logged:
            raise SpaceError(
                f"metric={self.metric!r} is not what validation_step of {type(module).__name__} logs: "
                f"{quoted(logged)}."
            )
        value = logged[self.metric]
        if isinstance(value, Metric):
            metric, value = value, value.compute()
            metric.reset()
        return torch.as_tensor(value, device=module.device).detach()


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Undo at the end what happens inside to buffers and modes of a module, and to global generators."""
    modes = [(child, child.training) for child in module.modules()]
    with global_generators_kept(), restored(module, []):
        try:
            yield
        finally:
            for child, training in modes:
                child.training = training


def _train_batches(training: Training) -> Iterator[Any]:
    """Training batches over and over, as `training_step` gets them."""
    loader: Any = training.trainer.fit_loop._combined_loader
    for batch, _, _ in cycle(CombinedLoader(loader.iterables, loader._mode)):
        yield training.on_device(batch)


def _samples(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor."""
    sizes = (len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim())
    return next(sizes, 1)
