"""Evolution by a predictor: what it asks, what it finds, and the limit that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.language import Architecture
from spacelang.strategies import PredictedEvolution
from spacelang.strategies.multi_trial.predicted_evolution import accuracy_predictor
from spacelang.strategies.multi_trial.predictors import MLPEnsemble
from spacelang.testing import check_strategy
from spacelang.trials import Trial, key_of

from ...toys.trials import Chain
from .drive import search

VALUE = {"one": 0, "two": 1, "three": 2}
SMALL: dict[str, Any] = {"initial": 4, "round_size": 3, "population": 8, "generations": 5, "parents": 0.25}


def total(arch: Architecture) -> float:
    return float(sum(VALUE[value] for value in arch.values()))


def value(trial: Trial) -> dict[str, float]:
    return {"value": total(trial.arch)}


class Oracle:
    """A predictor that knows the answer."""

    def __init__(self) -> None:
        self.fits: list[int] = []
        self.asked: list[list[float]] = []

    def fit(self, archs: Sequence[Architecture], values: Any, rng: Any) -> None:
        self.fits.append(len(archs))

    def predict(self, archs: Sequence[Architecture]) -> tuple[Any, Any]:
        self.asked.append([total(arch) for arch in archs])
        return np.array(self.asked[-1]), np.zeros(len(archs))


def test_a_round_evolves_by_the_predictor_alone() -> None:
    """A population of 8, of which 2 survive and have 6 children, for 5 generations; then 3 trials."""
    oracle = Oracle()
    history = search(PredictedEvolution(predictor=lambda space: oracle, **SMALL), Chain(12), value, 10)
    assert oracle.fits == [4, 7]
    assert [len(values) for values in oracle.asked] == 2 * [8, *5 * [6]]
    first = oracle.asked[:6]
    chosen = [total(history[number].arch) for number in (4, 5, 6)]
    assert chosen[0] == max(map(max, first))  # what was best survived
    assert chosen == sorted(chosen, reverse=True)
    assert len({key_of(trial.arch) for trial in history}) == 10


def test_it_finds_the_optimum() -> None:
    settings = SMALL | {"population": 50, "generations": 40}
    history = search(PredictedEvolution(predictor=lambda space: Oracle(), **settings), Chain(12), value, 5)
    assert total(history[4].arch) == 24  # one of 531,441


def test_what_breaks_the_limit_is_never_tried() -> None:
    def small(arch: Architecture) -> bool:
        return list(arch.values()).count("three") <= 2

    strategy = PredictedEvolution(
        predictor=lambda space: Oracle(), filter=small, **SMALL | {"generations": 60}
    )
    history = search(strategy, Chain(12), value, 16)
    assert all(small(trial.arch) for trial in history)
    assert max(total(trial.arch) for trial in history) == 14  # two threes, and ten twos


def test_a_limit_that_nothing_keeps_ends_the_search() -> None:
    strategy = PredictedEvolution(filter=lambda arch: False)
    assert len(search(strategy, Chain(3), value, 5)) == 0


def test_the_predictor_learns_which_layers_are_good() -> None:
    space = Chain(6)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(150)]
    predictor = accuracy_predictor(space)
    predictor.fit(archs[:100], np.array([total(arch) for arch in archs[:100]]), rng)
    means, _ = predictor.predict(archs[100:])
    assert np.corrcoef(means, [total(arch) for arch in archs[100:]])[0, 1] > 0.95


@pytest.mark.slow
def test_it_keeps_the_promises() -> None:
    def quick(space: Any) -> MLPEnsemble:
        return MLPEnsemble(space.encode, members=1, depth=1, width=8, epochs=3)

    check_strategy(PredictedEvolution(predictor=quick, **SMALL))


def test_misuse() -> None:
    with pytest.raises(SpaceError, match="parents=0"):
        PredictedEvolution(parents=0)
    with pytest.raises(SpaceError, match="generations=0"):
        PredictedEvolution(generations=0)
