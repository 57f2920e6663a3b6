"""Searches that choose several architectures at a time with a predictor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.trials import History, Proposal, key_of

from .random import new_sample
from .stateless import require_untried


@dataclass(frozen=True, kw_only=True)
class RoundSettings(KnownArguments):
    """Sizes of the rounds in which architectures are chosen.

    Args:
        initial: Architectures drawn at random before the first round.
        round_size: Architectures chosen with one fit of the predictor.
    """

    initial: int = 10
    round_size: int = 10

    def __post_init__(self) -> None:
        require_all(require_integer, self, "initial", "round_size", least=1)


@dataclass(frozen=True, kw_only=True)
class CandidateSettings(RoundSettings):
    """Sizes of the rounds, and the candidates among which each chooses.

    Args:
        initial, round_size: Settings as in `RoundSettings`.
        candidates: New architectures from which those of a round are chosen.
        parents: Best architectures, of which candidates are mutations.
        mutations: Mutations of one parent before the next; after the last follows the first.
        random_share: Share of candidates that are drawn at random and are no mutations.
    """

    candidates: int = 100
    parents: int = 5
    mutations: int = 1
    random_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "candidates", "parents", "mutations", least=1)
        require_number("random_share", self.random_share, least=0, most=1)


class RoundSearch(ABC):
    """A proposer that works in rounds: the results known when a round begins decide all its proposals.

    The notes of its trials say when the round began, which trials were running then, and its seed, so that a
    resumed search chooses the same. A round that is finished, or has nothing left to propose, is followed by
    another.

    Args:
        space: Space to search.
        settings: Sizes of the rounds.
    """

    def __init__(self, space: ModelSpace, settings: RoundSettings) -> None:
        self.space = space
        self.settings = settings
        self._current: tuple[Mapping[str, Any], list[Architecture]] = {}, []

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        number = len(history)
        note = self._open_round(history)
        if note is not None:
            chosen = self._chosen(history, note)[number - note["round"] :]
            if chosen:
                return Proposal(chosen[0], note=note)
        if number < self.settings.initial or not known(history, number, ()).done:
            return Proposal(self.random(history, rng))
        running = [trial.number for trial in history.running]
        note = {"round": number, "running": running, "seed": int(rng.integers(2**31))}
        chosen = self._chosen(history, note)
        return Proposal(chosen[0] if chosen else self.random(history, rng), note=note)

    def random(self, history: History, rng: np.random.Generator) -> Architecture:
        """Return an architecture to try where no round proposes one: a random one that was not tried."""
        return new_sample(history, rng)

    def _open_round(self, history: History) -> Mapping[str, Any] | None:
        """Return the note of the latest round."""
        last = range(len(history) - 1, max(-1, len(history) - 1 - self.settings.round_size), -1)
        return next((history[i].note for i in last if "round" in history[i].note), None)

    def _chosen(self, history: History, note: Mapping[str, Any]) -> list[Architecture]:
        """Return the architectures of a round, in the order in which they are proposed."""
        if self._current[0] != note:
            self._current = dict(note), self.run_round(history, note)[: self.settings.round_size]
        return self._current[1]

    def run_round(self, history: History, note: Mapping[str, Any]) -> list[Architecture]:
        """Return what a round proposes, from the results known when it began.

        Args:
            history: All trials.
            note: Note of the round's trials.
        """
        then = known(history, note["round"], note["running"])
        tried = {key_of(history[number].arch) for number in range(note["round"])}
        return self.plan(then, tried, np.random.default_rng(note["seed"]))

    @abstractmethod
    def plan(self, history: History, tried: set[str], rng: np.random.Generator) -> list[Architecture]:
        """Return new architectures to try, best first; those beyond the size of a round are left out.

        Args:
            history: Measured trials with finite scores, at least one.
            tried: Keys of all architectures proposed before the round.
            rng: Generator for every random draw.
        """


class CandidateSearch(RoundSearch):
    """A search whose rounds choose among mutations of the best architectures and random ones.

    Args:
        space: Space to search.
        settings: Sizes of the rounds and their candidates.
    """

    settings: CandidateSettings

    def plan(self, history: History, tried: set[str], rng: np.random.Generator) -> list[Architecture]:
        """See `RoundSearch`."""
        candidates = self._candidates(history, tried, rng)
        return self.choose(history, candidates, rng) if candidates else []

    def _candidates(self, then: History, tried: set[str], rng: np.random.Generator) -> list[Architecture]:
        """Return architectures that were not tried, mutations of the best and random ones in between."""
        settings = self.settings
        parents = [trial.arch for trial in then.ranked(settings.parents)]
        found: dict[str, Architecture] = {}
        for attempt in range(10 * settings.candidates):
            if len(found) == settings.candidates:
                break
            before, after = (int(settings.random_share * n) for n in (attempt, attempt + 1))  # random ones
            if after > before:
                arch = then.space.sample(rng)
            else:
                parent = parents[(attempt - before) // settings.mutations % len(parents)]
                arch = _mutated(then, parent, rng)
            if key_of(arch) not in tried:
                found.setdefault(key_of(arch), arch)
        return list(found.values())

    @abstractmethod
    def choose(
        self, history: History, candidates: Sequence[Architecture], rng: np.random.Generator
    ) -> list[Architecture]:
        """Return the candidates to try, best first.

        Args:
            history: Measured trials with finite scores, at least one.
            candidates: New architectures, at least one.
            rng: Generator for every random draw.
        """


class LearningSearch(RoundSearch):
    """A search that carries what it has learnt from one round to the next.

    A new search runs the rounds before again, so a resumed one has learnt the same.

    Args:
        space: Space to search.
        settings: Sizes of the rounds.
    """

    def __init__(self, space: ModelSpace, settings: RoundSettings) -> None:
        super().__init__(space, settings)
        self._past: list[Mapping[str, Any]] = []  # notes of the rounds that were run, in order

    @abstractmethod
    def forget(self) -> None:
        """Return to the state before the first round."""

    def run_round(self, history: History, note: Mapping[str, Any]) -> list[Architecture]:
        """See `RoundSearch`."""
        notes = (history[number].note for number in range(note["round"]))
        earlier = list({n["round"]: n for n in notes if "round" in n}.values())
        if self._past != earlier[: len(self._past)]:
            self._past = []
        if not self._past:
            self.forget()
        for past in earlier[len(self._past) :]:
            super().run_round(history, past)
        self._past = [*earlier, note]
        return super().run_round(history, note)


def known(history: History, number: int, running: Sequence[int]) -> History:
    """Return the trials with finite scores that were measured before a trial began.

    Args:
        history: All trials.
        number: Number of the trial that began.
        running: Numbers of earlier trials that were running then.
    """
    measured = [
        trial
        for trial in history.done
        if trial.number < number
        and trial.number not in running
        and all(map(math.isfinite, history.scores(trial)))
    ]
    return history.of(measured)


def _mutated(history: History, arch: Architecture, rng: np.random.Generator) -> Architecture:
    try:
        return history.space.mutate(arch, rng)
    except SpaceError:  # constraints leave it no neighbour
        return history.space.sample(rng)
