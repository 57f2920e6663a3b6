"""Strategies that know only the history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from spacelang import ModelSpace
from spacelang.trials import History, Proposal


class Stateless(ABC):
    """Base of strategies whose settings are all they need: one object serves any number of searches."""

    def start(self, space: ModelSpace) -> Self:
        """Begin a search."""
        return self

    @abstractmethod
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """What to try next, see `spacelang.trials.Proposer`."""
