"""What a multi-trial strategy is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from ..language import Space
from .history import History
from .trial import Proposal, Trial


class Exhausted(Exception):
    """A strategy has nothing new to propose; the message says why."""


class Proposer(Protocol):
    """One search of a strategy, from which proposals are asked.

    All it knows comes from the history, so that a search is resumed by replaying it: whatever it keeps
    between calls must be what a new proposer would work out from the same history.
    """

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """What to try next.

        Args:
            history: every trial so far; with parallel workers some are still running.
            rng: for everything random; seeded from the search's seed and the number of the trial.

        Raises:
            Exhausted: there is nothing new to propose.
        """
        ...


@runtime_checkable
class MultiTrialStrategy(Protocol):
    """A strategy that proposes architectures to be tried."""

    def start(self, space: Space) -> Proposer:
        """Begin a search.

        Raises:
            SpaceError: this strategy cannot search this space.
        """
        ...


@runtime_checkable
class Stopper(Protocol):
    """A proposer that also ends trials early."""

    def goes_on(self, trial: Trial, history: History) -> bool:
        """Whether a running trial, whose `reports` are up to date, is worth going on with."""
        ...
