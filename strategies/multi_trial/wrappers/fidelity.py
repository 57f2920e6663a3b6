"""Few epochs for many architectures, many epochs for the few best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_integer
from spacelang.trials import History, Proposal, Proposer, Trial

from .wrapper import Wrapped, Wrapper, inner_goes_on, same_note

Bracket: TypeAlias = "tuple[tuple[int, int], ...]"
"""Rungs, each a number of trials and their epochs."""


@dataclass(frozen=True)
class _Fidelity(Wrapped):
    """Base of strategies with rungs of more and more epochs.

    Args:
        strategy: Strategy that proposes architectures.
        max_epochs: Epochs of the last rung.
        min_epochs: Least epochs of the first rung.
        eta: Share 1 / eta of a rung reaches the next, which has eta times as many epochs.
    """

    max_epochs: int
    min_epochs: int = 1
    eta: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("min_epochs", self.min_epochs, least=1)
        require_integer("max_epochs", self.max_epochs, least=self.min_epochs)
        require_integer("eta", self.eta, least=2)

    @property
    def steps(self) -> int:
        """Number of times that `min_epochs` can be multiplied by eta within `max_epochs`."""
        return next(s for s in count() if self.min_epochs * self.eta ** (s + 1) > self.max_epochs)


@dataclass(frozen=True)
class SuccessiveHalving(_Fidelity):
    """Train many architectures for few epochs, the best of them for more, and so on; then begin again.

    A trial of a later rung trains from new weights. With parallel workers the next bracket begins while the
    last trials of a rung run. A trial that failed is not promoted.

    Args:
        strategy, max_epochs, min_epochs, eta: Settings as in `Hyperband`.
        trials: Number of trials in the first rung.

    Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; rungs as in a bracket of Hyperband.
    """

    trials: int = 27

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("trials", self.trials, least=1)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """The one bracket."""
        steps = next(s for s in count() if s == self.steps or self.eta ** (s + 1) > self.trials)
        return (_bracket(self.trials, steps, self.max_epochs, self.eta),)

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Halving(self.starter(space), self.brackets)


@dataclass(frozen=True)
class Hyperband(_Fidelity):
    """Successive halving with one bracket after another, from many trials of few epochs to few of many.

    With R = max_epochs / min_epochs, bracket s = floor(log_eta R), ..., 0 has
    n_i = floor(ceil((s_max + 1) / (s + 1) * eta^s) / eta^i) trials of floor(max_epochs / eta^(s - i)) epochs
    in rung i; after the last bracket the first comes again. See `SuccessiveHalving`.

    Args:
        strategy: Strategy that proposes architectures. It sees each once, when it is promoted no more, with
            the metrics of its last trial.
        max_epochs: Epochs of the last rung.
        min_epochs: Least epochs of the first rung.
        eta: Share 1 / eta of a rung reaches the next, which has eta times as many epochs.

    Source: Li et al. 2018, arXiv:1603.06560, algorithm 1.
    """

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """All brackets, in order."""
        most = self.steps
        first = {s: -(-(most + 1) * self.eta**s // (s + 1)) for s in range(most, -1, -1)}  # rounded up
        return tuple(_bracket(n, s, self.max_epochs, self.eta) for s, n in first.items())

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Halving(self.starter(space), self.brackets)


@dataclass(frozen=True)
class ASHA(_Fidelity):
    """Asynchronous successive halving: stop a trial that is not among the best when it reaches a rung.

    Rungs are at min_epochs * eta^k epochs. There a trial continues if it is among the max(1, floor(n / eta))
    best of the n trials that have reached the rung, itself included. No trial waits for another, and none
    begins again; the evaluator must report its metrics after every epoch.

    Args:
        strategy: Strategy that proposes architectures. It sees stopped trials with the metrics they had.
        max_epochs: Epochs of a trial that is never stopped.
        min_epochs: Epochs of the first rung.
        eta: Share 1 / eta of a rung continues.

    Source: Li et al. 2020, arXiv:1810.05934, with trials stopped rather than promoted.
    """

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Asynchronous(self.strategy.start(space), self)

    def among_the_best(self, score: float, scores: Sequence[float]) -> bool:
        """Return whether a score is good enough among all scores at a rung, itself included."""
        better = sum(other > score for other in scores)
        return score > -math.inf and better < max(1, len(scores) // self.eta)


def _bracket(trials: int, steps: int, epochs: int, eta: int) -> Bracket:
    return tuple((trials // eta**i, epochs // eta ** (steps - i)) for i in range(steps + 1))


class _Halving(Wrapper):
    """A wrapper that fills the rungs of brackets in turn.

    The view shows an architecture as one trial, which runs until the architecture is promoted no more.

    Args:
        start: Function that begins the wrapped proposer's search.
        brackets: Brackets in order; after the last the first comes again.
    """

    def __init__(self, start: Callable[[], Proposer], brackets: tuple[Bracket, ...]) -> None:
        self.brackets = brackets
        super().__init__(start)

    def _reset(self) -> None:
        super()._reset()
        self._rungs: dict[tuple[int, int], dict[int, Trial]] = {}  # bracket, rung -> trials by first number
        self._oldest = 0  # bracket that has not ended

    def take(self, trial: Trial) -> None:
        """Add a trial to its rung, and show the trials that this decides."""
        first = int(trial.note.get("first", trial.number))
        self.places[trial.number] = self.places.get(first, len(self.view))
        bracket = int(trial.note.get("bracket", 0))
        rung = self._rungs.setdefault((bracket, int(trial.note.get("rung", 0))), {})
        if trial.state == "infeasible":  # another takes its place in the rung
            rung.pop(first, None)
            self.show(trial, self.places[first])
        else:
            rung[first] = trial
            if self.places[first] == len(self.view):
                self.show(trial, state="running", metrics={})
        if trial.is_finished:
            self._decide(bracket)

    def _decide(self, bracket: int) -> None:
        for rung, promoted in self._ended(bracket):
            for first, trial in self._rung(bracket, rung).items():
                if first not in promoted and not self.view[self.places[first]].is_finished:
                    self.show(trial, self.places[first])

    def propose(self, rng: np.random.Generator) -> Proposal:
        """Return a proposal for the first bracket that has room."""
        last = max((bracket for bracket, _ in self._rungs), default=0)
        while self._oldest < last and len(list(self._ended(self._oldest))) == len(self._shape(self._oldest)):
            self._oldest += 1
        for bracket in range(self._oldest, last + 1):
            for rung, promoted in self._ended(bracket):
                for first, trial in promoted.items():
                    if first not in self._rung(bracket, rung + 1):
                        return self._next(trial, first, bracket, rung + 1)
        full = len(self._rung(last, 0)) >= self._shape(last)[0][0]
        return self._new(last + 1 if full else last, rng)

    def _new(self, bracket: int, rng: np.random.Generator) -> Proposal:
        proposal = self.inner.ask(self.view, rng)
        proposal = replace(proposal, max_epochs=self._shape(bracket)[0][1])
        return self.noted(proposal, bracket=bracket, rung=0)

    def _next(self, trial: Trial, first: int, bracket: int, rung: int) -> Proposal:
        note = same_note(trial, bracket=bracket, rung=rung, first=first)
        return Proposal(trial.arch, self._shape(bracket)[rung][1], note, trial.overrides)

    def _shape(self, bracket: int) -> Bracket:
        return self.brackets[bracket % len(self.brackets)]

    def _rung(self, bracket: int, rung: int) -> dict[int, Trial]:
        return self._rungs.get((bracket, rung), {})

    def _ended(self, bracket: int) -> Iterator[tuple[int, dict[int, Trial]]]:
        """Yield the rungs whose trials have all ended, each with its promoted trials, best first."""
        shape = self._shape(bracket)
        places = [*(n for n, _ in shape), 0]
        wanted = places[0]
        for rung in range(len(shape)):
            trials = self._rung(bracket, rung)
            if len(trials) < wanted or not all(trial.is_finished for trial in trials.values()):
                return
            promoted = self._best(trials, places[rung + 1])
            yield rung, promoted
            wanted = len(promoted)

    def _best(self, trials: dict[int, Trial], places: int) -> dict[int, Trial]:
        score = self.view.objectives[0].score
        scores = {first: score(t.metrics) for first, t in trials.items() if t.state == "done"}
        measured = [first for first in scores if scores[first] > -math.inf]
        ranked = sorted(measured, key=lambda first: (-scores[first], first))
        return {first: trials[first] for first in ranked[:places]}


class _Asynchronous:
    """A proposer that stops trials at rungs."""

    def __init__(self, inner: Proposer, settings: ASHA) -> None:
        self.inner = inner
        self.settings = settings
        self.rungs = [settings.min_epochs * settings.eta**k for k in range(settings.steps + 1)]

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        return replace(self.inner.ask(history, rng), max_epochs=self.settings.max_epochs)

    def goes_on(self, trial: Trial, history: History) -> bool:
        """See `Stopper`."""
        if not inner_goes_on(self.inner, trial, history):
            return False
        epoch = trial.reports[-1].epoch
        if epoch + 1 not in self.rungs:
            return True
        objective = history.objectives[0]
        reached = objective.score(trial.reports[-1].metrics)
        reports = (report for other in history for report in other.reports if report.epoch == epoch)
        at_rung = [objective.score(r.metrics) for r in reports if objective.metric in r.metrics]
        return self.settings.among_the_best(reached, at_rung)
