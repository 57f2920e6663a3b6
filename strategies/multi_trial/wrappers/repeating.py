"""One proposal, several trials: after a failure, or to average over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.trials import Proposal, Proposer, Trial

from .wrapper import Wrapped, Wrapper, inner_note

Aggregate: TypeAlias = Literal["mean", "median", "min", "max"]

_AGGREGATES: Mapping[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Retry(Wrapped):
    """Try what failed again, with another seed; the strategy sees one trial, which fails when all have.

    Args:
        strategy: what is wrapped.
        times: trials after the first.
    """

    times: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_count("times", 1)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Retrying(self.starter(space), self.times)


@dataclass(frozen=True)
class Repeated(Wrapped):
    """Try each proposal with several seeds; the strategy sees one trial, measured when the last has ended.

    Its metrics are aggregated over the trials that did not fail; if all did, it failed. Every trial counts
    in the limits of the search.

    Args:
        strategy: what is wrapped.
        times: seeds.
        aggregate: "mean", "median", "min" or "max", of each metric.
    """

    times: int = 3
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_count("times", 1)
        if self.aggregate not in _AGGREGATES:
            names = ", ".join(map(repr, _AGGREGATES))
            raise SpaceError(f"aggregate={self.aggregate!r}; expected one of {names}.")

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Repeating(self.starter(space), self.times, _AGGREGATES[self.aggregate])


class _Grouping(Wrapper):
    """Shows trials of one proposal as one.

    Args:
        start: begins the wrapped proposer's search.
        times: see the strategies.
    """

    def __init__(self, start: Callable[[], Proposer], times: int) -> None:
        super().__init__(start)
        self.times = times

    def _reset(self) -> None:
        super()._reset()
        self._groups: dict[int, dict[int, Trial]] = {}  # by the number of the first trial: trials by number
        self._due: dict[int, Trial] = {}  # groups that want another trial: their first

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

    def wants_more(self, group: list[Trial]) -> bool:
        """Whether another trial is due."""
        raise NotImplementedError

    def seen_as(self, group: list[Trial]) -> Mapping[str, Any]:
        """How the trial of a group in the view differs from the first of the group."""
        raise NotImplementedError

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Another trial that is due, else a new proposal."""
        if self._due:
            first = self._due[min(self._due)]
            note = {"inner": inner_note(first.note), "again": first.number}
            return Proposal(first.arch, first.max_epochs, note, first.overrides)
        proposal = self.inner.ask(self.view, rng)
        return replace(proposal, note={"inner": proposal.note})


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
