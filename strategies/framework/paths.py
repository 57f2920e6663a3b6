"""The search of path-sampling strategies: one architecture a batch, a ranking at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import lightning.pytorch as pl
import numpy as np
import torch

from spacelang import SpaceError
from spacelang.language import Architecture, DecisionSpace
from spacelang.randomness import numpy_generator_from, torch_generator
from spacelang.supernet import Supernet

from .scoring import Scorer, untouched
from .search import OneShot, OneShotSearch
from .trainer import progress


class PathSearch(OneShotSearch):
    """A search that trains one path of the supernet at a time.

    Before each training batch it selects an architecture, the same on every rank. At the end of training it
    ranks architectures, which leaves weights, buffers, modes and generators as they were, and selects the
    best. Validation during training is of the last path trained.

    Attributes:
        ranking: measured architectures, best first, each `(loss or metric, architecture)`; empty until the
            end of training.
    """

    strategy: PathSampling

    ranking: list[Scored]
    _rng: np.random.Generator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ranking = []

    # -- results -------------------------------------------------------------------------------------

    def derive(self, count: int = 1) -> list[Architecture]:
        """The `count` best architectures of the ranking, best first.

        Raises:
            SpaceError: training has not ended.
        """
        if count < 1:
            raise SpaceError(f"the number of architectures must be at least 1; got {count}.")
        if not self.ranking:
            raise SpaceError(
                f"{type(self.strategy).__name__} compares architectures at the end of training, which it has "
                "not reached; until then none is best."
            )
        return [dict(arch) for _, arch in self.ranking[:count]]

    def summary(self) -> dict[str, Any]:
        """What happened, as plain values for a report; of the ranking the first ten."""
        best = [{"value": value, "architecture": arch} for value, arch in self.ranking[:10]]
        return {**super().summary(), "compared_by": self.strategy.metric or "loss", "ranking": best}

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select a path: a mixture, which a new supernet computes, is beyond some choices."""
        super().on_fit_start(trainer, pl_module)
        self._select_first()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure once, so that what cannot be measured is found out before training."""
        super().on_train_start(trainer, pl_module)
        self.ranking = []
        try:
            with untouched(pl_module):
                self.training.begin_epoch()
                batch = self.training.validation_batch()
                self._scorer().measure_on(self.supernet.decision_space.default(), batch)
        except Exception as error:
            if self.strategy.metric is None:
                error.add_note(
                    f"{type(self.strategy).__name__} compares architectures by the loss of training_step in "
                    "evaluation mode, which failed; metric= and mode= compare by what validation_step logs."
                )
            raise

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed what the epoch draws."""
        super().on_train_epoch_start(trainer, pl_module)
        self._rng = numpy_generator_from(self.moment.generator)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Select the path to train."""
        self.supernet.select(self.sample())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rank architectures."""
        scorer, strategy = self._scorer(), self.strategy
        with untouched(pl_module), progress(trainer, "Comparing", strategy.measurements) as advance:

            def measure(arch: Architecture, batches: int | None = strategy.validation_batches) -> float:
                value = scorer.measure(arch, batches)
                advance()
                return value

            # A last 1, for no epoch is seeded from four numbers.
            generator = torch_generator(self.seed, self.stage, trainer.current_epoch, 1)
            self.ranking = self.rank(measure, generator)
        self._select_first()
        self.training.log({"ranking/best": self.ranking[0][0]})

    def _scorer(self) -> Scorer:
        return Scorer(self.training, self.supernet, self.strategy.metric, self.strategy.calibration_batches)

    def _select_first(self) -> None:
        """Select the best architecture, or while there is none the space's default."""
        self.supernet.select(self.ranking[0][1] if self.ranking else self.supernet.decision_space.default())

    # -- what differs between strategies ---------------------------------------------------------------

    def sample(self) -> Architecture:
        """Architecture for the next training batch."""
        return self.strategy.draw(self.supernet.decision_space, self._rng)

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Measured architectures, best first, at least one."""
        space, rng = self.supernet.decision_space, numpy_generator_from(generator)
        found = self.strategy.rank(space, measure, rng)
        if not found:  # the filter accepts so few that no tried one passed
            arch = self.strategy.draw(space, rng)
            found = [(measure(arch), arch)]
        return found

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ranking besides."""
        return {**super().state_dict(), "ranking": [[value, dict(arch)] for value, arch in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.ranking = [(value, arch) for value, arch in state["ranking"]]
        self._select_first()


Scored: TypeAlias = tuple[float, Architecture]
"""A measured architecture: its mean loss or metric first."""

TRIES = 1000


class Measure(Protocol):
    """Loss or metric of an architecture with the supernet's weights, on `batches` validation batches.

    The number of batches is `PathSampling.validation_batches` where none is given.
    """

    def __call__(self, arch: Architecture, batches: int | None = ..., /) -> float: ...


@dataclass(frozen=True, kw_only=True)
class PathSampling(OneShot):
    """Base of strategies that train one path of the supernet at a time.

    Before each training batch an architecture is drawn, and only its path runs. After training,
    architectures are compared by what they reach with the shared weights, each with batch-norm statistics
    of its own.

    Args:
        metric: what architectures are compared by: a name that the module's `validation_step` logs. None
            is the module's own training loss, in evaluation mode, on validation batches; less is better.
        mode: of `metric`: whether "max" or "min" is best.
        calibration_batches: training batches from which the batch-norm statistics of each compared
            architecture are estimated; 0 keeps those of training, which are of no architecture.
        validation_batches: on which architectures are compared, the same for all; None for all there are.
            A number of batches is kept in memory.
        filter: says of an architecture whether it may be trained and found, such as one that compares its
            parameters with a limit.
    """

    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    calibration_batches: int = 20
    validation_batches: int | None = None
    filter: Callable[[Architecture], bool] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.metric is None) != (self.mode is None) or self.mode not in (None, "max", "min"):
            raise SpaceError(
                f"metric={self.metric!r} and mode={self.mode!r}; a metric needs mode='max' or "
                "mode='min'; without one both are None: the loss is compared, and less is better."
            )
        self.check_integers(0, "calibration_batches")
        if self.validation_batches is not None:
            self.check_integers(1, "validation_batches")

    def check_integers(self, least: int, *names: str) -> None:
        """Raise a `SpaceError` unless these settings are integers of at least `least`."""
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SpaceError(f"{name}={value!r} must be an integer of at least {least}.")

    @property
    def samples_paths(self) -> bool:
        return True

    @property
    def measurements(self) -> int:
        """How often `rank` measures an architecture, at most."""
        raise NotImplementedError(f"{type(self).__name__} must say how often it measures")

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        """Compare architectures; return them best first, without duplicates."""
        raise NotImplementedError(f"{type(self).__name__} must say which architectures it compares")

    def draw(self, space: DecisionSpace, rng: np.random.Generator) -> Architecture:
        """Architecture for a training batch: every decision by its prior, which is uniform by default."""
        return self.accepted(lambda: space.sample(rng))

    def accepted(self, propose: Callable[[], Architecture]) -> Architecture:
        """The first proposal that `filter` accepts.

        Raises:
            SpaceError: it rejected 1,000 in a row.
        """
        for _ in range(TRIES):
            arch = propose()
            if self.filter is None or self.filter(arch):
                return arch
        raise SpaceError(
            f"filter rejected {TRIES} random architectures in a row; loosen it, or narrow the space so that "
            "more of it is accepted."
        )

    def best_first(self, scored: Iterable[Scored]) -> list[Scored]:
        """Sort; what is not a number comes last."""
        sign = -1 if self.mode == "max" else 1
        return sorted(scored, key=lambda pair: (math.isnan(pair[0]), sign * pair[0]))

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self.draw(supernet.decision_space, np.random.default_rng(0))

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> PathSearch:

        return PathSearch(self, supernet, **settings)


class Unseen:
    """Takes proposed architectures that were not taken before.

    Args:
        accepts: `filter` of a strategy.
    """

    def __init__(self, accepts: Callable[[Architecture], bool] | None) -> None:
        self._accepts = accepts
        self._seen: set[str] = set()

    def take(self, count: int, propose: Callable[[], Architecture]) -> list[Architecture]:
        """Up to `count` new architectures out of at most ten times as many proposals."""
        taken: list[Architecture] = []
        for _ in range(10 * count):
            if len(taken) == count:
                break
            arch = propose()
            key = json.dumps(arch, sort_keys=True)
            if key not in self._seen:
                self._seen.add(key)
                if self._accepts is None or self._accepts(arch):
                    taken.append(arch)
        return taken
