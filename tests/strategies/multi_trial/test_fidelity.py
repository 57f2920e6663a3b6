"""Rungs of epochs: the tables of the papers, who is promoted, and trials that are stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies import (
    ASHA,
    Deduplicate,
    Grid,
    Hyperband,
    Random,
    RegularizedEvolution,
    SuccessiveHalving,
)
from spacelang.trials import History, Trial

from ...toys import trials as toy
from ...toys.trials import Chain
from .drive import search

TABLE = {
    4: ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
    3: ((34, 3), (11, 9), (3, 27), (1, 81)),
    2: ((15, 9), (5, 27), (1, 81)),
    1: ((8, 27), (2, 81)),
    0: ((5, 81),),
}


def digits(trial: Trial) -> dict[str, float]:
    """The better, the more epochs; ranks do not change."""
    product = 1
    for value in trial.arch.values():
        product *= {"one": 1, "two": 2, "three": 3}[value]
    return {"value": product * (trial.max_epochs or 100) / 100}


def rungs(history: History) -> Counter[tuple[int, int, Any]]:
    return Counter((t.note["bracket"], t.note["rung"], t.max_epochs) for t in history)


def test_hyperband_table() -> None:
    """R = 81, eta = 3, as in the paper."""
    assert Hyperband(Random(), 81).brackets == tuple(TABLE.values())


def test_other_tables() -> None:
    assert Hyperband(Random(), 9).brackets == (((9, 1), (3, 3), (1, 9)), ((5, 3), (1, 9)), ((3, 9),))
    assert Hyperband(Random(), 8, min_epochs=2, eta=2).brackets[0] == ((4, 2), (2, 4), (1, 8))
    assert Hyperband(Random(), 1).brackets == (((1, 1),),)
    assert SuccessiveHalving(Random(), 9, trials=9).brackets == (((9, 1), (3, 3), (1, 9)),)
    assert SuccessiveHalving(Random(), 100, trials=20).brackets == (((20, 11), (6, 33), (2, 100)),)


def test_a_search_follows_the_table() -> None:
    history = search(Hyperband(Random(), 9), Chain(4), digits, 23)
    expected = {(0, 0, 1): 9, (0, 1, 3): 3, (0, 2, 9): 1, (1, 0, 3): 5, (1, 1, 9): 1, (2, 0, 9): 3}
    assert rungs(history) == expected | {(3, 0, 1): 1}  # and again from the first bracket


def test_the_best_are_promoted() -> None:
    history = search(SuccessiveHalving(Random(), 9, trials=9), Chain(4), digits, 13)
    by_rung: dict[int, list[Trial]] = {}
    for trial in history:
        by_rung.setdefault(trial.note["rung"], []).append(trial)
    for rung in (1, 2):
        below = sorted(by_rung[rung - 1], key=history.score, reverse=True)
        assert [t.arch for t in by_rung[rung]] == [t.arch for t in below[: len(by_rung[rung])]]


def test_failures_are_not_promoted() -> None:
    def fragile(trial: Trial) -> dict[str, float] | None:
        return None if trial.number in (0, 1, 2, 3, 4, 5, 6, 9) else digits(trial)

    history = search(SuccessiveHalving(Random(), 9, trials=9), Chain(4), fragile, 12)
    assert rungs(history) == {(0, 0, 1): 9, (0, 1, 3): 2, (0, 2, 9): 1}
    assert history[11].arch == history[10].arch


def test_idle_workers_begin_the_next_bracket() -> None:
    history = search(SuccessiveHalving(Random(), 9, trials=9), Chain(5), digits, 39, workers=4)
    counts = rungs(history)
    assert [counts[0, rung, epochs] for rung, epochs in enumerate((1, 3, 9))] == [9, 3, 1]
    assert history[9].note["bracket"] == 1  # trials 6 to 8 were running
    for trial in history:
        if "first" in trial.note:
            assert trial.arch == history[trial.note["first"]].arch


def test_the_strategy_sees_each_architecture_once() -> None:
    proposer: Any = SuccessiveHalving(Random(), 9, trials=9).start(Chain(4))
    history = search(SuccessiveHalving(Random(), 9, trials=9), Chain(4), digits, 13)
    proposer.look(history)
    view = proposer.view
    assert len(view) == view.distinct == len(view.done) == 9
    epochs = {str(t.arch): t.max_epochs for t in history}  # the last of each
    assert all(view.score(t) == digits(t)["value"] and t.max_epochs == epochs[str(t.arch)] for t in view)


def test_it_wraps_any_strategy() -> None:
    for strategy in (Deduplicate(RegularizedEvolution(population=5, sample=2)), Grid()):
        history = search(Hyperband(strategy, 9), Chain(5), digits, 40)
        assert len(history) == 40


def test_a_space_that_runs_out_ends_the_search() -> None:
    assert len(search(SuccessiveHalving(Grid(), 9, trials=9), Chain(1), digits, 99)) == 3


def test_asha_rule() -> None:
    asha = ASHA(Random(), 27)
    assert asha.among_the_best(0.5, [0.5])
    assert asha.among_the_best(0.9, [0.5, 0.9])
    assert not asha.among_the_best(0.5, [0.5, 0.9])
    six = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # the best two of six go on
    assert [asha.among_the_best(score, six) for score in six] == [False] * 4 + [True] * 2
    assert not asha.among_the_best(float("-inf"), [float("-inf")])


def test_asha_stops_trials_at_rungs(tmp_path: Path) -> None:
    """Reports after each of ten epochs; rungs at 1, 3 and 9."""
    run = Experiment(toy.Chain(3), Functional(toy.curve), ASHA(Random(), 10), directory=tmp_path)
    run.run()
    reached: list[list[float]] = [[], [], []]
    for trial in run.history:
        value, ended = toy.product(run.space.freeze(trial.arch)), 10
        for rung, epochs in enumerate((1, 3, 9)):
            reached[rung].append(value)
            if sum(other > value for other in reached[rung]) >= max(1, len(reached[rung]) // 3):
                ended = epochs
                break
        assert len(trial.reports) == ended
        assert trial.metrics["default"] == pytest.approx(value * ended / 10)
    assert {len(trial.reports) for trial in run.history} == {1, 3, 10}


def test_max_epochs_end_trials(tmp_path: Path) -> None:
    run = Experiment(
        toy.Chain(2), Functional(toy.curve), Hyperband(Random(), 9), directory=tmp_path, max_trials=20
    )
    run.run()
    assert all(len(trial.reports) == trial.max_epochs for trial in run.history)


def test_settings_are_checked() -> None:
    with pytest.raises(SpaceError, match="eta=1 must be"):
        Hyperband(Random(), 9, eta=1)
    with pytest.raises(SpaceError, match="max_epochs=1 must be an integer of at least 2"):
        Hyperband(Random(), 1, min_epochs=2)
