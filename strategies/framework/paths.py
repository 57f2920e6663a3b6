"""Path-sampling strategies and their search: one architecture a batch, a ranking at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch

from spacelang import SpaceError
from spacelang.errors import DivergenceError, require_integer
from spacelang.language import Architecture, DecisionSpace
from spacelang.randomness import numpy_generator_from, torch_generator
from spacelang.supernet import Supernet

from .reward import CostReward
from .search import OneShot, OneShotSearch, Scored
from .trainer import progress

TRIES = 1000


class Measure(Protocol):
    """Measures an architecture with the supernet's weights."""

    def __call__(self, arch: Architecture, batches: int | None = ..., /) -> float:
        """Return the loss or metric on `batches` validation batches; by default on `validation_batches`."""
        ...


@dataclass(frozen=True, kw_only=True)
class PathSampling(OneShot):
    """Base of strategies that train one path of the supernet at a time.

    Before each training batch an architecture is drawn, and only its path runs. After training,
    architectures are compared by what they reach with the shared weights, each with batch-norm statistics
    of its own.

    Args:
        calibration_batches: Training batches from which the batch-norm statistics of each compared
            architecture are estimated; 0 keeps those of training, which belong to no architecture.
        validation_batches: Number of validation batches on which all architectures are compared; they are
            kept in memory. None for all batches.
        filter: Function that returns whether an architecture may be trained and found: it may compare its
            parameters with a limit, for example.
        reward: Trade of quality for cost by which architectures are compared, more is better; None for the
            metric or the loss alone.
    """

    calibration_batches: int = 20
    validation_batches: int | None = None
    filter: Callable[[Architecture], bool] | None = None
    reward: CostReward | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("calibration_batches", self.calibration_batches, least=0)
        require_integer("validation_batches", self.validation_batches, least=1, optional=True)
        if self.reward is not None and not isinstance(self.reward, CostReward):
            raise SpaceError(f"reward={self.reward!r} must be a CostReward: CostReward('params', 1e6).")
        if self.reward is not None and self.mode == "min":
            raise SpaceError(
                f"reward needs a metric of which more is better, and {self.metric!r} has mode='min'; "
                "set another metric, or none: exp(-loss) is then the quality."
            )

    def best_first(self, scored: Iterable[Scored]) -> list[Scored]:
        """Sort by the reward, the metric or the loss; NaN comes last."""
        if self.reward is None:
            return super().best_first(scored)
        return sorted(scored, key=lambda pair: (math.isnan(pair[0]), -pair[0]))

    @property
    def samples_paths(self) -> bool:
        return True

    @property
    def measurements(self) -> int:
        """Largest number of measurements that `rank` makes."""
        raise NotImplementedError(f"{type(self).__name__} must say how often it measures")

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        """Compare architectures; return them best first, without duplicates."""
        raise NotImplementedError(f"{type(self).__name__} must say which architectures it compares")

    def draw(self, space: DecisionSpace, rng: np.random.Generator) -> Architecture:
        """Return an architecture to train, with every decision drawn by its prior (uniform by default)."""
        return self.accepted(lambda: space.sample(rng))

    def accepted(self, propose: Callable[[], Architecture]) -> Architecture:
        """Return the first proposal that `filter` accepts.

        Raises:
            SpaceError: `filter` rejected 1,000 proposals in a row.
        """
        for _ in range(TRIES):
            arch = propose()
            if self.filter is None or self.filter(arch):
                return arch
        raise SpaceError(
            f"filter rejected {TRIES} random architectures in a row; loosen it, or narrow the space so that "
            "more of it is accepted."
        )

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self.draw(supernet.decision_space, np.random.default_rng(0))

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> PathSearch:
        return PathSearch(self, supernet, **settings)


class PathSearch(OneShotSearch):
    """A search that trains one path of the supernet at a time.

    Before each training batch it selects an architecture, the same on every rank. At the end of training it
    ranks architectures, which leaves weights, buffers, modes and generators as they were, and selects the
    best. Validation during training measures the path trained last.

    Attributes:
        ranking: Measured architectures, best first; empty until the end of training.
        rng: Generator for the paths of the present epoch.
    """

    strategy: PathSampling

    ranking: list[Scored]
    rng: np.random.Generator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ranking = []
        reward = self.strategy.reward
        self._cost = None if reward is None else reward.cost(self.supernet)

    # -- results -------------------------------------------------------------------------------------

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures of the ranking, best first.

        Raises:
            SpaceError: training has not ended.
        """
        require_integer("count", count, least=1)
        if not self.ranking:
            raise SpaceError(
                f"{type(self.strategy).__name__} compares architectures at the end of training, which it has "
                "not reached; until then none is best."
            )
        return [dict(arch) for _, arch in self.ranking[:count]]

    def summary(self) -> dict[str, Any]:
        """Return plain values for a report, with the first ten of the ranking."""
        best = [{"value": value, "architecture": arch} for value, arch in self.ranking[:10]]
        return {**super().summary(), "compared_by": self._compared_by, "ranking": best}

    @property
    def _compared_by(self) -> str:
        value = self.strategy.metric or "loss"
        return value if self.strategy.reward is None else f"{value} and cost"

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select a path: a new supernet computes a mixture, and some choices cannot."""
        super().on_fit_start(trainer, pl_module)
        self._select_first()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure once, so that a metric that cannot be measured is found before training."""
        super().on_train_start(trainer, pl_module)
        self.ranking = []
        try:
            with self.scorer() as scorer:
                self.training.begin_epoch()
                self.supernet.select(self.supernet.decision_space.default())
                value = scorer.measure_on(self.training.validation_batch())
        except Exception as error:
            if self.strategy.metric is None:
                error.add_note(
                    f"{type(self.strategy).__name__} compares architectures by the loss of training_step in "
                    "evaluation mode, which failed; set metric= and mode= to compare by a metric that "
                    "validation_step logs."
                )
            raise
        if self.strategy.metric is None and not math.isfinite(value):
            raise DivergenceError(
                f"Before any training the loss on the first validation batch is {value}, so architectures "
                "cannot be compared by it; look at the validation data and at the loss."
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the paths of the epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        self.rng = numpy_generator_from(self.moment.generator)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Select the path to train."""
        self.supernet.select(self.sample(), exact=False)

    def conclude(self) -> None:
        """Rank architectures."""
        strategy, trainer = self.strategy, self.training.trainer
        with (
            self.scorer(strategy.calibration_batches) as scorer,
            progress(trainer, "Comparing", strategy.measurements) as advance,
        ):

            def measure(arch: Architecture, batches: int | None = strategy.validation_batches) -> float:
                value = scorer.measure_architecture(arch, batches)
                advance()
                return value if self._cost is None else self.worth(value, arch)

            # A last 1: epochs are seeded from three numbers.
            generator = torch_generator(self.seed, self.stage, trainer.current_epoch, 1)
            ranking = self.rank(measure, generator)
        if math.isnan(ranking[0][0]):  # the best: NaN comes last
            raise DivergenceError(
                f"None of {len(ranking)} architectures could be compared: the {strategy.metric or 'loss'} of "
                "each is NaN. Look at the validation data."
            )
        self.ranking = ranking
        self._select_first()
        self.training.log({"ranking/best": self.ranking[0][0]})

    def _select_first(self) -> None:
        """Select the best architecture, or the space's default while there is no ranking."""
        self.supernet.select(self.ranking[0][1] if self.ranking else self.supernet.decision_space.default())

    def worth(self, value: float, arch: Architecture) -> float:
        """Return the reward of an architecture: its quality, traded for its cost where the strategy says so.

        Args:
            value: Its metric, or its loss where the strategy has no metric.
            arch: The architecture.
        """
        strategy = self.strategy
        if strategy.metric is None:
            quality = math.exp(-value)
        else:
            quality = value if strategy.mode == "max" else -value
        if strategy.reward is None or self._cost is None:
            return quality
        return strategy.reward.worth(quality, self._cost(arch))

    # -- what differs between strategies ---------------------------------------------------------------

    def sample(self) -> Architecture:
        """Return an architecture for the next training batch."""
        return self.strategy.draw(self.supernet.decision_space, self.rng)

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Return measured architectures, best first, at least one."""
        space, rng = self.supernet.decision_space, numpy_generator_from(generator)
        found = self.strategy.rank(space, measure, rng)
        if not found:  # the filter accepts so few that it rejected all that were tried
            arch = self.strategy.draw(space, rng)
            found = [(measure(arch), arch)]
        return found

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the ranking."""
        return {**super().state_dict(), "ranking": [[value, dict(arch)] for value, arch in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.ranking = [(value, arch) for value, arch in state["ranking"]]
        self._select_first()


class Unseen:
    """Collects proposed architectures, each once.

    Args:
        accepts: A strategy's `filter`.
    """

    def __init__(self, accepts: Callable[[Architecture], bool] | None) -> None:
        self._accepts = accepts
        self._seen: set[str] = set()

    def take(self, count: int, propose: Callable[[], Architecture]) -> list[Architecture]:
        """Return up to `count` new architectures out of at most ten times as many proposals."""
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
