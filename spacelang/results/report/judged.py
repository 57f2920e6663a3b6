"""Trials of a search as reports read them; `spacelang.trials.History` is such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...language import DecisionSpace
from ...trials.objectives import Objective
from ...trials.trial import State, Trial


class Judged(Protocol):
    """Trials by number and their order; for each method see `History`, which imports this package."""

    @property
    def objectives(self) -> Sequence[Objective]:
        """Objectives, at least one."""
        ...

    @property
    def space(self) -> DecisionSpace:
        """Decisions of the space."""
        ...

    @property
    def done(self) -> Sequence[Trial]:
        """Trials that were measured."""
        ...

    @property
    def failed(self) -> Sequence[Trial]:
        """Trials that failed."""
        ...

    @property
    def measured(self) -> int:
        """Number of trials whose objectives are all numbers."""
        ...

    @property
    def best_trial(self) -> Trial | None:
        """The best trial."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Trial]: ...

    def count(self, state: State) -> int:
        """Return how many trials are in a state."""
        ...

    def has_scores(self, trial: Trial) -> bool:
        """Return whether every objective of a trial is a number."""
        ...

    def score(self, trial: Trial) -> float:
        """Return the score by the first objective; more is better."""
        ...

    def scores(self, trial: Trial) -> tuple[float, ...]:
        """Return the scores, one for each objective."""
        ...

    def ranked(self, count: int | None = None) -> list[Trial]:
        """Return a trial of each architecture, best first."""
        ...

    def pareto(self) -> list[Trial]:
        """Return the trials that no other dominates."""
        ...
