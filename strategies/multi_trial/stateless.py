"""Strategies without state, and helpers that read the history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from spacelang import ModelSpace
from spacelang.arguments import KnownArguments
from spacelang.trials import Exhausted, History, Proposal


class Stateless(KnownArguments, ABC):
    """Base of strategies that need nothing but their settings: one object serves any number of searches."""

    def start(self, space: ModelSpace) -> Self:
        """Begin a search."""
        return self

    @abstractmethod
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """Return the next proposal; see `spacelang.trials.Proposer`."""


def require_untried(history: History) -> None:
    """Raise if there is nothing left to try.

    Raises:
        Exhausted: every architecture of the space was tried.
    """
    if history.distinct >= history.space.bound:
        raise Exhausted(f"all {history.distinct:,} architectures of the space were tried")


def drawn_once(name: str, history: History, rng: np.random.Generator) -> int:
    """Return a number that the first proposal of a search draws and later ones repeat.

    Every proposal keeps it in its note as `name`, where a resumed search finds it.
    """
    notes = (history[number].note for number in range(len(history)))
    return next((int(note[name]) for note in notes if name in note), int(rng.integers(2**32)))
