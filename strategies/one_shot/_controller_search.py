"""The search of ENAS: paths drawn by a controller, which learns between epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from spacelang import SpaceError
from spacelang.language import Architecture

from .._framework._path_sampling import TRIES, Measure, Scored, Unseen
from .._framework._path_search import PathSearch
from .._framework._scoring import Scorer, untouched
from .._framework._search import generator_from
from ._controller import Sample

if TYPE_CHECKING:
    from .enas import ENAS


class Baseline:
    """Moving average of rewards, b <- b - (1 - d)(b - R).

    Args:
        decay: d.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value = 0.0

    def advantage(self, reward: float) -> float:
        """Move the average, then return R - b."""
        self.value -= (1 - self.decay) * (self.value - reward)
        return reward - self.value


class ControllerSearch(PathSearch):
    """A path search whose architectures a controller draws.

    The controller lives on the CPU; rewards are means over processes, so it is the same on every rank.

    Attributes:
        controller: the LSTM.
        baseline: of its rewards.
    """

    strategy: ENAS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        strategy = self.strategy
        self.controller = strategy.controller(self.supernet, generator_from(self._seed, self.stage))
        self.optimizer = torch.optim.Adam(
            self.controller.parameters(), lr=strategy.learning_rate, betas=strategy.betas, eps=strategy.eps
        )
        self.baseline = Baseline(strategy.baseline_decay)

    def sample(self) -> Architecture:
        """Architecture for the next training batch."""
        return self._drawn(self.moment.generator)

    def rank(self, measure: Measure, generator: torch.Generator) -> list[Scored]:
        """Compare architectures drawn from the controller."""
        drawn = Unseen(None).take(self.strategy.candidates, lambda: self._drawn(generator))
        return self.strategy.best_first((measure(arch), arch) for arch in drawn)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train the controller, then let the extras act."""
        scorer = self._scorer()
        with untouched(pl_module), torch.enable_grad():
            rewards = [self._step(scorer) for _ in range(self.strategy.controller_steps)]
        self.record("reward", sum(rewards) / len(rewards))
        super().on_train_epoch_end(trainer, pl_module)

    def _step(self, scorer: Scorer) -> float:
        """One step of the controller; returns the mean reward."""
        strategy, rewards = self.strategy, []
        self.optimizer.zero_grad()
        for _ in range(strategy.samples):
            sample = self._draw(self.moment.generator)
            reward = self._reward(scorer, sample.arch)
            rewards.append(reward)
            if math.isfinite(reward):  # from what is not a number nothing can be learnt
                advantage = self.baseline.advantage(reward + strategy.entropy_weight * sample.entropy)
                loss = -sample.log_prob * advantage + strategy.skip_weight * sample.skip_divergence
                torch.autograd.backward(loss / strategy.samples)
        self.optimizer.step()
        return sum(rewards) / len(rewards)

    def _reward(self, scorer: Scorer, arch: Architecture) -> float:
        value = scorer.measure_on(arch, self._training.validation_batch())
        if self.strategy.metric is None:
            return math.exp(-value)
        return value if self.strategy.mode == "max" else -value

    def _drawn(self, generator: torch.Generator) -> Architecture:
        with torch.no_grad():
            return self.supernet.decision_space.canonical(self._draw(generator).arch)

    def _draw(self, generator: torch.Generator) -> Sample:
        """A sample that satisfies the constraints and the filter.

        How likely a draw is to be accepted is left out of the gradient: a term that is proportional to the
        expectation of R - b, which the baseline brings near zero.
        """
        space, accepts = self.supernet.decision_space, self.strategy.filter
        for _ in range(TRIES):
            sample = self.controller.sample(generator)
            if not space.unfit(sample.arch) and (accepts is None or accepts(space.canonical(sample.arch))):
                return sample
        raise SpaceError(
            f"{TRIES} draws of the controller in a row broke a constraint of the space or were rejected by "
            "filter; loosen it, or narrow the space so that more of it is allowed."
        )

    def state_dict(self) -> dict[str, Any]:
        """Controller, its moments and the baseline besides."""
        return {
            **super().state_dict(),
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline.value = state["baseline"]
