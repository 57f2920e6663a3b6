"""Promises of every strategy that proposes architectures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import SpaceError
from ..language import Architecture
from ..randomness import global_generators_kept, seed_global_generators
from ..space import ModelSpace
from ..trials import (
    Exhausted,
    History,
    Maximize,
    MultiTrialStrategy,
    Proposal,
    Rebuilt,
    Report,
    Stopper,
    Trial,
    key_of,
)
from ..trials.trial import State
from .promises import Conformance, on_space, require, unchanged

_SMALL = 30
_EPOCHS = 4  # of a trial that sets none


def check_multi_trial(
    strategy: MultiTrialStrategy, trials: int, spaces: Mapping[str, ModelSpace]
) -> Conformance:
    """See `check_strategy`."""
    searched: list[str] = []
    refused: dict[str, str] = {}
    exhausted: list[str] = []
    stopped: list[str] = []
    with global_generators_kept():
        for name, space in spaces.items():
            with on_space(name), unchanged(space):
                try:
                    strategy.start(space)
                except SpaceError as error:
                    refused[name] = str(error)
                    continue
                searched.append(name)
                search = _check_space(strategy, space, trials)
                exhausted += [name] * search.ended
                stopped += [name] * (search.stopped > 0)
    require(bool(searched), f"it refuses every space: {refused}")
    return Conformance(tuple(searched), refused, tuple(exhausted), tuple(stopped))


def _check_space(strategy: MultiTrialStrategy, space: ModelSpace, trials: int) -> _Search:
    """Search a space in several ways; return the first search."""
    size = space.size()
    count = 2 * int(size) + 8 if size <= _SMALL else trials
    resumptions = {1, count // 3, 2 * count // 3}
    first = _Search(strategy, space, workers=1)
    first.run(count, resumptions)
    require(len(first.history) > 0, "it proposes nothing")
    require(first.stopped == 0 or first.to_the_end > 0, "it stops every trial before its end")
    seed_global_generators(1)
    again = _Search(strategy, space, workers=1)
    again.run(count)
    require(_text(again.history) == _text(first.history), "the same seed gave two searches")
    _Search(strategy, space, workers=3).run(trials, resumptions)
    return first


class _Search:
    """A search whose trials take no time: values come from a hash, and some trials fail.

    Args:
        strategy: Strategy that proposes architectures.
        space: Space to search.
        workers: Number of trials at a time, whose epochs take turns.

    Attributes:
        ended: Whether the strategy ended the search by itself.
        stopped, to_the_end: Numbers of trials that it stopped early, and that it did not.
    """

    def __init__(self, strategy: MultiTrialStrategy, space: ModelSpace, *, workers: int) -> None:
        self.strategy = strategy
        self.space = space
        self.workers = workers
        self.proposer = strategy.start(space)
        decisions = Rebuilt(space, lambda rebuilt: rebuilt.search_space)
        self.history = History(space.search_space, [Maximize("value")], rebuilt=decisions)
        self.ended = False
        self.stopped = self.to_the_end = 0

    def run(self, trials: int, resumptions: Set[int] = frozenset()) -> None:
        """Search until there are `trials`; at those in `resumptions` also ask a new proposer."""
        running: list[int] = []
        while len(self.history) < trials and not self.ended:
            number = len(self.history)
            before = _text(self.history)
            proposal = self._ask(self.proposer)
            require(_text(self.history) == before, "it changed the history")
            if number in resumptions:
                other = self._ask(self.strategy.start(self.space), self._copy())
                require(_same(proposal, other), f"resumed before trial {number} it proposed something else")
            if proposal is None:
                self.ended = not running
            else:
                trial = _begun(number, proposal)
                self.history.add(trial)
                running += [] if trial.is_finished else [number]
            while running and (proposal is None or len(running) >= self.workers):
                self._train(running, resumptions)

    def _train(self, running: list[int], resumptions: Set[int]) -> None:
        """Train running trials for an epoch each, until one of them ends."""
        for number in running:
            if self._ends(self.history[number], also_anew=number in resumptions):
                running.remove(number)
                return

    def _ends(self, trial: Trial, *, also_anew: bool) -> bool:
        """Train a trial for another epoch; one of ten fails in its last. Return whether it has ended."""
        left = (trial.max_epochs or _EPOCHS) - len(trial.reports) - 1
        if trial.number % 10 == 3 and left == 0:
            self.history.add(replace(trial, state="failed"))
        else:
            trial = _trained(trial, left)
            self.history.add(trial)
            if self._goes_on(trial, also_anew=also_anew) and left > 0:
                return False
            self.history.add(replace(trial, state="done", metrics=trial.reports[-1].metrics))
        self.stopped += left > 0
        self.to_the_end += left == 0
        return True

    def _goes_on(self, trial: Trial, *, also_anew: bool) -> bool:
        """Return whether the strategy continues a trial; a new proposer must say the same."""
        if not isinstance(self.proposer, Stopper):
            return True
        before = _text(self.history)
        answer = self.proposer.goes_on(trial, self.history)
        require(isinstance(answer, bool), f"goes_on returned {answer!r}, which is neither True nor False")
        require(_text(self.history) == before, "goes_on changed the history")
        again = self.proposer.goes_on(trial, self.history)
        require(again == answer, f"asked again whether trial {trial.number} goes on it changed its mind")
        if also_anew or (not answer and self.stopped == 0):
            anew: Any = self.strategy.start(self.space)
            same = anew.goes_on(trial, self._copy()) == answer
            require(same, f"resumed in trial {trial.number} it decided otherwise whether it goes on")
        return answer

    def _copy(self) -> History:
        return self.history.of(list(self.history))

    def _ask(self, proposer: Any, history: History | None = None) -> Proposal | None:
        """Return the next proposal, checked; None if there is none."""
        history = history or self.history
        try:
            proposal = proposer.ask(history, np.random.default_rng((0, len(history))))
        except Exhausted as reason:
            require(bool(str(reason)), "it ended without saying why")
            return None
        require(isinstance(proposal, Proposal), f"it proposed {proposal!r}, which is not a Proposal")
        note, overrides = _plain("note", proposal.note), _plain("overrides", proposal.overrides)
        arch = history.decisions(overrides).canonical(proposal.arch)  # raises what is wrong with it
        checked: Proposal = replace(proposal, arch=arch, note=note, overrides=overrides)
        return checked


def _plain(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they come back from the ledger."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
        return plain
    except TypeError as error:
        raise AssertionError(
            f"a strategy broke a promise: its {name} holds more than plain values ({error})."
        ) from error


def _begun(number: int, proposal: Proposal) -> Trial:
    """Return a new trial; one of ten breaks a constraint."""
    state: State = "infeasible" if number % 10 == 6 else "running"
    return Trial(number, proposal.arch, number, state, proposal.max_epochs, proposal.note, proposal.overrides)


def _trained(trial: Trial, left: int) -> Trial:
    """Return a trial after another epoch, with `left` to come; one of ten gives NaN."""
    epoch = len(trial.reports)
    value = math.nan if trial.number % 10 == 8 else value_of(trial.arch) * (epoch + 1) / (epoch + 1 + left)
    return replace(trial, reports=(*trial.reports, Report(epoch, {"value": value})))


def value_of(arch: Architecture) -> float:
    """Return an arbitrary value in [0, 1) to which every part of an architecture adds."""
    hashes = [hashlib.blake2b(repr(item).encode(), digest_size=4).digest() for item in arch.items()]
    return sum(int.from_bytes(h) for h in hashes) / 2**32 / len(hashes)


def _same(a: Proposal | None, b: Proposal | None) -> bool:
    if a is None or b is None:
        return a is b
    return (key_of(a.arch, a.overrides), a.max_epochs, a.note) == (
        key_of(b.arch, b.overrides),
        b.max_epochs,
        b.note,
    )


def _text(history: History) -> str:
    return repr(list(history))
