"""One proposal, several trials: after a failure, or to average over seeds."""

from __future__ import annotations

import statistics
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_integer, require_one_of
from spacelang.trials import Proposal, Proposer, Trial

from .wrapper import Wrapped, Wrapper, same_note

Aggregate: TypeAlias = Literal["mean", "median", "min", "max"]

_AGGREGATES: Mapping[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Retry(Wrapped):
    """Try failed architectures again with another seed; the strategy sees one trial, which fails if all did.

    Args:
        strategy: The wrapped strategy.
        times: Largest number of trials after the first.
    """

    times: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("times", self.times, least=1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Retrying(self.starter(space), self.times)


@dataclass(frozen=True)
class Repeated(Wrapped):
    """Try each proposal with several seeds; the strategy sees one trial, measured when the last has ended.

    Its metrics are aggregated over the trials that did not fail; if all did, it failed. Every trial counts
    in the budget of the search.

    Args:
        strategy: The wrapped strategy.
        times: Number of seeds.
        aggregate: "mean", "median", "min" or "max", for each metric.
    """

    times: int = 3
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("times", self.times, least=1)
        require_one_of("aggregate", self.aggregate, _AGGREGATES)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Repeating(self.starter(space), self.times, _AGGREGATES[self.aggregate])


class _Grouping(Wrapper):
    """A wrapper that shows the trials of one proposal as one.

    Args:
        start: Function that begins the wrapped proposer's search.
        times: Number of trials, as in `Retry` and `Repeated`.
    """

    def __init__(self, start: Callable[[], Proposer], times: int) -> None:
        super().__init__(start)
        self.times = times

    def _reset(self) -> None:
        super()._reset()
        self._groups: dict[int, dict[int, Trial]] = {}  # by the number of the first trial: trials by number
        self._due: dict[int, Trial] = {}  # first trials of groups that want another

    def take(self, trial: Trial) -> None:
        """Show the group of a trial."""
        first = int(trial.note.get("again", trial.number))
        group = self._groups.setdefault(first, {})
        group[trial.number] = trial
        self.places[trial.number] = self.places.get(first, len(self.view))
        self._due.pop(first, None)
        if self.wants_more(list(group.values())):
            self._due[first] = group[first]
        self.show(group[first], self.places[first], **self.seen_as(list(group.values())))

    @abstractmethod
    def wants_more(self, group: list[Trial]) -> bool:
        """Return whether another trial is due."""

    @abstractmethod
    def seen_as(self, group: list[Trial]) -> Mapping[str, Any]:
        """Return changes to the group's first trial with which the view shows it."""

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Return another trial that is due, else a new proposal."""
        if self._due:
            first = self._due[min(self._due)]
            note = same_note(first, again=first.number)
            return Proposal(first.arch, first.max_epochs, note, first.overrides)
        return self.noted(self.inner.ask(self.view, rng))


class _Retrying(_Grouping):
    def wants_more(self, group: list[Trial]) -> bool:
        return len(group) <= self.times and group[-1].state == "failed"

    def seen_as(self, group: list[Trial]) -> Mapping[str, Any]:
        last = group[-1]
        state = "waiting" if self.wants_more(group) else last.state
        return {"state": state, "metrics": last.metrics, "reports": last.reports, "error": last.error}


class _Repeating(_Grouping):
    def __init__(
        self, start: Callable[[], Proposer], times: int, aggregate: Callable[[list[float]], float]
    ) -> None:
        super().__init__(start, times)
        self.aggregate = aggregate

    def wants_more(self, group: list[Trial]) -> bool:
        return len(group) < self.times and group[0].state != "infeasible"

    def seen_as(self, group: list[Trial]) -> Mapping[str, Any]:
        if self.wants_more(group) or not all(trial.is_finished for trial in group):
            return {"state": "running", "metrics": {}}
        measured = [trial for trial in group if trial.state == "done"]
        if not measured:
            return {"state": group[0].state}
        names = [name for name in measured[0].metrics if all(name in t.metrics for t in measured)]
        metrics = {name: self.aggregate([t.metrics[name] for t in measured]) for name in names}
        return {"state": "done", "metrics": metrics, "error": "", "duration": sum(t.duration for t in group)}
