"""The search of path-sampling strategies: one architecture a batch, a ranking at the end."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from spacelang import SpaceError
from spacelang.language import Architecture

from ._path_sampling import Measure, PathSampling, Scored
from ._progress import progress
from ._scoring import Scorer, untouched
from ._search import OneShotSearch, generator_from


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
                self._training.begin_epoch()
                batch = self._training.validation_batch()
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
        self._rng = _numpy_generator(self.moment.generator)

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
            generator = generator_from(self._seed, self.stage, trainer.current_epoch, 1)
            self.ranking = self.rank(measure, generator)
        self._select_first()
        self._training.log({"ranking/best": self.ranking[0][0]})

    def _scorer(self) -> Scorer:
        return Scorer(self._training, self.supernet, self.strategy.metric, self.strategy.calibration_batches)

    def _select_first(self) -> None:
        """Select the best architecture, or while there is none the space's default."""
        self.supernet.select(self.ranking[0][1] if self.ranking else self.supernet.decision_space.default())

    # -- what differs between strategies ---------------------------------------------------------------

    def sample(self) -> Architecture:
        """Architecture for the next training batch."""
        return self.strategy.draw(self.supernet.decision_space, self._rng)

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Measured architectures, best first, at least one."""
        space, rng = self.supernet.decision_space, _numpy_generator(generator)
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


def _numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A generator of NumPy seeded by a draw from one of torch."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
