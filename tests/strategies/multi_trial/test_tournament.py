"""Evolution by tournaments: first architectures, tournaments by hand, and what is in the population."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.hub import HierarchicalCells
from spacelang.strategies import TournamentEvolution
from spacelang.trials import History, Maximize, Minimize, Trial

from ...toys.trials import Chain
from .drive import search

SPACE = Chain(6)


def measured(count: int, objective: Any = Maximize("value")) -> History:  # noqa: B008
    """A history whose trials have their number as value."""
    history = History(SPACE.decision_space, [objective])
    for number in range(count):
        metrics = {"value": float(number)}
        history.add(Trial(number, history.space.at(number), 0, "done", metrics=metrics))
    return history


class Scripted(np.random.Generator):
    """A generator whose tournament is given."""

    def __init__(self, members: list[int], of: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.members, self.of = members, of

    def choice(self, population: int, size: int, replace: bool) -> list[int]:  # type: ignore[override]
        assert (population, size, replace) == (self.of, len(self.members), False)
        return self.members


def parent(strategy: TournamentEvolution, history: History, rng: np.random.Generator) -> int:
    """Return the parent of the next proposal, which differs from it in one decision."""
    proposal = strategy.start(SPACE).ask(history, rng)
    number: int = proposal.note["parent"]
    assert sum(proposal.arch[label] != value for label, value in history[number].arch.items()) == 1
    return number


def test_tournaments_by_hand() -> None:
    """Five per cent of 60 are 3, of 20 one; the best of them wins."""
    strategy = TournamentEvolution(population=20)
    assert parent(strategy, measured(60), Scripted([7, 41, 3], 60)) == 41
    assert parent(strategy, measured(60, Minimize("value")), Scripted([7, 41, 3], 60)) == 3
    assert parent(strategy, measured(20), Scripted([5], 20)) == 5
    everybody = TournamentEvolution(population=2, tournament=1.0)
    assert parent(everybody, measured(7), np.random.default_rng(0)) == 6


def test_nobody_leaves_the_population() -> None:
    oldest = TournamentEvolution(population=2, tournament=1.0)
    assert parent(oldest, measured(30, Minimize("value")), np.random.default_rng(0)) == 0


def test_without_tournaments_every_parent_is_as_likely() -> None:
    strategy, history = TournamentEvolution(population=4, tournament=None), measured(60)
    assert parent(strategy, history, Scripted([17], 60)) == 17
    drawn = {parent(strategy, measured(4), np.random.default_rng(seed)) for seed in range(40)}
    assert drawn == {0, 1, 2, 3}


def test_running_and_failed_trials_are_not_in_the_population() -> None:
    history = measured(6)
    history.add(replace(history[0], number=6, state="failed", metrics={}))
    history.add(replace(history[0], number=7, state="running", metrics={}))
    strategy = TournamentEvolution(population=7, tournament=1.0)
    assert parent(strategy, history, np.random.default_rng(0)) == 5
    more = TournamentEvolution(population=8, mutations=0).start(SPACE)
    assert more.ask(history, np.random.default_rng(0)).note == {}  # six are measured, and one runs


def test_the_first_architectures_are_the_default_after_mutations() -> None:
    class Counted(Chain):
        mutated = 0

        def mutate(self, arch: Any, rng: Any) -> Any:
            self.mutated += 1
            return super().mutate(arch, rng)

    space, history = Counted(6), History(SPACE.decision_space, [Maximize("value")])
    rng = np.random.default_rng(0)
    TournamentEvolution().start(space).ask(history, rng)
    assert space.mutated == 1000
    assert TournamentEvolution(mutations=0).start(space).ask(history, rng).arch == space.default()
    one = TournamentEvolution(mutations=1).start(space).ask(history, rng).arch
    assert sum(one[label] != value for label, value in space.default().items()) == 1


def test_a_search_of_hierarchical_cells() -> None:
    """After the first, every trial differs from its parent in one edge; the identities win."""
    space = HierarchicalCells(1, dataset=(1, 2, 2), motifs=((2, 3),), num_nodes=3)
    target = space.default()

    def equal(trial: Trial) -> dict[str, float]:
        return {"value": float(sum(target[label] == value for label, value in trial.arch.items()))}

    strategy = TournamentEvolution(population=10, tournament=0.2, mutations=20)
    history = search(strategy, space, equal, 300)
    for trial in list(history)[10:]:
        other = history[trial.note["parent"]].arch
        assert sum(trial.arch[label] != value for label, value in other.items()) == 1
    assert history.best_trial is not None
    assert history.best_trial.arch == target


@pytest.mark.parametrize("setting", ["population", "tournament"])
def test_settings_are_checked(setting: str) -> None:
    with pytest.raises(SpaceError, match=f"{setting}=0 must be"):
        TournamentEvolution(**{setting: 0})
