"""Trials of a search, as strategies see them."""

from __future__ import annotations

import json
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import SpaceError
from ..language import Architecture, DecisionSpace
from .objectives import Objective, dominates, fronts, pareto_front
from .trial import State, Trial

_NONE: Mapping[str, Any] = MappingProxyType({})
_IN_FRONTS = 100  # trials at least, in the first fronts that are kept
_Front: TypeAlias = dict[str, tuple[float, ...]]  # scores by architecture


class History:
    """Trials by number, with scores in which more is better, whatever the direction of the objective.

    A measured trial is a result if its architecture belongs to the space. One with other constructor
    arguments may not belong: a cell of fewer nodes.

    `best_trial` is one trial, the best result. `ranked` and `pareto` compare architectures, each by its most
    telling trials: those without other constructor arguments, and of these those with the most epochs. Where
    several remain, such as repetitions, the mean of each metric counts: the architecture's best trial is
    returned with these means as its metrics.

    Args:
        space: Decisions of the space that is searched.
        objectives: Objectives, at least one.
        trials: Trials known from the start.
        rebuilt: Returns the decisions of the space with other constructor arguments, for trials that have
            `overrides`.
    """

    def __init__(
        self,
        space: DecisionSpace,
        objectives: Sequence[Objective],
        trials: Sequence[Trial] = (),
        *,
        rebuilt: Callable[[Mapping[str, Any]], DecisionSpace] | None = None,
    ) -> None:
        self.space = space
        self._rebuilt = rebuilt
        self.objectives = tuple(objectives)
        self._trials: dict[int, Trial] = {}
        self._done: list[Trial] = []
        self._groups: dict[str, list[Trial]] = {}  # results by their architectures
        self._failed: list[Trial] = []
        self._measured = 0
        self._scores: dict[int, tuple[float, ...]] = {}
        self._keys: dict[str, int] = {}
        self._distinct = 0
        self._open: dict[int, Trial] = {}
        self._best: Trial | None = None
        self._standing = _Standing(self._order, self.scores)
        self._changed: dict[str, None] = {}  # architectures with results that are not in the standing yet
        self._counts: Counter[str] = Counter()
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Add a trial, or replace what was known of it."""
        before = self._trials.get(trial.number)
        self._trials[trial.number] = trial
        key = key_of(trial.arch, trial.overrides)
        if key not in self._keys:
            self._keys[key] = trial.number
            self._distinct += not trial.overrides
        self._counts[trial.state] += 1
        if before is not None:
            self._counts[before.state] -= 1
        self._open.pop(trial.number, None)
        if not trial.is_finished:
            self._open[trial.number] = trial
        had_failed = before is not None and before.state == "failed"
        if trial.state == "failed" and not had_failed:
            _insert(self._failed, trial)
        elif had_failed and trial.state != "failed":  # it is tried again
            self._failed = [known for known in self._failed if known.number != trial.number]
        if trial.state == "done" and (before is None or before.state != "done"):
            self._scores[trial.number] = self._rate(trial)
            _insert(self._done, trial)
            self._measured += self.has_scores(trial)
            if not trial.overrides or not self.space.problems(trial.arch):
                _insert(self._groups.setdefault(key_of(trial.arch), []), trial)
                self._changed[key_of(trial.arch)] = None
                better = self._best is None or self._order(trial) < self._order(self._best)
                if better and self.has_scores(trial):
                    self._best = trial

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(sorted(self._trials.values(), key=lambda trial: trial.number))

    def _repr_html_(self) -> str:
        from ..results.report.page import history_html  # late: a search needs no pages

        return history_html(self)

    def _repr_svg_(self) -> str | None:
        from ..results.painting.svg_painter import svg_of
        from ..results.report.trial_charts import progress

        scene = progress(self, None)
        return None if scene is None else svg_of(scene)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def __contains__(self, arch: Mapping[str, Any]) -> bool:
        """Return whether an architecture was already proposed, in whatever form."""
        return self.find(arch) is not None

    def find(self, arch: Mapping[str, Any], overrides: Mapping[str, Any] = _NONE) -> Trial | None:
        """Return the first trial of an architecture, in whatever form, with these constructor arguments."""
        number = self._keys.get(key_of(self.decisions(overrides).canonical(arch), overrides))
        return None if number is None else self._trials[number]

    def decisions(self, overrides: Mapping[str, Any] = _NONE) -> DecisionSpace:
        """Return the decisions of the space, or of the space rebuilt with other constructor arguments."""
        if not overrides:
            return self.space
        if self._rebuilt is None:
            raise SpaceError(
                f"this history does not know the space with overrides={dict(overrides)!r}; "
                "it was made without `rebuilt`."
            )
        return self._rebuilt(overrides)

    def of(self, trials: Sequence[Trial] = (), overrides: Mapping[str, Any] = _NONE) -> History:
        """Return a history of other trials, of the same space or of the space rebuilt with `overrides`."""
        return History(
            self.decisions(overrides),
            self.objectives,
            trials,
            rebuilt=lambda inner: self.decisions({**overrides, **inner}),
        )

    @property
    def distinct(self) -> int:
        """Number of different architectures proposed, without those that have `overrides`."""
        return self._distinct

    @property
    def done(self) -> Sequence[Trial]:
        """Trials that were measured, by number."""
        return self._done

    @property
    def failed(self) -> Sequence[Trial]:
        """Trials that failed, by number."""
        return self._failed

    @property
    def measured(self) -> int:
        """Number of trials done whose objectives are all numbers."""
        return self._measured

    @property
    def running(self) -> list[Trial]:
        """Trials that are waiting or running, by number."""
        return [self._open[number] for number in sorted(self._open)]

    def count(self, state: State) -> int:
        """Return how many trials are in a state."""
        return self._counts[state]

    @property
    def best_trial(self) -> Trial | None:
        """The best result by the objectives in order; None before there is one, and never one with NaN."""
        return self._best

    def scores(self, trial: Trial) -> tuple[float, ...]:
        """Return the scores of a measured trial, one for each objective."""
        known = self._trials.get(trial.number) is trial
        return self._scores[trial.number] if known else self._rate(trial)

    def has_scores(self, trial: Trial) -> bool:
        """Return whether every objective of a trial that is done is a number, and none is infinitely bad."""
        return min(self.scores(trial)) > -math.inf

    def score(self, trial: Trial) -> float:
        """Return the score of a measured trial by the first objective."""
        return self.scores(trial)[0]

    def ranked(self, count: int | None = None, *, among: Iterable[int] | None = None) -> list[Trial]:
        """Return a trial of each architecture, best first, with the means of its repetitions as metrics.

        With several objectives they come by the rank of their Pareto front; inside a front, and in all ties,
        by the objectives in order and then by number. Those that scored NaN come last.

        Args:
            count: How many to return at most; None for all.
            among: Numbers of trials whose architectures are compared; None for all. Others are not looked at.
        """
        if len(self.objectives) == 1 and among is None:
            return self._settled().ranked(count)
        if count is not None and among is None:
            first = self._settled().first_by_fronts(count)
            if first is not None:
                return first
        judged = self._judged(among)
        if len(self.objectives) == 1:
            return sorted(judged, key=self._order)[:count]
        last = [trial for trial in judged if not self.has_scores(trial)]
        judged = [trial for trial in judged if self.has_scores(trial)]
        ranks = fronts([self.scores(trial) for trial in judged])
        ranked = [t for front in ranks for t in sorted((judged[i] for i in front), key=self._order)]
        return [*ranked, *sorted(last, key=self._order)][:count]

    def pareto(self) -> list[Trial]:
        """Return a trial of each architecture that no other dominates, best first by the first objective."""
        return self._settled().first_front()

    def _judged(self, among: Iterable[int] | None = None) -> list[Trial]:
        """Return one trial for each architecture, or for those of some trials."""
        judged = self._settled().judged
        if among is None:
            return list(judged.values())
        keys = dict.fromkeys(key_of(self._trials[number].arch) for number in sorted(among))
        return [judged[key] for key in keys if key in judged]

    def _settled(self) -> _Standing:
        """Return the standing with every result in it."""
        for key in self._changed:
            self._standing.put(key, self._mean(self._groups[key]))
        self._changed.clear()
        return self._standing

    def _mean(self, group: Sequence[Trial]) -> Trial:
        if len(group) == 1:
            return group[0]
        most = max(map(_fidelity, group))
        telling = [trial for trial in group if _fidelity(trial) == most]
        names = [name for name in telling[0].metrics if all(name in trial.metrics for trial in telling)]
        means = {name: fmean(trial.metrics[name] for trial in telling) for name in names}
        return replace(min(telling, key=self._order), metrics=means)

    def _rate(self, trial: Trial) -> tuple[float, ...]:
        return tuple(objective.score(trial.metrics) for objective in self.objectives)

    def _order(self, trial: Trial) -> tuple[float, ...]:
        return (*(-score for score in self.scores(trial)), trial.number)


class _Standing:
    """One trial of each architecture, in order, and the first fronts of those with finite scores.

    A new one costs a search in a sorted list, and a look at the first fronts.

    Args:
        order: Key by which trials are sorted, best first.
        scores: Scores of a trial.
    """

    def __init__(
        self, order: Callable[[Trial], tuple[float, ...]], scores: Callable[[Trial], tuple[float, ...]]
    ) -> None:
        self.judged: dict[str, Trial] = {}
        self._order = order
        self._scores = scores
        self._sorted: list[tuple[tuple[float, ...], str]] = []
        self._fronts: list[_Front] | None = []  # None where they have to be found again
        self._has_all = True  # fronts

    def put(self, key: str, trial: Trial) -> None:
        """Set the trial of an architecture."""
        before = self.judged.get(key)
        if before is not None:
            self._sorted.pop(bisect_left(self._sorted, (self._order(before), key)))
            if self._fronts is not None and any(key in front for front in self._fronts):
                self._fronts = None  # it may have hidden others
        self.judged[key] = trial
        insort(self._sorted, (self._order(trial), key))
        if self._fronts is not None and self._is_finite(trial):
            self._enter(self._fronts, {key: self._scores(trial)})

    def ranked(self, count: int | None) -> list[Trial]:
        """Return the first trials by the order."""
        return [self.judged[key] for _, key in self._sorted[:count]]

    def first_front(self) -> list[Trial]:
        """Return the trials that no other dominates."""
        return [trial for front in self._found()[:1] for trial in self._in_order(front)]

    def first_by_fronts(self, count: int) -> list[Trial] | None:
        """Return the first trials front by front; None where the fronts that are known hold fewer."""
        found = [trial for front in self._found() for trial in self._in_order(front)]
        return found[:count] if len(found) >= count else None

    def _is_finite(self, trial: Trial) -> bool:
        return all(map(math.isfinite, self._scores(trial)))

    def _in_order(self, front: _Front) -> list[Trial]:
        return sorted((self.judged[key] for key in front), key=self._order)

    def _found(self) -> list[_Front]:
        """Return the fronts, found again where one of their trials has changed."""
        if self._fronts is None:
            left = {key: self._scores(t) for key, t in self.judged.items() if self._is_finite(t)}
            self._fronts = []
            while left and sum(map(len, self._fronts)) < _IN_FRONTS:
                keys = list(left)
                self._fronts.append({keys[i]: left.pop(keys[i]) for i in pareto_front(list(left.values()))})
            self._has_all = not left
        return self._fronts

    def _enter(self, fronts: list[_Front], entering: _Front) -> None:
        """Put trials in the first front that does not dominate them; those they dominate go one further."""
        for front in fronts:
            stay = {k: s for k, s in entering.items() if not any(dominates(o, s) for o in front.values())}
            gone = {k: o for k, o in front.items() if any(dominates(s, o) for s in stay.values())}
            entering = {k: s for k, s in entering.items() if k not in stay} | gone
            for key in gone:
                del front[key]
            front |= stay
            if not entering:
                return
        if self._has_all:
            fronts.append(entering)
        while sum(map(len, fronts[:-1])) >= _IN_FRONTS:
            fronts.pop()
            self._has_all = False


def _fidelity(trial: Trial) -> tuple[bool, float]:
    """Return a key that is the larger the more a trial tells of its architecture."""
    return not trial.overrides, math.inf if trial.max_epochs is None else trial.max_epochs


def _insert(trials: list[Trial], trial: Trial) -> None:
    """Add a trial to a list by number; most come in order."""
    trials.append(trial)
    if len(trials) > 1 and trials[-2].number > trial.number:
        trials.sort(key=lambda t: t.number)


def key_of(canonical: Architecture, overrides: Mapping[str, Any] = _NONE) -> str:
    """Return a text that names a canonical architecture dict and the constructor arguments of its trial."""
    return json.dumps([canonical, dict(overrides)] if overrides else canonical, sort_keys=True)
