"""What wraps a strategy: what is tried, and what the wrapped strategy sees of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from spacelang import Experiment, ModelSpace, SpaceError
from spacelang.costs import CostLimit
from spacelang.evaluators import Functional
from spacelang.strategies import (
    Deduplicate,
    Filter,
    Grid,
    LocalSearch,
    Optuna,
    PolicyGradient,
    Promising,
    Random,
    RegularizedEvolution,
    Repeated,
    Retry,
    WarmStart,
)
from spacelang.testing import check_strategy
from spacelang.trials import Exhausted, History, Proposal, Trial

from ...toys import trials as toy
from ...toys.trials import Chain
from .drive import archs, search

EVOLUTION = RegularizedEvolution(population=4, sample=2)


class Watching:
    """Goes through the grid, and keeps the histories it sees."""

    def __init__(self) -> None:
        self.seen: list[History] = []

    def start(self, space: ModelSpace) -> Any:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        self.seen.append(history)
        return Grid().ask(history, rng)

    @property
    def last(self) -> list[tuple[str, Any]]:
        """State and value of every trial it saw."""
        return [(trial.state, trial.metrics.get("value")) for trial in self.seen[-1]]


class Stubborn:
    """Proposes a few architectures over and over."""

    def start(self, space: ModelSpace) -> Any:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal(history.space.at(int(rng.integers(3))))


def value(trial: Trial) -> dict[str, float]:
    return {"value": float(trial.number)}


# -- Deduplicate -------------------------------------------------------------------------------------------


def test_nothing_is_tried_twice() -> None:
    for strategy in (EVOLUTION, Random(distinct=False), Optuna()):
        history = search(Deduplicate(strategy), Chain(2), value, 99)
        assert len(history) == history.distinct == 9


def test_repetitions_are_answered_from_memory() -> None:
    space = Chain(1)
    proposer: Any = Deduplicate(Stubborn(), tries=50).start(space)
    history = search(Deduplicate(Stubborn()), space, value, 3)
    proposer.look(history)
    known = {trial.arch["layer0"]: trial.metrics["value"] for trial in history}
    assert len(proposer.view) > 3  # with seed 0 something came twice
    assert all(trial.metrics["value"] == known[trial.arch["layer0"]] for trial in proposer.view)
    assert len(proposer.view.done) == len(proposer.view)


def test_it_ends_after_repetitions_in_a_row() -> None:
    history = search(Deduplicate(Stubborn(), tries=50), Chain(2), value, 99)
    assert len(history) == 3
    with pytest.raises(Exhausted, match="none of 50 proposals in a row was new"):
        Deduplicate(Stubborn(), tries=50).start(Chain(2)).ask(history, np.random.default_rng(0))


def test_another_process_may_take_the_number() -> None:
    """What was passed over for a proposal that never came about is forgotten."""
    space = Chain(2)
    strategy = Deduplicate(Stubborn())
    history = search(strategy, space, value, 2)
    mine: Any = strategy.start(space)
    rng = np.random.default_rng(12)
    assert mine.ask(history, rng).note["passed_over"]
    history.add(Trial(2, space.decision_space.at(8), 0, "done", metrics={"value": 1.0}, note={"inner": {}}))
    proposal = mine.ask(history, np.random.default_rng(5))
    fresh = strategy.start(space).ask(history, np.random.default_rng(5))
    assert (proposal.arch, proposal.note) == (fresh.arch, fresh.note)


# -- Filter ------------------------------------------------------------------------------------------------


def not_two(arch: dict[str, Any]) -> bool:
    return "two" not in arch.values()


@pytest.mark.parametrize(
    "strategy", [Grid(), Grid(shuffle=True), LocalSearch(), Random(), Optuna(), EVOLUTION]
)
def test_only_what_is_accepted_is_tried(strategy: Any) -> None:
    space = Chain(3)
    history = search(Deduplicate(Filter(strategy, not_two)), space, value, 8)
    assert all(not_two(arch) for arch in archs(history))
    assert history.distinct == 8  # all there are


def test_what_is_rejected_is_seen_as_infeasible() -> None:
    watching = Watching()
    history = search(Filter(watching, not_two), Chain(1), value, 2)
    assert [arch["layer0"] for arch in archs(history)] == ["one", "three"]
    assert watching.last == [("done", 0.0), ("infeasible", None)]
    assert history[1].note["passed_over"][0]["arch"] == {"layer0": "two"}


def test_a_filter_that_accepts_nothing_ends_the_search() -> None:
    proposer = Filter(Random(distinct=False), lambda arch: False, tries=20).start(Chain(2))
    with pytest.raises(Exhausted, match="none of 20 proposals in a row was accepted by the filter"):
        proposer.ask(search(Grid(), Chain(2), value, 1), np.random.default_rng(0))


def test_costs_can_be_limited() -> None:
    from torch import nn

    from spacelang import LayerChoice

    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(LayerChoice([nn.Linear(4, 4), nn.Identity()], label=f"l{i}") for i in range(3))
            )

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    history = search(Filter(Grid(), CostLimit("params", at_most=20)), Net(), value, 99)
    assert Counter(sum(v == 0 for v in arch.values()) for arch in archs(history)) == {0: 1, 1: 3}


# -- Retry and Repeated --------------------------------------------------------------------------------------


def test_failed_trials_are_tried_again() -> None:
    """One that fails twice is given up with times=1; one that fails once is measured."""
    failures = Counter({"one": 2, "two": 1})
    watching = Watching()

    def measure(trial: Trial) -> dict[str, float] | None:
        name = trial.arch["layer0"]
        failures[name] -= 1
        return None if failures[name] >= 0 else {"value": float(trial.number)}

    history = search(Retry(watching), Chain(1), measure, 99)
    assert [arch["layer0"] for arch in archs(history)] == ["one", "one", "two", "two", "three"]
    assert watching.last == [("failed", None), ("done", 3.0), ("done", 4.0)]
    assert len({trial.seed for trial in history}) == 5


def test_every_proposal_is_measured_with_several_seeds() -> None:
    for aggregate, expected in (("mean", [1.0, 4.0]), ("min", [0.0, 3.0]), ("max", [2.0, 5.0])):
        watching = Watching()
        history = search(Repeated(watching, aggregate=aggregate), Chain(1), value, 7)  # type: ignore[arg-type]
        assert [arch["layer0"] for arch in archs(history)] == ["one"] * 3 + ["two"] * 3 + ["three"]
        assert watching.last == [("done", v) for v in expected]


def test_failures_are_left_out_of_the_mean() -> None:
    watching = Watching()
    outcomes: list[Any] = [None, {"value": 3.0}, {"value": 5.0}, None, None, None, {"value": math.nan}]
    search(Repeated(watching), Chain(1), lambda trial: outcomes[trial.number], 7)
    assert watching.last == [("done", 4.0), ("failed", None)]


def test_with_many_workers_a_group_is_running_until_all_have_ended() -> None:
    watching = Watching()
    search(Repeated(watching, times=2), Chain(2), value, 8, workers=3)
    states = [[trial.state for trial in history] for history in watching.seen]
    assert watching.last[0] == ("done", 0.5)
    assert all(len(state) <= 4 for state in states)


# -- WarmStart ---------------------------------------------------------------------------------------------


def test_a_strategy_sees_what_is_known_and_nothing_is_tried_again() -> None:
    space = Chain(1)
    watching = Watching()
    known = [({"layer0": "one"}, {"value": 7.0})]
    history = search(WarmStart(watching, known), space, value, 99)
    assert [arch["layer0"] for arch in archs(history)] == ["two", "three"]
    assert watching.last == [("done", 7.0), ("done", 0.0), ("done", 1.0)]


def test_evolution_goes_on_from_an_earlier_search() -> None:
    space = Chain(4)
    earlier = search(Random(), space, value, 20)
    history = search(WarmStart(EVOLUTION, earlier), space, value, 1)
    assert history[0].note["inner"] == {"parent": 19}  # the last had the highest value


def test_known_architectures_must_be_of_the_space() -> None:
    with pytest.raises(SpaceError, match="'layer9'"):
        WarmStart(Random(), [({"layer9": "one"}, {"value": 1})]).start(Chain(1))
    with pytest.raises(SpaceError, match="expected pairs"):
        WarmStart(Random(), [{"layer0": "one"}])  # type: ignore[list-item]


# -- all ---------------------------------------------------------------------------------------------------


def test_wrappers_want_a_strategy() -> None:
    for wrapper in (Deduplicate, Retry, Repeated):
        with pytest.raises(SpaceError, match=rf"{wrapper.__name__} wraps a multi-trial strategy"):
            wrapper(3)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="times=0"):
        Retry(Random(), times=0)
    with pytest.raises(SpaceError, match="aggregate='sum'"):
        Repeated(Random(), aggregate="sum")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="accepts=3"):
        Filter(Random(), 3)  # type: ignore[arg-type]


STACK = Retry(Deduplicate(Filter(EVOLUTION, not_two)), times=2)


def unlucky(model: Any) -> dict[str, float]:
    """Fails now and then."""
    measured = toy.noisy(model)
    if measured["draw"] < 0.3:
        raise ValueError("bad luck")
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [STACK, PolicyGradient(batch=3), Deduplicate(Optuna())])
def test_an_interrupted_experiment_resumes_exactly(tmp_path: Path, strategy: Any) -> None:
    """Through the ledger, whose notes are JSON."""

    def run(folder: str, at: int, resume: bool = False) -> Experiment:
        evaluator = Functional(toy.Interrupting(at, unlucky))
        experiment = Experiment(
            Chain(4), evaluator, strategy, directory=tmp_path / folder, max_trials=14, seed=3
        )
        experiment.run(resume=resume)
        return experiment

    whole = run("whole", 0)
    for at in (2, 9):
        with pytest.raises(KeyboardInterrupt):
            run(str(at), at)
        assert toy.trials_of(run(str(at), 0, resume=True)) == toy.trials_of(whole)
    assert any(json.dumps(dict(trial.note)) != "{}" for trial in whole.history)
    assert whole.history.count("failed") > 0


def test_promising_tries_what_a_regressor_rates_high() -> None:
    """A sum is linear, so a regression knows it; what is tried is in the upper half of all proposals."""
    value = {"one": 0.0, "two": 1.0, "three": 2.0}

    def total(arch: Any) -> float:
        return sum(value[v] for v in arch.values())

    strategy = Promising(Random(distinct=False), Ridge(alpha=1e-2), share=0.5, initial=12, tries=30)
    history = search(strategy, Chain(3), lambda trial: {"value": total(trial.arch)}, 30)
    proposed: list[float] = []
    for trial in history:
        passed_over = trial.note["passed_over"]
        proposed += [total(entry["arch"]) for entry in passed_over]
        assert all(entry["state"] == "infeasible" for entry in passed_over)
        if trial.number >= 12:
            assert trial.metrics["value"] >= np.quantile(proposed, 0.5) - 0.1
        else:
            assert not passed_over
        proposed.append(trial.metrics["value"])
    assert len(proposed) > 30


def test_promising_tries_something_after_many_rejections() -> None:
    class Disappointed:
        """Rates a proposal below all others."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            return {}

        def set_params(self, **params: Any) -> Any:
            return self

        def fit(self, x: Any, y: Any) -> Any:
            return self

        def predict(self, x: Any) -> Any:
            return np.array([-1.0, *np.zeros(len(x) - 1)])

    strategy = Promising(Random(distinct=False), Disappointed(), initial=2, tries=3)
    history = search(strategy, Chain(3), lambda trial: {"value": 1.0}, 5)
    assert [len(trial.note["passed_over"]) for trial in history] == [0, 0, 3, 3, 3]
    with pytest.raises(SpaceError, match="Promising needs a scikit-learn regressor"):
        Promising(Random(), Ridge)


@pytest.mark.slow
def test_promising_keeps_the_promises_of_a_strategy() -> None:
    check_strategy(Promising(EVOLUTION, Ridge(), initial=4, tries=5), trials=14)
