"""Learning curves: features and stopping rule of the paper, which curves count, and known curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import ASHA, LearningCurveStopping, Random, nu_svr
from spacelang.strategies.multi_trial.wrappers.learning_curve import (
    FinalValue,
    curve_features,
    probability_up_to,
)
from spacelang.trials import History, Maximize, Minimize, Objective, Report, Trial

from ...toys import trials as toy
from ...toys.trials import Chain

pytestmark = pytest.mark.slow

EPOCHS = 12
MIN_CURVES, MIN_EPOCHS = 24, 2
EXACT = LearningCurveStopping(
    Random(), min_curves=MIN_CURVES, min_epochs=MIN_EPOCHS, regressor=LinearRegression()
)


def test_features() -> None:
    expected = [0.30, 0.45, 0.52, 0.55, 0.15, 0.07, 0.03, -0.08, -0.04]
    np.testing.assert_allclose(curve_features(np.array([0.30, 0.45, 0.52, 0.55])), expected, atol=1e-12)
    assert curve_features(np.array([0.3])).tolist() == [0.3]
    np.testing.assert_allclose(curve_features(np.array([0.30, 0.45])), [0.30, 0.45, 0.15])


def test_stopping_rule() -> None:
    probability = probability_up_to(0.65, mean=0.62, std=0.02)
    assert probability == pytest.approx(0.93319280, abs=5e-9)
    assert not LearningCurveStopping(Random(), delta=0.95).stops(probability)
    assert LearningCurveStopping(Random(), delta=0.93).stops(probability)
    assert [probability_up_to(0.5, mean, std=0.0) for mean in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]


def test_error_of_a_model() -> None:
    """Leave-one-out errors of least squares are e_i / (1 - h_i), with leverages h_i."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), 40 + 9 * rng.normal(size=12)
    found = FinalValue.fit(LinearRegression(), x, y, rng)
    design = np.column_stack([np.ones(12), x])
    hat = design @ np.linalg.pinv(design)
    errors = (y - hat @ y) / (1 - np.diag(hat))
    assert found.std == pytest.approx(math.sqrt(np.mean(errors**2)))
    assert [found.predict(row) for row in x] == pytest.approx(hat @ y)


# -- curves known in closed form -----------------------------------------------------------------------------


def values(factors: Sequence[int]) -> list[float]:
    """a (1 - exp(-t / c)) for t = 1, ..., 12: 81 different a, and two c; a third are quick and end low.

    Curves of two speeds are linear in two values, so that least squares on y_1 and y_2 is exact.
    """
    rank = sum(3**i * (factor - 1) for i, factor in enumerate(factors))
    a = 0.4 + 0.5 * (rank * 37 % 81) / 81
    a, c = (0.7 * a, 2.0) if factors[0] == 1 else (a, 6.0)
    return [a * (1 - math.exp(-t / c)) for t in range(1, EPOCHS + 1)]


def accuracy(model: Any, report: Callable[..., None]) -> dict[str, float]:
    curve = values([int(layer.factor) for layer in model.layers])
    for epoch, value in enumerate(curve):
        report({"value": value}, epoch)
    return {"value": curve[-1]}


def loss(model: Any, report: Callable[..., None]) -> dict[str, float]:
    metrics = accuracy(model, lambda metrics, epoch: report({"loss": 10 - metrics["value"]}, epoch))
    return {"loss": 10 - metrics["value"]}


def curve_of(trial: Trial) -> list[float]:
    names = ["one", "two", "three"]
    return values([names.index(name) + 1 for name in trial.arch.values()])


def searched(strategy: Any, folder: Path, evaluate: Any = accuracy, *objectives: Objective) -> Experiment:
    """All 81 architectures, in an order that the seed decides."""
    experiment = Experiment(
        Chain(4),
        Functional(evaluate),
        strategy,
        objectives=objectives or (Maximize("value"),),
        directory=folder,
        seed=3,
    )
    experiment.run(resume=folder.exists() and any(folder.iterdir()))
    return experiment


def known_lengths(history: History) -> list[int]:
    """Epochs of every trial: once there are enough curves, only a new best gets to the end."""
    best, complete, lengths = -math.inf, 0, []
    for trial in history:
        end = curve_of(trial)[-1]
        stopped = complete >= MIN_CURVES and end <= best
        best, complete = max(best, end), complete + (not stopped)
        lengths.append(MIN_EPOCHS if stopped else EPOCHS)
    return lengths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return searched(EXACT, tmp_path_factory.mktemp("run"))


def test_exactly_those_that_will_not_be_best_are_stopped(run: Experiment, tmp_path: Path) -> None:
    everything = searched(Random(), tmp_path)
    lengths = [len(trial.reports) for trial in run.history]
    assert lengths == known_lengths(run.history)
    assert 81 * EPOCHS - sum(lengths) == 540  # epochs saved: of 57 trials all but three stop ten early
    assert [trial.arch for trial in run.history] == [trial.arch for trial in everything.history]
    assert run.best == everything.best


def test_a_resumed_search_stops_the_same_trials(run: Experiment, tmp_path: Path) -> None:
    calls = 0

    def fragile(model: Any, report: Callable[..., None]) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (10, 40, 52):
            raise KeyboardInterrupt
        return accuracy(model, report)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            searched(EXACT, tmp_path, fragile)
    resumed = searched(EXACT, tmp_path, fragile)
    assert trials_of(resumed) == trials_of(run)


def trials_of(experiment: Experiment) -> list[tuple[Any, ...]]:
    return [(trial.arch, trial.metrics, trial.reports) for trial in experiment.history]


def test_stopped_trials_keep_what_they_had(run: Experiment) -> None:
    for trial in run.history:
        assert trial.state == "done"
        assert trial.metrics["value"] == curve_of(trial)[len(trial.reports) - 1]


def test_curves_that_cross_are_told_apart(run: Experiment) -> None:
    """Whatever beats the best late in the search was behind another at the epoch in question."""
    curves = [curve_of(trial) for trial in run.history if len(trial.reports) == EPOCHS]
    for i, curve in enumerate(curves[MIN_CURVES:], start=MIN_CURVES):
        assert curve[1] < max(before[1] for before in curves[:i])
        assert curve[-1] > max(before[-1] for before in curves[:i])


def test_minimising_is_the_same(run: Experiment, tmp_path: Path) -> None:
    down = searched(EXACT, tmp_path, loss, Minimize("loss"))
    assert [len(t.reports) for t in down.history] == [len(t.reports) for t in run.history]
    assert down.best == run.best


# -- which curves count --------------------------------------------------------------------------------------


class Remembering(BaseEstimator):  # type: ignore[misc]
    """Predicts the mean, and keeps what it was fitted to."""

    seen: list[tuple[Any, Any]] = []
    states: list[int] = []

    def __init__(self, random_state: Any = None) -> None:
        self.random_state = random_state

    def fit(self, x: Any, y: Any) -> Remembering:
        self.seen.append((x, y))
        self.states.append(self.random_state)
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.mean_)


def trial_of(number: int, curve: Sequence[float], **changes: Any) -> Trial:
    reports = tuple(Report(epoch, {"value": value}) for epoch, value in enumerate(curve))
    arch = {"layer0": ["one", "two", "three"][number % 3]}
    metrics = {"value": curve[-1]} if curve else {}
    settings: dict[str, Any] = {"state": "done", "reports": reports, "metrics": metrics, **changes}
    return Trial(number, arch, seed=number, **settings)


def history_of(*trials: Trial) -> History:
    return History(Chain(1).decision_space, [Maximize("value")], trials)


def asked(history: History, trial: Trial, **settings: Any) -> tuple[bool, list[tuple[Any, Any]]]:
    """Whether a trial goes on, and what models were fitted to."""
    settings = {"min_curves": 3, "regressor": Remembering(), **settings}
    proposer: Any = LearningCurveStopping(Random(), **settings).start(Chain(1))
    Remembering.seen = []
    return proposer.goes_on(trial, history), Remembering.seen


RISING = [(0.1, 0.2, 0.3), (0.2, 0.3, 0.4), (0.3, 0.5, 0.7)]
COMPLETE = tuple(trial_of(i, curve) for i, curve in enumerate(RISING))
RUNNING = trial_of(20, (0.1, 0.2), state="running", metrics={})


def test_a_model_sees_architecture_and_curve() -> None:
    _, seen = asked(history_of(*COMPLETE), RUNNING)
    x, y = seen[0]
    expected = [[1, 0, 0, 0.1, 0.2, 0.1], [0, 1, 0, 0.2, 0.3, 0.1], [0, 0, 1, 0.3, 0.5, 0.2]]
    np.testing.assert_allclose(x, expected, atol=1e-7)
    ends = np.array([0.3, 0.4, 0.7])
    np.testing.assert_allclose(y, (ends - ends.mean()) / ends.std())


def test_the_value_learnt_is_that_of_the_finished_trial() -> None:
    """An evaluator may end with another value than it reported last."""
    other = replace(COMPLETE[0], metrics={"value": 0.9})
    _, seen = asked(history_of(other, *COMPLETE[1:]), RUNNING)
    assert np.argmax(seen[0][1]) == 0


@pytest.mark.parametrize(
    "other",
    [
        trial_of(5, (0.5, 0.6)),  # was stopped
        trial_of(5, (0.5, 0.6, 0.9), max_epochs=3),
        trial_of(5, (0.5, 0.6, 0.9), overrides={"layers": 2}),
        trial_of(5, (0.5, math.nan, 0.9)),
        trial_of(5, (0.5, 0.6, math.nan)),
        trial_of(5, (), metrics={"value": 0.5}),
        trial_of(5, (0.5, 0.6, 0.7), state="failed"),
        trial_of(5, (0.5, 0.6), state="running"),
        trial_of(5, (0.5, 0.6, 0.7), reports=(Report(0, {"value": 0.5}), Report(2, {"value": 0.7}))),
    ],
    ids=["short", "max_epochs", "overrides", "nan", "nan-end", "silent", "failed", "running", "gap"],
)
def test_other_curves_are_not_learnt_from(other: Trial) -> None:
    _, seen = asked(history_of(*COMPLETE, other), RUNNING)
    assert len(seen[0][1]) == 3


def test_a_longer_curve_makes_others_incomplete() -> None:
    history = history_of(*COMPLETE, trial_of(5, (0.5, 0.6, 0.7, 0.8)))
    assert asked(history, RUNNING) == (True, [])


def test_peers_have_the_same_epochs_and_overrides() -> None:
    kind = {"max_epochs": 3, "overrides": {"layers": 1}}
    peers = [replace(trial, number=trial.number + 10, **kind) for trial in COMPLETE]
    best = trial_of(4, (0.5, 99.0))  # of another kind
    history = History(
        Chain(1).decision_space,
        [Maximize("value")],
        [best, *peers],
        rebuilt=lambda overrides: Chain(**overrides).decision_space,
    )
    goes_on, seen = asked(history, replace(RUNNING, **kind), delta=0.99)
    assert goes_on  # 0.7 is the best: with a mean of 0.47 and an error of 0.25 it may still get there
    assert len(seen[0][1]) == 3
    assert not asked(history_of(*COMPLETE, best), RUNNING, delta=0.99)[0]


def test_too_early_to_say() -> None:
    history = history_of(*COMPLETE, trial_of(4, (0.1, 9.0)))  # nothing gets to 9
    assert not asked(history, RUNNING)[0]
    assert asked(history, RUNNING, min_curves=4) == (True, [])
    assert asked(history, RUNNING, min_epochs=3) == (True, [])
    assert not asked(history, RUNNING, min_epochs=2)[0]
    assert asked(history, trial_of(20, (0.1, math.nan), state="running")) == (True, [])
    assert asked(history, trial_of(20, (0.1, 0.2, 0.3), state="running")) == (True, [])  # it has ended
    assert asked(history_of(), RUNNING) == (True, [])


def test_models_are_kept_until_there_is_another_curve() -> None:
    proposer: Any = LearningCurveStopping(Random(), min_curves=3, regressor=Remembering()).start(Chain(1))
    history = history_of(*COMPLETE)
    Remembering.seen = []
    fits = []
    for trial in (RUNNING, RUNNING, replace(RUNNING, number=21)):
        proposer.goes_on(trial, history)
        fits.append(len(Remembering.seen))
    assert fits == [4, 4, 4]  # once for all, and once without each
    history.add(trial_of(6, (0.5, 0.6)))  # stopped
    proposer.goes_on(RUNNING, history)
    assert len(Remembering.seen) == 4
    history.add(trial_of(7, (0.5, 0.6, 0.7)))
    proposer.goes_on(RUNNING, history)
    assert len(Remembering.seen) == 4 + 5


def test_the_last_complete_curve_seeds_a_model() -> None:
    def state(*trials: Trial, running: Trial = RUNNING) -> int:
        Remembering.states = []
        asked(history_of(*trials), running)
        assert len(set(Remembering.states)) == 1  # the models for its error are the same
        return Remembering.states[0]

    first = state(*COMPLETE)
    assert first == state(*COMPLETE) == state(*COMPLETE, running=replace(RUNNING, seed=5))
    assert first == state(replace(COMPLETE[0], seed=5), *COMPLETE[1:])
    assert first != state(*COMPLETE[:2], replace(COMPLETE[2], seed=5))
    assert first != state(*COMPLETE, running=replace(RUNNING, reports=RUNNING.reports[:1]))


def test_a_strategy_inside_stops_trials_too(tmp_path: Path) -> None:
    inside = ASHA(Random(), 10)
    alone = Experiment(toy.Chain(3), Functional(toy.curve), inside, directory=tmp_path / "alone")
    around = Experiment(
        toy.Chain(3), Functional(toy.curve), LearningCurveStopping(inside), directory=tmp_path / "around"
    )
    for run in (alone, around):  # fewer than 20 trials get to the end
        run.run()
    assert toy.trials_of(around) == toy.trials_of(alone)
    assert {len(trial.reports) for trial in around.history} == {1, 3, 10}


# -- the regressor -------------------------------------------------------------------------------------------


def test_the_best_of_random_settings_is_chosen() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    y = x[:, 0] + 0.1 * rng.normal(size=30)
    one, again, other = (FinalValue.fit(nu_svr(8), x, y, np.random.default_rng(i)).model for i in (0, 0, 1))
    assert len(one.cv_results_["params"]) == 8
    assert one.best_params_ == one.cv_results_["params"][np.argmax(one.cv_results_["mean_test_score"])]
    assert one.n_splits_ == 3
    assert one.cv_results_["params"] == again.cv_results_["params"]
    assert one.cv_results_["params"] != other.cv_results_["params"]


def test_support_vectors_tell_curves_apart() -> None:
    """Thirty ends from 0.3 to 0.9: at the second epoch of six, 0.4 has no chance and 0.92 has."""

    def curve(end: float) -> list[float]:
        return [end * (1 - math.exp(-t / 3)) for t in range(1, 7)]

    ends = 0.3 + 0.6 * np.random.default_rng(0).permutation(30) / 29
    history = history_of(*(trial_of(i, curve(end)) for i, end in enumerate(ends)))
    proposer: Any = LearningCurveStopping(Random(), regressor=nu_svr(20)).start(Chain(1))
    low, high = (trial_of(30, curve(end)[:2], state="running") for end in (0.4, 0.92))
    assert not proposer.goes_on(low, history)
    assert proposer.goes_on(high, history)


def test_settings_are_checked() -> None:
    with pytest.raises(SpaceError, match="delta=95 must be a number above 0 and below 1"):
        LearningCurveStopping(Random(), delta=95)
    with pytest.raises(SpaceError, match="min_curves=2 must be an integer of at least 3"):
        LearningCurveStopping(Random(), min_curves=2)
    with pytest.raises(SpaceError, match="LearningCurveStopping needs a scikit-learn regressor"):
        LearningCurveStopping(Random(), regressor=LinearRegression)
