"""Searches with a predictor: what they find, their rounds, and what they remember."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.language import Architecture
from spacelang.strategies.multi_trial import BOGCN, Bananas, Deduplicate, Random, WarmStart
from spacelang.strategies.multi_trial.bogcn import _by_front
from spacelang.strategies.multi_trial.predictors import GraphNetwork, MLPEnsemble, Regressor
from spacelang.testing import check_strategy, toy_spaces
from spacelang.trials import Exhausted, History, Maximize, Minimize, Objective, Trial, key_of, unused_features

from ...toys.trials import Chain, product
from . import drive

pytestmark = pytest.mark.slow

VALUE = {"one": 0, "two": 1, "three": 2}


def total(arch: Architecture) -> float:
    return float(sum(VALUE[value] for value in arch.values()))


class Counting:
    """A predictor that knows the answer and counts how often it is asked."""

    def __init__(self) -> None:
        self.fits: list[int] = []

    def fit(self, archs: Sequence[Architecture], values: Any, rng: np.random.Generator) -> None:
        assert list(values) == [total(arch) for arch in archs]
        self.fits.append(len(archs))

    def predict(self, archs: Sequence[Architecture]) -> tuple[Any, Any]:
        return np.array([total(arch) for arch in archs]), np.zeros(len(archs))


def measured(trial: Trial) -> dict[str, float]:
    ones = sum(value == "one" for value in trial.arch.values())
    return {"value": total(trial.arch), "ones": float(ones)}


def search(strategy: Any, trials: int, layers: int = 6, **settings: Any) -> History:
    return drive.search(strategy, Chain(layers), measured, trials, **settings)


def best_value(history: History) -> float:
    assert history.best_trial is not None
    return history.best_trial.metrics["value"]


def quick_mlp(space: Any) -> MLPEnsemble:
    return MLPEnsemble(space.encode, members=2, depth=2, epochs=20)


def quick_gcn(space: Any) -> GraphNetwork:
    return GraphNetwork(space, layers=2, width=8, epochs=10)


@pytest.mark.parametrize(
    "strategy",
    [
        Bananas(initial=4, round_size=3, candidates=12, predictor=quick_mlp),
        BOGCN(initial=4, round_size=3, candidates=12, network=quick_gcn),
    ],
)
def test_it_keeps_the_promises_of_a_strategy(strategy: Any) -> None:
    check_strategy(strategy, trials=14)


@pytest.mark.parametrize("strategy", [Bananas(round_size=5), BOGCN(round_size=5)])
def test_it_finds_more_than_random_search(strategy: Any) -> None:
    """Of 729 architectures 30 are tried; the best has 12."""

    guided = [best_value(search(strategy, 30, seed=seed)) for seed in range(3)]
    random = [best_value(search(Random(), 30, seed=seed)) for seed in range(3)]
    assert sum(guided) > sum(random)
    assert min(guided) >= 11


def test_a_round_is_fitted_once_and_proposes_the_best_candidates() -> None:
    counting = Counting()
    history = search(
        Bananas(initial=4, round_size=5, candidates=40, predictor=lambda space: counting), trials=15
    )
    assert counting.fits == [4, 9, 14]
    assert len({key_of(trial.arch) for trial in history}) == 15
    rounds = [trial.note.get("round") for trial in history]
    assert rounds == [None] * 4 + [4] * 5 + [9] * 5 + [14]
    values = [trial.metrics["value"] for trial in history]
    assert values[4:9] == sorted(values[4:9], reverse=True)
    assert min(values[4:9]) > np.mean(values[:4])


def test_candidates_may_all_be_mutations_of_the_best() -> None:
    """Of the first parent until few are new, then of the next; an architecture here has 10 neighbours."""
    space = Chain(5)
    history = search(Random(), 8, layers=5)
    first, second = (trial.arch for trial in history.ranked(2))
    strategy = Bananas(candidates=14, mutations=100, random_share=0.0)
    tried = {key_of(trial.arch) for trial in history}
    rng = np.random.default_rng(0)
    candidates = {key_of(arch) for arch in strategy.start(space)._candidates(history, tried, rng)}
    around = [{key_of(x) for x in space.decision_space.neighbours(arch)} - tried for arch in (first, second)]
    assert len(candidates) == 14
    assert around[0] <= candidates <= around[0] | around[1]
    alone = Bananas(candidates=14, parents=1, random_share=0.0).start(space)
    assert {key_of(arch) for arch in alone._candidates(history, tried, rng)} == around[0]
    authors = Bananas.authors(round_size=5)
    assert (authors.mutations, authors.random_share, authors.round_size) == (100, 0.0, 5)
    ensemble = authors.predictor(space)
    assert isinstance(ensemble, MLPEnsemble)
    assert (ensemble.epochs, ensemble.batch_size, ensemble.betas) == (150, 32, (0.9, 0.99))


def test_a_round_resumes_in_the_middle_with_trials_running() -> None:
    """A proposer that begins anew sees trials measured that were running when the round began."""
    strategy = Bananas(initial=4, round_size=5, candidates=20, predictor=quick_mlp)
    space = Chain(5)
    history = search(strategy, 4, layers=5)
    history.add(Trial(4, space.sample(np.random.default_rng(77)), 0, "running"))
    proposer = strategy.start(space)
    expected = []
    for number in range(5, 10):
        proposal = proposer.ask(history, np.random.default_rng((0, number)))
        resumed = strategy.start(space).ask(history, np.random.default_rng((0, number)))
        assert (resumed.arch, resumed.note) == (proposal.arch, proposal.note)
        expected.append(proposal.arch)
        history.add(Trial(number, proposal.arch, 0, "running", None, proposal.note))
        if number == 6:
            history.add(Trial(4, history[4].arch, 0, "done", metrics={"value": 9.0}))
    assert history[9].note["running"] == [4]
    assert key_of(history[4].arch) not in {key_of(arch) for arch in expected}


def test_failures_and_nan_are_not_learned_from() -> None:
    counting = Counting()
    outcomes = {1: None, 2: {"value": float("nan")}}

    def measure(trial: Trial) -> dict[str, float] | None:
        return outcomes.get(trial.number, measured(trial))

    strategy = Bananas(initial=5, round_size=2, predictor=lambda space: counting)
    drive.search(strategy, Chain(5), measure, 8)
    assert counting.fits == [3, 5]


def test_nothing_measured_yet_means_random() -> None:
    space = Chain(5)
    history = History(space.decision_space, [Maximize("value")])
    for number in range(12):
        arch = space.sample(np.random.default_rng(number))
        history.add(Trial(number, arch, 0, "done", metrics={"value": float("nan")}))
    proposal = Bananas(initial=2).start(space).ask(history, np.random.default_rng(0))
    assert proposal.note == {}


def test_a_known_space_ends_the_search() -> None:
    history = search(Bananas(initial=3, round_size=4, predictor=lambda space: Counting()), 99, layers=2)
    assert len({key_of(trial.arch) for trial in history}) == len(history) == 9
    with pytest.raises(Exhausted, match="all 9 architectures"):
        Bananas().start(Chain(2)).ask(history, np.random.default_rng(0))


@pytest.mark.parametrize(("objective", "best"), [(Maximize("value"), 12), (Minimize("value"), 0)])
def test_any_regressor_serves_in_both_directions(objective: Objective, best: float) -> None:
    """What is learned, a sum over decisions, is linear."""
    from sklearn.linear_model import Ridge

    strategy = Bananas(round_size=5, predictor=lambda space: Regressor(Ridge(), space.encode))
    assert best_value(search(strategy, 35, objectives=[objective])) == best


def test_fronts_come_one_after_another() -> None:
    mean = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.5, 0.5]])
    orders = [_by_front(mean, np.random.default_rng(seed)) for seed in range(20)]
    assert all(set(order[:3]) == {1, 2, 3} and order[3:] == [4, 0] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_bogcn_finds_a_pareto_front() -> None:
    """The best are made of ones and threes alone."""
    objectives = [Maximize("value"), Maximize("ones")]

    def covered(strategy: Any) -> int:
        history = search(strategy, 40, layers=4, objectives=objectives)
        return len({history.scores(trial) for trial in history.pareto()} & best)

    best = {(8.0, 0.0), (6.0, 1.0), (4.0, 2.0), (2.0, 3.0), (0.0, 4.0)}
    assert covered(BOGCN(round_size=5)) >= max(4, covered(Random()))


@pytest.mark.parametrize("kind", [Bananas, BOGCN])
def test_refusals(kind: Any) -> None:
    with pytest.raises(SpaceError, match="round_size=0 must be an integer of at least 1"):
        kind(round_size=0)


def test_bananas_says_where_its_encoding_has_no_paths() -> None:
    without_paths = "the path encoding of Bananas reads cells, and Chain has none"
    for strategy in (Bananas(), Deduplicate(WarmStart(Bananas(), []))):
        (sentence,) = unused_features(strategy, Chain(3))
        assert sentence.startswith(without_paths)
        assert unused_features(strategy, toy_spaces()["Cells"]) == []
    for strategy in (Bananas(predictor=quick_mlp), BOGCN(), Random()):
        assert unused_features(strategy, Chain(3)) == []


def test_a_search_warns_of_unused_features_once(tmp_path: Path) -> None:
    def run(max_trials: int, *, resume: bool) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Experiment(
                Chain(3),
                Functional(product),
                Bananas(initial=2, round_size=2),
                directory=tmp_path,
                max_trials=max_trials,
            ).run(resume=resume)
        return [str(w.message) for w in caught if "path encoding" in str(w.message)]

    (sentence,) = run(5, resume=False)
    assert sentence.startswith("Bananas: the path encoding")
    assert len(run(6, resume=True)) == 1
