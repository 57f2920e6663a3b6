"""History: the trials of a search, as strategies see them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..language import Architecture, DecisionSpace
from ._objectives import Objective, fronts, pareto_front
from ._trial import State, Trial


class History:
    """Trials by number, and their scores: more is better, whatever the direction of the objective.

    Args:
        space: decisions of the space searched.
        objectives: at least one.
        trials: known from the start.
    """

    def __init__(
        self, space: DecisionSpace, objectives: Sequence[Objective], trials: Sequence[Trial] = ()
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self._trials: dict[int, Trial] = {}
        self._done: list[Trial] = []
        self._scores: dict[int, tuple[float, ...]] = {}
        self._keys: dict[str, int] = {}
        self._open: dict[int, Trial] = {}
        self._leader: Trial | None = None
        self._counts: Counter[str] = Counter()
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Take in a trial, in place of what was known of it."""
        before = self._trials.get(trial.number)
        self._trials[trial.number] = trial
        self._keys.setdefault(key_of(trial.arch), trial.number)
        self._counts[trial.state] += 1
        if before is not None:
            self._counts[before.state] -= 1
        self._open.pop(trial.number, None)
        if not trial.is_finished:
            self._open[trial.number] = trial
        if trial.state == "done" and (before is None or before.state != "done"):
            self._scores[trial.number] = tuple(o.score(trial.metrics) for o in self.objectives)
            self._done.append(trial)
            if self._leader is None or self._order(trial) < self._order(self._leader):
                self._leader = trial
            if len(self._done) > 1 and self._done[-2].number > trial.number:  # finished out of order
                self._done.sort(key=lambda t: t.number)

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(sorted(self._trials.values(), key=lambda trial: trial.number))

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def __contains__(self, arch: Mapping[str, Any]) -> bool:
        """Whether an architecture was proposed already, in whatever form."""
        return self.find(arch) is not None

    def find(self, arch: Mapping[str, Any]) -> Trial | None:
        """The first trial of an architecture, in whatever form."""
        number = self._keys.get(key_of(self.space.canonical(arch)))
        return None if number is None else self._trials[number]

    @property
    def distinct(self) -> int:
        """How many different architectures were proposed."""
        return len(self._keys)

    @property
    def done(self) -> Sequence[Trial]:
        """Trials that were measured, by number."""
        return self._done

    @property
    def running(self) -> list[Trial]:
        """Trials that are waiting or running, by number."""
        return [self._open[number] for number in sorted(self._open)]

    def count(self, state: State) -> int:
        """How many trials are in a state."""
        return self._counts[state]

    @property
    def leader(self) -> Trial | None:
        """The best measured trial by the objectives in order; None before there is one."""
        return self._leader

    def scores(self, trial: Trial) -> tuple[float, ...]:
        """Score by objective of a measured trial."""
        return self._scores[trial.number]

    def score(self, trial: Trial) -> float:
        """Score of a measured trial by the first objective."""
        return self._scores[trial.number][0]

    def best(self, count: int = 1) -> list[Trial]:
        """The best measured trials, best first, each architecture once.

        With several objectives they come by rank of their Pareto front; inside one, and in all ties, by
        the objectives in order and then by number. What scored NaN comes last.
        """
        if len(self.objectives) == 1:
            ranked = sorted(self._done, key=self._order)
        else:
            ranks = fronts([self._scores[trial.number] for trial in self._done])
            ranked = [t for front in ranks for t in sorted((self._done[i] for i in front), key=self._order)]
        first: dict[str, Trial] = {}
        for trial in ranked:
            first.setdefault(key_of(trial.arch), trial)
        return list(first.values())[:count]

    def pareto(self) -> list[Trial]:
        """Measured trials that no other beats in every objective, by the first objective."""
        scored = [t for t in self._done if not any(math.isinf(x) for x in self._scores[t.number])]
        front = pareto_front([self._scores[trial.number] for trial in scored]) if scored else []
        return sorted((scored[i] for i in front), key=self._order)

    def _order(self, trial: Trial) -> tuple[float, ...]:
        return (*(-score for score in self._scores[trial.number]), trial.number)


def key_of(canonical: Architecture) -> str:
    """One text for one canonical architecture dict."""
    return json.dumps(canonical, sort_keys=True)
