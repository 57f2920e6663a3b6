"""Early stops: extras that end a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_all, require_integer, require_number
from spacelang.supernet import Supernet

from ..framework import (
    GradientSearch,
    LogitsExtra,
    OneShot,
    count_skips,
    no_such_skips,
    operations,
    skips_of_cells,
    validation_eigenvalue,
)


@dataclass(frozen=True)
class StopOnSkips(LogitsExtra):
    """A stop when the derived architecture has more than `most` skip connections in a cell.

    A candidate is a skip connection if its name contains "skip" or if it is an `nn.Identity`. Epochs that
    train weights alone are not judged.

    Args:
        most: Most skip connections of a cell that are still good.
        cells: Shell-style pattern of the labels of the cells to count in, each by itself.

    Source: DARTS+, Liang et al. 2019, arXiv:1909.06035, criterion 1.
    """

    most: int = 1
    cells: str = "normal*"

    def __post_init__(self) -> None:
        require_integer("most", self.most, least=0)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        if not skips_of_cells(supernet, self.cells):
            raise no_such_skips(supernet, self.cells, "StopOnSkips counts skip connections in cells")

    def epoch_end(self, search: GradientSearch) -> None:
        if search.moment.epoch < search.strategy.warmup_epochs:
            return
        supernet = search.supernet
        counts = count_skips(supernet, skips_of_cells(supernet, self.cells), search.derive()[0])
        for label, count in counts.items():
            if count > self.most:
                search.stop(
                    f"cell {label!r} has {count} skip connections after epoch {search.moment.epoch}; "
                    f"StopOnSkips allows {self.most}"
                )
                return


@dataclass(frozen=True)
class StopOnStableRanking(LogitsExtra):
    """A stop when the ranking of the learnable operations has not changed on any edge for some epochs.

    Learnable is an operation with weights. Layer choices count like edges. Epochs that train weights alone
    do not count.

    Args:
        epochs: Number of epochs without change; the default is not checked against the paper.

    Source: DARTS+, Liang et al. 2019, arXiv:1909.06035, criterion 1*.
    """

    epochs: int = 10

    def __post_init__(self) -> None:
        require_integer("epochs", self.epochs, least=1)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        if not any(len(columns) > 1 for row in _learnable(supernet).values() for columns in row):
            raise SpaceError(
                "StopOnStableRanking ranks operations with weights, but no edge or layer choice of this "
                "space has two of them."
            )

    def epoch_end(self, search: GradientSearch) -> None:
        learnable = _learnable(search.supernet)
        learnt = {label: search.history[label][search.strategy.warmup_epochs :] for label in learnable}
        if all(is_stable(learnt[label], rows, self.epochs) for label, rows in learnable.items()):
            search.stop(f"the ranking of operations with weights did not change for {self.epochs} epochs")


def is_stable(tables: Sequence[Tensor], rows: Sequence[Sequence[int]], epochs: int) -> bool:
    """Return whether the ranking of some columns of each row is the same in the last `epochs + 1` tables."""
    if len(tables) <= epochs:
        return False
    rankings = [
        [sorted(columns, key=lambda k: -float(row[k])) for row, columns in zip(table, rows, strict=True)]
        for table in tables[-epochs - 1 :]
    ]
    return all(ranking == rankings[0] for ranking in rankings)


def _learnable(supernet: Supernet) -> Mapping[str, list[list[int]]]:
    """Return the columns of operations with weights in each row of a cell or layer choice, by label."""
    return {
        label: [
            [k for k, modules in enumerate(row) if any(list(m.parameters()) for m in modules)]
            for row in table
        ]
        for label, table in operations(supernet).items()
    }


@dataclass(frozen=True, kw_only=True)
class OnEigenvalue(LogitsExtra):
    """Base of extras that act when the curvature of the validation loss in the logits grows.

    It measures the largest eigenvalue of the Hessian (see `Monitor`) and averages it over `window`
    neighbouring measurements. It has grown when an average is more than `factor` times the one `distance`
    measurements before it.

    Args:
        every: Epochs between measurements.
        window: Measurements in an average, centred; odd.
        distance: Measurements between the averages compared.
        factor: Largest growth that is still good.
        first_epoch: Earliest epoch, from 0, that the earlier average may belong to.
    """

    every: int = 2
    window: int = 5
    distance: int = 4
    factor: float = 1.3
    first_epoch: int = 10

    def __post_init__(self) -> None:
        require_all(require_integer, self, "every", "window", "distance", least=1)
        require_integer("first_epoch", self.first_epoch, least=0)
        require_number("factor", self.factor, above=0)
        if self.window % 2 == 0:
            raise SpaceError(f"window={self.window} must be odd: an average has a middle.")

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        others = [
            extra
            for extra in strategy.extras_of(0)
            if extra != self and (isinstance(extra, OnEigenvalue) or getattr(extra, "eigenvalue", False))
        ]
        if others:
            raise SpaceError(
                f"{type(self).__name__} records the eigenvalue already, and so does {others[0]!r}; leave it "
                "out, or combine with Monitor()."
            )

    def epoch_end(self, search: GradientSearch) -> None:
        if search.moment.epoch % self.every:
            return
        search.record("eigenvalue", validation_eigenvalue(search))
        averages = local_averages(search.records["eigenvalue"], self.window)
        earlier = len(averages) - 1 - self.distance
        if earlier < 0 or earlier * self.every < self.first_epoch:
            return
        now, before = averages[-1], averages[earlier]
        if before > 0 and now / before > self.factor:
            growth = f"the largest eigenvalue grew from {before:.4g} to {now:.4g}, by more than {self.factor}"
            self.grown(search, earlier * self.every, growth)

    def grown(self, search: GradientSearch, since: int, growth: str) -> None:
        """Act when the curvature has grown.

        Args:
            search: The search.
            since: Epoch of the earlier average.
            growth: Clause that says what has grown.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what to do")


@dataclass(frozen=True, kw_only=True)
class StopOnEigenvalue(OnEigenvalue):
    """A stop when the curvature of the validation loss in the logits grows, and a return to before it grew.

    Derived is the architecture of the epoch of the earlier average. See `OnEigenvalue`.

    Source: R-DARTS, Zela et al. 2020, arXiv:1909.09656, section 4.3, as in the authors' code.
    """

    def grown(self, search: GradientSearch, since: int, growth: str) -> None:
        search.return_to(since)
        search.stop(f"{growth}, since epoch {since}, whose architecture is derived")


@dataclass(frozen=True, kw_only=True)
class RaiseWeightDecay(OnEigenvalue):
    """A larger weight decay of the weights whenever the curvature grows, in place of a stop.

    Every weight decay of the optimisers that is above 0 is multiplied, and the search goes on with the
    weights, logits and learning-rate schedule it has (the authors begin the cosine again). It may be raised
    again after the next measurement. `search.records["weight_decay"]` has the largest one of each epoch.

    Args:
        raised_by: Factor of the weight decay.
        most: Largest weight decay; when all have it, nothing happens any more.

    Source: R-DARTS, Zela et al. 2020, arXiv:1909.09656, as in the authors' code.
    """

    raised_by: float = 10.0
    most: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("raised_by", self.raised_by, above=1)
        require_number("most", self.most, above=0)

    def epoch_start(self, search: GradientSearch) -> None:
        if not any(group["weight_decay"] for group in _decaying(search)):
            raise SpaceError(
                f"{type(self).__name__} multiplies the weight decay of the optimizers, and none has any; set "
                "weight_decay=3e-4 in configure_optimizers, for example."
            )

    def epoch_end(self, search: GradientSearch) -> None:
        search.record("weight_decay", max(group["weight_decay"] for group in _decaying(search)))
        super().epoch_end(search)

    def grown(self, search: GradientSearch, since: int, growth: str) -> None:
        for group in _decaying(search):
            if 0 < group["weight_decay"] < self.most:
                group["weight_decay"] = min(group["weight_decay"] * self.raised_by, self.most)


def _decaying(search: GradientSearch) -> list[dict[str, Any]]:
    """Return the parameter groups of optimisers that have a weight decay."""
    groups = (group for optimizer in search.training.trainer.optimizers for group in optimizer.param_groups)
    return [group for group in groups if "weight_decay" in group]


def local_averages(values: Sequence[float], window: int) -> list[float]:
    """Return means over a centred window, cut off at the start; the last values are not yet centres."""
    half = window // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values) - half)]
    return [sum(window) / len(window) for window in windows]
