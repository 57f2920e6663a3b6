"""Random search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang.trials import Exhausted, History, Proposal

from .stateless import Stateless, require_untried


@dataclass(frozen=True, kw_only=True)
class Random(Stateless):
    """Draw architectures from the space, every candidate by its prior.

    Args:
        distinct: Whether no architecture is tried twice.
    """

    distinct: bool = True

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        if not self.distinct:
            return Proposal(history.space.sample(rng))
        return Proposal(new_sample(history, rng))


_TRIES = 1000


def new_sample(history: History, rng: np.random.Generator) -> dict[str, object]:
    """Return a random architecture that was not tried.

    Raises:
        Exhausted: every architecture was tried, or none of 1,000 draws was new.
    """
    require_untried(history)
    for _ in range(_TRIES):
        arch = history.space.sample(rng)
        if arch not in history:
            return arch
    raise Exhausted(f"none of {_TRIES} random architectures was new; {history.distinct} were tried")
