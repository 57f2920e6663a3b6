"""Local search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang import ModelSpace
from spacelang.arguments import KnownArguments
from spacelang.language import Architecture
from spacelang.trials import History, Proposal, Proposer, Trial

from .random import new_sample


@dataclass(frozen=True, kw_only=True)
class LocalSearch(KnownArguments):
    """Try all neighbours, go to the best; when none is better, begin again at a random architecture.

    Neighbours differ in one decision (`space.neighbours`), and may inherit the weights of their center:
    `Experiment(..., inherit="parent")`. Nothing is tried twice: results of earlier climbs are looked up. With
    parallel workers random architectures fill the time until the last neighbours are measured. With several
    objectives the first decides.

    Source: White et al. 2020, arXiv:2005.02960, algorithm 1; restarts as in its section 5.
    """

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Search()


class _Search:
    """A search that keeps the neighbours of the present center, so that they are listed once."""

    def __init__(self) -> None:
        self._center: int | None = None
        self._untried: list[Architecture] = []  # neighbours of the center, last first

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        climb, center = _position(history)
        while center is not None:
            note = {"climb": climb, "center": center.number}
            untried = self._next(history, center)
            if untried is not None:
                return Proposal(untried, note={**note, "parent": center.number})
            found = [history.find(arch) for arch in history.space.neighbours(center.arch)]
            known = [trial for trial in found if trial is not None]
            if any(not trial.is_finished for trial in known):
                return Proposal(new_sample(history, rng), note=note)
            measured = [trial for trial in known if trial.state == "done"]
            best = max(measured, key=history.score, default=center)
            improves = history.score(best) > history.score(center)
            climb, center = (climb, best) if improves else (climb + 1, None)
        return Proposal(new_sample(history, rng), note={"climb": climb})

    def _next(self, history: History, center: Trial) -> Architecture | None:
        """Return the first neighbour that was not tried; a tried one never becomes untried."""
        if self._center != center.number:
            self._center = center.number
            self._untried = list(history.space.neighbours(center.arch))[::-1]
        while self._untried and self._untried[-1] in history:
            self._untried.pop()
        return self._untried[-1] if self._untried else None


def _position(history: History) -> tuple[int, Trial | None]:
    """Return the number of the climb and its center, None while no start of it is measured."""
    climb, starts = 0, list[Trial]()
    for number in reversed(range(len(history))):
        trial = history[number]
        here = int(trial.note.get("climb", 0))
        if not starts:
            climb = here
        if here != climb:
            break
        if "center" in trial.note:
            return climb, history[trial.note["center"]]
        starts.append(trial)
    measured = [trial for trial in starts if trial.state == "done"]
    return climb, max(measured, key=lambda t: (history.score(t), -t.number), default=None)
