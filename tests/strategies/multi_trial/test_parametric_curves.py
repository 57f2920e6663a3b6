"""Extrapolated learning curves: families in numbers, the sampler on a known density, the stopping rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.strategies.multi_trial import ParametricCurveStopping, Random
from spacelang.strategies.multi_trial.wrappers.parametric_curves import FAMILIES, CurvePosterior, ensemble
from spacelang.trials import History, Maximize, Minimize, Report, Trial

from ...toys.trials import Chain

# At x = 10 with the first parameters of the authors' library.
AT_TEN = {
    "pow3": 0.33183665, "pow4": 0.33237578, "log_power": 0.31914848, "weibull": 0.15709755,
    "mmf": 0.10000600, "janoschek": 0.49291739, "ilog2": 0.59325337, "hill": 0.53654117,
    "vapour": 0.56463092, "exp4": 0.60893756, "log_log": 0.97504727,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    family = FAMILIES[name]
    x = 9.0 if name == "ilog2" else 10.0  # it is of x + 1
    assert float(family.curve(x, *family.start)) == pytest.approx(AT_TEN[name], abs=5e-9)


def test_the_sampler_on_a_gaussian() -> None:
    """Mean (1, -2), variances 1 and 4, covariance 1."""
    mean, covariance = np.array([1.0, -2.0]), np.array([[1.0, 1.0], [1.0, 4.0]])
    inverse = np.linalg.inv(covariance)

    def log_density(states: Any) -> Any:
        return -0.5 * np.einsum("ni,ij,nj->n", states - mean, inverse, states - mean)

    rng = np.random.default_rng(0)
    found = ensemble(log_density, rng.normal(size=(40, 2)), 2000, rng)
    assert found.shape == (40 * 100, 2)
    np.testing.assert_allclose(found.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.3)


def test_probability_of_a_sample() -> None:
    one = CurvePosterior(np.array([0.62]), np.array([0.02]))
    assert 1 - one.probability_above(0.65) == pytest.approx(0.93319280, abs=5e-9)
    two = CurvePosterior(np.array([0.62, 0.65]), np.array([0.02, 0.1]))
    assert two.probability_above(0.65) == pytest.approx((1 - 0.93319280 + 0.5) / 2, abs=5e-9)


def saturating(t: float) -> float:
    return 0.5 - 0.3 * math.exp(-t / 2)


def rising(t: float) -> float:
    return 0.9 - 0.6 * t**-0.6  # 0.82 at 30


def test_the_posterior_of_two_curves() -> None:
    """One has ended its rise at 0.5; of the other nobody knows yet whether it gets to 0.8."""
    x = np.arange(1.0, 9)
    found = {}
    for curve in (saturating, rising):
        y = np.array([curve(t) for t in x])
        found[curve] = CurvePosterior.sampled(x, y, 30, np.random.default_rng(0), walkers=40, steps=200)
    assert found[saturating].means.mean() == pytest.approx(0.5, abs=0.1)
    assert found[saturating].probability_above(0.8) < 0.05
    assert 0.2 < found[rising].probability_above(0.8) < 0.9
    assert ((found[rising].means >= 0) & (found[rising].means <= 1)).all()  # an accuracy
    again = CurvePosterior.sampled(x, y, 30, np.random.default_rng(0), walkers=40, steps=200)
    np.testing.assert_array_equal(again.means, found[rising].means)


# -- which trials are stopped --------------------------------------------------------------------------------


def trial_of(number: int, curve: Callable[[float], float], epochs: int, **settings: Any) -> Trial:
    values = [curve(t) for t in range(1, epochs + 1)]
    reports = tuple(Report(epoch, {"value": value}) for epoch, value in enumerate(values))
    given = {"state": "done", "metrics": {"value": values[-1]}, **settings}
    return Trial(number, {"layer0": "one"}, seed=number, reports=reports, **given)


def goes_on(trial: Trial, *others: Trial, objective: Any = None, **settings: Any) -> bool:
    history = History(Chain(1).decision_space, [objective or Maximize("value")], others)
    settings = {"walkers": 40, "steps": 200, "min_epochs": 8, **settings}
    proposer: Any = ParametricCurveStopping(Random(), **settings).start(Chain(1))
    return bool(proposer.goes_on(trial, history))


BEST = trial_of(0, rising, 30)


def running(curve: Callable[[float], float], epochs: int = 8, **settings: Any) -> Trial:
    return trial_of(7, curve, epochs, state="running", metrics={}, **settings)


def test_what_will_not_be_best_is_stopped() -> None:
    assert not goes_on(running(saturating), BEST)
    assert goes_on(running(rising), BEST)


def test_losses() -> None:
    """The same curves as losses from 2 (worst) to 0."""
    losses: Sequence[Callable[[float], float]] = [lambda t, f=f: 2 - 2 * f(t) for f in (rising, saturating)]
    best, settings = trial_of(0, losses[0], 30), {"objective": Minimize("value"), "worst": 2.0, "best": 0.0}
    assert not goes_on(running(losses[1]), best, **settings)
    assert goes_on(running(losses[0]), best, **settings)


@pytest.mark.parametrize(
    ("trial", "others"),
    [
        (running(saturating, 7), (BEST,)),  # before min_epochs
        (running(saturating, 9), (BEST,)),  # between decisions, every=2
        (running(saturating), ()),  # nothing to compare with
        (running(saturating), (trial_of(0, rising, 8),)),  # as long as any
        (running(saturating, max_epochs=30), (BEST,)),  # others have another number of epochs
        (running(lambda t: math.nan if t == 3 else 0.1), (BEST,)),
    ],
    ids=["early", "between", "alone", "end", "other", "nan"],
)
def test_trials_that_go_on_unseen(trial: Trial, others: tuple[Trial, ...]) -> None:
    assert goes_on(trial, *others, every=2)


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"worst": 1.0}, {"min_epochs": 1}, {"walkers": 2}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match=next(iter(settings))):
        ParametricCurveStopping(Random(), **settings)
