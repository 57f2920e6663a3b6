"""Protocols of multi-trial strategies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import SpaceError, short
from ..language import Space
from .history import History
from .trial import Proposal, Trial


class Exhausted(Exception):
    """A strategy has nothing new to propose; the message says why."""


class Proposer(Protocol):
    """One search of a strategy, which is asked for proposals.

    It knows only the history, so a search resumes by replaying it: a new proposer must be able to work out
    from the same history whatever this one keeps between calls.
    """

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """Return what to try next.

        Args:
            history: Every trial so far; with parallel workers some are still running.
            rng: Generator for every random draw, seeded by the search's seed and the trial's number.

        Raises:
            Exhausted: There is nothing new to propose.
        """
        ...


def require_proposal(proposer: Proposer, found: object) -> None:
    """Raise a `SpaceError` unless `found`, which a proposer was asked for, is a `Proposal`."""
    if not isinstance(found, Proposal):
        given = "an architecture dict" if isinstance(found, dict) else short(found)
        raise SpaceError(
            f"{type(proposer).__name__}.ask returned {given}; expected a Proposal: return Proposal(arch) "
            "(`from spacelang.trials import Proposal`)."
        )


@runtime_checkable
class MultiTrialStrategy(Protocol):
    """A strategy that proposes architectures to try.

    One whose searches end by themselves has an attribute `has_end` that is true. The others end when every
    architecture was tried, so they need a budget in a large space.
    """

    def start(self, space: Any) -> Proposer:
        """Begin a search of a `ModelSpace`.

        Raises:
            SpaceError: The strategy cannot search this space.
        """
        ...


@runtime_checkable
class Stopper(Protocol):
    """A proposer that also ends trials early."""

    def goes_on(self, trial: Trial, history: History) -> bool:
        """Return whether a running trial, whose `reports` are up to date, should continue."""
        ...


def unused_features(strategy: MultiTrialStrategy, space: Space) -> list[str]:
    """Return sentences on defining features of a strategy that a space leaves without effect.

    They come from the strategy's own method `unused_features(space)`, if it has one.
    """
    find: Callable[[Space], list[str]] = getattr(strategy, "unused_features", lambda space: [])
    return find(space)


def warn_of_unused_features(strategy: MultiTrialStrategy, space: Space) -> None:
    """Warn of each of the `unused_features`."""
    for sentence in unused_features(strategy, space):
        warnings.warn(f"{type(strategy).__name__}: {sentence}", stacklevel=2)
