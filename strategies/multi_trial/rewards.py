"""Searches whose controller learns from the rewards of its trials, batch by batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacelang.arguments import KnownArguments
from spacelang.errors import require_integer, require_number
from spacelang.language import Architecture, DecisionSpace
from spacelang.trials import History, Proposal, Trial

from .stateless import drawn_once, require_untried


@dataclass(frozen=True, kw_only=True)
class RewardSettings(KnownArguments):
    """Rewards of trials, and how a controller learns from them.

    Args:
        batch: Number of trials after which the controller learns.
        learning_rate: Adam's learning rate.
        reward: Reward from a score, for which more is better; None for the score itself.
        reward_for_invalid: Reward of trials that failed, gave NaN or broke a limit; None learns nothing from
            them. It should lie below the rewards of others.
    """

    batch: int = 20
    learning_rate: float = 3.5e-4
    reward: Callable[[float], float] | None = None
    reward_for_invalid: float | None = None

    def __post_init__(self) -> None:
        require_integer("batch", self.batch, least=1)
        require_number("learning_rate", self.learning_rate, above=0)
        require_number("reward_for_invalid", self.reward_for_invalid, optional=True)

    def reward_of(self, trial: Trial, history: History) -> float | None:
        """Return the reward of a finished trial; None where it teaches nothing."""
        if trial.state == "done" and math.isfinite(history.score(trial)):
            return float((self.reward or float)(history.score(trial)))
        return self.reward_for_invalid


class Learner(ABC):
    """A controller that learns from each batch of trials once all of them have ended, in order.

    A new one learns again from the same batches, so it reaches the same state. So there is nothing to
    distribute: each process that proposes has a controller of its own, and all of them are the same.

    Args:
        settings: Rewards and the size of a batch.
        first: Number of the first trial of the first batch.
    """

    def __init__(self, settings: RewardSettings, first: int = 0) -> None:
        self._settings = settings
        self._next = first

    def learn(self, history: History) -> None:
        """Learn from every batch that has ended and was not learnt from."""
        while len(history) - self._next >= self._settings.batch:
            trials = [history[self._next + k] for k in range(self._settings.batch)]
            if not all(trial.is_finished for trial in trials):
                return
            rewards = [self._settings.reward_of(trial, history) for trial in trials]
            pairs = [
                (trial, reward)
                for trial, reward in zip(trials, rewards, strict=True)
                if "draws" in trial.note and reward is not None
            ]
            if pairs:
                self.learn_from(*zip(*pairs, strict=True))
            self._next += self._settings.batch

    @abstractmethod
    def learn_from(self, trials: Sequence[Trial], rewards: Sequence[float]) -> None:
        """Take the steps of one batch.

        Args:
            trials: Trials with a reward, at least one; their notes have the draws that made them.
            rewards: Reward of each.
        """


class Policy(Learner):
    """A controller that draws every architecture by itself.

    Attributes:
        seed: Seeds its first weights.
    """

    seed: int

    @abstractmethod
    def propose(self, number: int, rng: np.random.Generator) -> tuple[Architecture, dict[str, Any]]:
        """Return the architecture of a trial, and a note that has its "draws".

        Args:
            number: Number of the trial.
            rng: Generator for the draws.
        """


class ControllerSearch:
    """A search whose controller learns from the history; notes have its seed, so that it can be made again.

    Args:
        make: Function from the space and a seed to a new controller.
    """

    def __init__(self, make: Callable[[DecisionSpace, int], Policy]) -> None:
        self._make = make
        self._policy: Policy | None = None

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        seed = drawn_once("controller", history, rng)
        if self._policy is None or self._policy.seed != seed:
            self._policy = self._make(history.space, seed)
        self._policy.learn(history)
        arch, note = self._policy.propose(len(history), rng)
        return Proposal(arch, note={"controller": seed, **note})
