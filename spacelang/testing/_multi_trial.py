"""What every strategy that proposes architectures must do."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import SpaceError
from ..experiment._random import isolated_generators, seed_generators
from ..language import Architecture, ModelSpace
from ..trials import Exhausted, History, Maximize, MultiTrialStrategy, Proposal, Trial, key_of
from ..trials._trial import State
from ._promises import Conformance, on_space, require, unchanged
from ._spaces import toy_spaces

_SMALL = 30


def check_multi_trial(strategy: MultiTrialStrategy, trials: int) -> Conformance:
    """See `check_strategy`."""
    searched: list[str] = []
    refused: dict[str, str] = {}
    exhausted: list[str] = []
    with isolated_generators():
        for name, space in toy_spaces().items():
            with on_space(name), unchanged(space):
                try:
                    strategy.start(space)
                except SpaceError as error:
                    refused[name] = str(error)
                    continue
                searched.append(name)
                exhausted += [name] * _check_space(strategy, space, trials)
    require(bool(searched), f"it refuses every space: {refused}")
    return Conformance(tuple(searched), refused, tuple(exhausted))


def _check_space(strategy: MultiTrialStrategy, space: ModelSpace, trials: int) -> bool:
    """Search a space in several ways; returns whether the strategy ended a search by itself."""
    size = space.size()
    count = 2 * size + 8 if size <= _SMALL else trials
    resumptions = {1, count // 3, 2 * count // 3}
    first = _Search(strategy, space, workers=1)
    first.run(count, resumptions)
    require(len(first.history) > 0, "it proposes nothing")
    seed_generators(1)
    again = _Search(strategy, space, workers=1)
    again.run(count)
    require(_text(again.history) == _text(first.history), "the same seed gave two searches")
    _Search(strategy, space, workers=3).run(trials, resumptions)
    return first.ended


class _Search:
    """A search whose trials take no time: values come from a hash, and some trials fail.

    Args:
        strategy: searches.
        space: what is searched.
        workers: trials at a time.
    """

    def __init__(self, strategy: MultiTrialStrategy, space: ModelSpace, *, workers: int) -> None:
        self.strategy = strategy
        self.space = space
        self.workers = workers
        self.proposer = strategy.start(space)
        self.history = History(space.decision_space, [Maximize("value")])
        self.ended = False

    def run(self, trials: int, resumptions: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """Search until there are `trials`; before those in `resumptions` also ask a new proposer."""
        running: deque[Trial] = deque()
        while len(self.history) < trials and not self.ended:
            number = len(self.history)
            before = _text(self.history)
            proposal = self._ask(self.proposer)
            require(_text(self.history) == before, "it changed the history")
            if number in resumptions:
                resumed = History(self.history.space, self.history.objectives, list(self.history))
                other = self._ask(self.strategy.start(self.space), resumed)
                require(_same(proposal, other), f"resumed before trial {number} it proposed something else")
            if proposal is None:
                self.ended = not running
            else:
                self.history.add(self._trial(number, proposal))
                running.append(self.history[number])
            while running and (proposal is None or len(running) >= self.workers):
                self.history.add(_finished(running.popleft()))

    def _ask(self, proposer: Any, history: History | None = None) -> Proposal | None:
        """The next proposal, checked; None if there is none."""
        history = history or self.history
        try:
            proposal = proposer.ask(history, np.random.default_rng((0, len(history))))
        except Exhausted as reason:
            require(bool(str(reason)), "it ended without saying why")
            return None
        require(isinstance(proposal, Proposal), f"it proposed {proposal!r}, which is no Proposal")
        self.space.validate(proposal.arch)
        try:
            note = json.loads(json.dumps(dict(proposal.note)))
        except TypeError as error:
            raise AssertionError(
                f"a strategy broke a promise: its note holds more than plain values ({error})."
            ) from error
        checked: Proposal = replace(proposal, arch=history.space.canonical(proposal.arch), note=note)
        return checked

    def _trial(self, number: int, proposal: Proposal) -> Trial:
        return Trial(number, proposal.arch, number, "running", proposal.budget, proposal.note)


def _finished(trial: Trial) -> Trial:
    """How a trial ended: of ten one failed, one broke a constraint and one gave NaN."""
    states: dict[int, State] = {3: "failed", 6: "infeasible"}
    state = states.get(trial.number % 10, "done")
    value = math.nan if trial.number % 10 == 8 else value_of(trial.arch)
    return replace(trial, state=state, metrics={"value": value} if state == "done" else {})


def value_of(arch: Architecture) -> float:
    """An arbitrary value in [0, 1) that every part of an architecture adds to."""
    hashes = [hashlib.blake2b(repr(item).encode(), digest_size=4).digest() for item in arch.items()]
    return sum(int.from_bytes(h) for h in hashes) / 2**32 / len(hashes)


def _same(a: Proposal | None, b: Proposal | None) -> bool:
    if a is None or b is None:
        return a is b
    return (key_of(a.arch), a.budget, a.note) == (key_of(b.arch), b.budget, b.note)


def _text(history: History) -> str:
    return repr(list(history))
