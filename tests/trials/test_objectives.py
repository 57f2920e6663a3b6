"""Directions, ranks and fronts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.language.decision_space import DecisionSpace, Site
from spacelang.language.decisions import Categorical
from spacelang.trials import History, Maximize, Minimize, Objective, Trial, pareto_front
from spacelang.trials.objectives import dominates, fronts

from ..toys.trials import Chain

NAN = float("nan")


def history(*metrics: dict[str, float], objectives: list[Objective]) -> History:
    archs = list(Chain().grid())
    trials = [Trial(i, archs[i], 0, "done", metrics=m) for i, m in enumerate(metrics)]
    return History(Chain().decision_space, objectives, trials)


def test_directions_and_nan() -> None:
    values = [{"a": 1.0}, {"a": 3.0}, {"a": NAN}, {"a": 2.0}]
    up, down = (history(*values, objectives=[kind("a")]) for kind in (Maximize, Minimize))
    assert [t.number for t in up.ranked(9)] == [1, 3, 0, 2]
    assert [t.number for t in down.ranked(9)] == [0, 3, 1, 2]
    assert up.best_trial.number == 1  # type: ignore[union-attr]
    assert down.best_trial.number == 0  # type: ignore[union-attr]
    assert Minimize("a").score({"a": NAN}) == -math.inf


def test_ties_go_to_the_lowest_number_and_an_architecture_counts_once() -> None:
    archs = list(Chain().grid())
    trials = [Trial(i, archs[i % 2], 0, "done", metrics={"a": 1.0}) for i in range(4)]
    known = History(Chain().decision_space, [Maximize("a")], trials)
    assert [t.number for t in known.ranked(9)] == [0, 1]


def test_a_missing_metric_is_named_with_the_closest() -> None:
    with pytest.raises(SpaceError, match=r"'val_ac' is not among the metrics .*val_acc"):
        Maximize("val_ac").score({"val_acc": 1.0})


def test_an_objective_has_a_direction() -> None:
    with pytest.raises(SpaceError, match="Maximize"):
        Objective("a")


@pytest.mark.parametrize("count", [2, 3])
def test_fronts_equal_brute_force(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(50):
        scores = [tuple(row) for row in rng.integers(5, size=(25, count)).tolist()]
        expected = [i for i, a in enumerate(scores) if not any(dominates(b, a) for b in scores)]
        assert pareto_front(scores) == expected
        ranks = fronts(scores)
        assert sorted(i for front in ranks for i in front) == list(range(25))
        assert ranks[0] == expected


def test_front_of_a_grid() -> None:
    """Every architecture of 27: the front of (product, sum) by brute force."""
    space = Chain()
    trials = []
    for number, arch in enumerate(space.grid()):
        factors = [("one", "two", "three").index(v) + 1 for v in arch.values()]
        metrics = {"product": float(np.prod(factors)), "sum": float(sum(factors))}
        trials.append(Trial(number, arch, 0, "done", metrics=metrics))
    known = History(space.decision_space, [Maximize("product"), Minimize("sum")], trials)
    points = {(t.metrics["product"], t.metrics["sum"]) for t in trials}
    best = {p for p in points if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in points)}
    assert {(t.metrics["product"], t.metrics["sum"]) for t in known.pareto()} == best
    assert [t.number for t in known.ranked(3)] == [t.number for t in known.pareto()[:3]]


@pytest.mark.parametrize("kept", [100, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_standing_is_that_of_all_trials_at_every_time(
    count: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means by architecture, compared by brute force while 60 trials of 12 architectures come."""
    monkeypatch.setattr("spacelang.trials.history._IN_FRONTS", kept)
    rng = np.random.default_rng(count)
    archs = list(itertools.islice(Chain().grid(), 12))
    objectives = [Maximize(name) for name in "abc"[:count]]
    known = History(Chain().decision_space, objectives)
    rows: dict[int, list[tuple[float, ...]]] = {}
    for number in range(60):
        k = int(rng.integers(12))
        row = tuple(map(float, rng.integers(6, size=count)))
        rows.setdefault(k, []).append(row)
        known.add(Trial(number, archs[k], 0, "done", metrics=dict(zip("abc", row, strict=False))))
        if number % 3 == 0:
            means = {j: tuple(map(fmean, zip(*values, strict=True))) for j, values in rows.items()}
            front = [m for m in means.values() if not any(dominates(o, m) for o in means.values())]
            assert sorted(map(known.scores, known.pareto())) == sorted(front)
            if count == 1:
                assert [known.score(t) for t in known.ranked()] == sorted(m[0] for m in means.values())[::-1]
            fresh = History(known.space, objectives, list(known))
            assert [known.ranked(k) for k in range(13)] == [fresh.ranked()[:k] for k in range(13)]


def test_work_of_a_standing_grows_with_the_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked after every trial, it does not look at all of them again."""
    looked, scores = Counter[int](), History.scores
    space = DecisionSpace((Site(Categorical("a", range(400))),))

    def work(number: int) -> int:
        def counted(known: History, trial: Trial) -> tuple[float, ...]:
            looked[number] += 1
            return scores(known, trial)

        monkeypatch.setattr(History, "scores", counted)
        known = History(space, [Maximize("x"), Minimize("y")])
        for i in range(number):
            known.add(Trial(i, {"a": i}, 0, "done", metrics={"x": i, "y": -i}))
            known.ranked(1)
            known.pareto()
        return looked[number]

    assert work(400) < 2.5 * work(200)


def test_nan_is_on_no_front() -> None:
    objectives = [Maximize("a"), Minimize("b")]
    known = history({"a": 1.0, "b": NAN}, {"a": 0.5, "b": 2.0}, objectives=objectives)
    assert [t.number for t in known.pareto()] == [1]


def test_an_architecture_is_judged_by_the_mean_of_its_trials() -> None:
    """One lucky seed of three does not make the best; its weights would be those of the best seed."""
    lucky, steady = {"layer": "lucky"}, {"layer": "steady"}
    values = [(lucky, 0.9), (steady, 0.5), (lucky, 0.1), (steady, 0.7), (lucky, 0.2), (steady, 0.6)]
    trials = [Trial(i, arch, 0, "done", metrics={"a": value}) for i, (arch, value) in enumerate(values)]
    known = History(Chain().decision_space, [Maximize("a")], trials)
    assert [(t.arch, t.number, t.metrics["a"]) for t in known.ranked(9)] == [
        (steady, 3, pytest.approx(0.6)),
        (lucky, 0, pytest.approx(0.4)),
    ]
    known = History(Chain().decision_space, [Maximize("a"), Minimize("b")])
    for trial in trials:
        known.add(replace(trial, metrics={**trial.metrics, "b": 1.0}))
    assert [t.number for t in known.pareto()] == [3]


def test_an_architecture_is_judged_by_its_most_epochs() -> None:
    trials = [
        Trial(0, {"layer": "early"}, 0, "done", max_epochs=1, metrics={"a": 0.8}),
        Trial(1, {"layer": "late"}, 0, "done", max_epochs=1, metrics={"a": 0.3}),
        Trial(2, {"layer": "early"}, 0, "done", max_epochs=9, metrics={"a": 0.5}),
        Trial(3, {"layer": "late"}, 0, "done", metrics={"a": 0.6}),
        Trial(4, {"layer": "late"}, 0, "done", max_epochs=9, metrics={"a": 0.9}),
    ]
    known = History(Chain().decision_space, [Maximize("a")], trials)
    assert [(t.number, t.metrics["a"]) for t in known.ranked(9)] == [(3, 0.6), (2, 0.5)]
