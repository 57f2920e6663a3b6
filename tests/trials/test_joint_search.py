"""Hyper-parameters searched together with the space: what is tried, by every strategy, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Cell, Experiment, ModelSpace, SpaceError, model_context, value_choice
from spacelang.costs import CostLimit
from spacelang.evaluators import Classification, Functional, Tabular
from spacelang.files import load_yaml
from spacelang.language import Categorical, Tunable, architecture_of
from spacelang.strategies import DARTS
from spacelang.strategies.multi_trial import (
    ASHA,
    BOGCN,
    Bananas,
    Deduplicate,
    Grid,
    LocalSearch,
    Optuna,
    PolicyGradient,
    Random,
    RegularizedEvolution,
    Repeated,
)
from spacelang.strategies.multi_trial.predictors import GraphNetwork, MLPEnsemble, path_encoding
from spacelang.trials import Executor, Maximize, Minimize, ProcessPool

from ..toys import trials as toy

RATES = [0.5, 1.0, 2.0]


def measured(model: nn.Module, rate: float, decay: float = 0.0) -> dict[str, float]:
    """The product times the rate, and what it was called with."""
    return {"default": toy.product(model) * rate, "rate": rate, "decay": decay, "draw": float(torch.rand(()))}


def experiment(
    directory: Path, strategy: Any = None, space: ModelSpace | None = None, **settings: Any
) -> Any:
    rate = value_choice(settings.pop("rates", RATES), label="lr")
    evaluator = settings.pop("evaluator", None) or Functional(measured, rate=rate, decay=rate / 4)
    return Experiment(space or toy.Chain(1), evaluator, strategy or Grid(), directory=directory, **settings)


def test_a_grid_tries_every_pair_once(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    run.run()
    pairs = [(trial.arch["layer0"], trial.arch["lr"]) for trial in run.history]
    assert pairs == [(layer, rate) for layer in ("one", "two", "three") for rate in RATES]
    assert run.space.size() == 9
    for trial in run.history:
        assert trial.metrics["rate"] == trial.arch["lr"]
        assert trial.metrics["decay"] == trial.arch["lr"] / 4
    assert run.best == {"layer0": "three", "lr": 2.0}
    assert load_yaml(tmp_path / "architectures" / "1.yaml") == run.best
    assert list(run.to_dataframe()["arch/lr"]) == 3 * RATES
    assert run.to_optuna().best_params == run.best


def quick_ensemble(space: ModelSpace) -> MLPEnsemble:
    return MLPEnsemble(path_encoding(space), depth=2, epochs=20)


STRATEGIES = {
    "random": Random(),
    "grid": Grid(shuffle=True),
    "evolution": RegularizedEvolution(population=4, sample=2),
    "local search": LocalSearch(),
    "policy gradient": PolicyGradient(batch=4),
    "optuna": Optuna(),
    "bananas": Bananas(predictor=quick_ensemble, initial=4, round_size=4, candidates=20),
    "bogcn": BOGCN(initial=4, round_size=4, candidates=20),
    "repeat": Repeated(Random(), 2),
    "deduplicate": Deduplicate(RegularizedEvolution(population=4, sample=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_strategy_searches_both(strategy: Any, tmp_path: Path) -> None:
    """Resumed after five trials, too; architectures of 28 * 3, in which some decisions depend on others."""
    run = experiment(tmp_path / "whole", strategy, toy.Conditional(), max_trials=10)
    run.run()
    assert len(run.history) == 10
    for trial in run.history:
        run.space.validate(trial.arch)
        assert (trial.state, trial.metrics["rate"]) == ("done", trial.arch["lr"])
    assert len({trial.arch["lr"] for trial in run.history}) > 1
    assert len({trial.arch["bias"] for trial in run.history}) > 1
    experiment(tmp_path / "halves", strategy, toy.Conditional(), max_trials=5).run()
    resumed = experiment(tmp_path / "halves", strategy, toy.Conditional(), max_trials=10)
    resumed.run(resume=True)
    assert toy.trials_of(resumed) == toy.trials_of(run)


class Celled(ModelSpace):
    """A cell alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"conv": nn.Identity(), "skip": nn.Identity()}, 2, 1, 1, label="cell")


def test_predictors_see_hyper_parameters_beside_cells() -> None:
    space, rate = Celled(), Categorical("lr", RATES)
    joined = space.joined([rate])
    archs = list(joined.grid())
    for arch in archs:
        own = {label: value for label, value in arch.items() if label != "lr"}
        assert list(path_encoding(joined)(arch)) == [*rate.indicator(arch["lr"]), *path_encoding(space)(own)]
    network = GraphNetwork(joined)
    values = np.array([arch["lr"] for arch in archs])
    network.fit(archs, values, np.random.default_rng(0))
    assert np.abs(network.predict(archs)[0] - values).max() < 0.1


def test_max_epochs_end_trials_that_hyper_parameters_belong_to(tmp_path: Path) -> None:
    def train(model: nn.Module, report: Callable[..., None], rate: float) -> float:
        for epoch in range(10):
            report({"default": rate}, epoch)
        return rate

    evaluator = Functional(train, rate=value_choice(RATES, label="lr"))
    run = experiment(tmp_path, ASHA(Random(), 4, eta=2), evaluator=evaluator, max_trials=6)
    run.run()
    assert all(trial.metrics["default"] == trial.arch["lr"] for trial in run.history)
    assert {len(trial.reports) for trial in run.history} <= {1, 2, 4}


@pytest.mark.slow
@pytest.mark.parametrize("executor", [ProcessPool(1, start_method="fork")], ids=["pool"])
def test_other_processes_give_the_same_trials(executor: Executor, tmp_path: Path) -> None:
    here = experiment(tmp_path / "here", Random(), max_trials=4)
    there = experiment(tmp_path / "there", Random(), max_trials=4, executor=executor)
    for run in (here, there):
        run.run()
    assert toy.trials_of(here) == toy.trials_of(there)


def test_a_run_with_other_candidates_is_another_run(tmp_path: Path) -> None:
    experiment(tmp_path).run()
    record = load_yaml(tmp_path / "experiment.yaml")
    assert record["evaluator"]["decisions"] == {"lr": RATES}  # type: ignore[index, call-overload]
    with pytest.raises(SpaceError, match=r"(?s)another search.* space\.decisions is another\n"):
        experiment(tmp_path, rates=[0.5, 1.0]).run(resume=True)


def test_a_shared_label_is_decided_once(tmp_path: Path) -> None:
    rate = value_choice([0, 1, 2, 3], label="bias")
    run = experiment(tmp_path, space=toy.Conditional(), evaluator=Functional(measured, rate=rate))
    run.run()
    assert run.space.size() == len(run.history) == 28
    assert all(trial.metrics["rate"] == trial.arch["bias"] for trial in run.history)
    other = value_choice([0.5, 1.0], label="bias")
    with pytest.raises(SpaceError, match="label 'bias' is used for two different decisions"):
        experiment(tmp_path, space=toy.Conditional(), evaluator=Functional(measured, rate=other))


class Wide(ModelSpace):
    """Layers of 4, 8 or 12 weights."""

    def __init__(self) -> None:
        super().__init__()
        from spacelang import nn as space_nn

        self.layer = space_nn.Linear(4, value_choice([1, 2, 3], label="width"), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_costs_are_those_of_the_model(tmp_path: Path) -> None:
    def rate_of(model: nn.Module, rate: float) -> float:
        return rate

    run = experiment(
        tmp_path,
        space=Wide(),
        evaluator=Functional(rate_of, rate=value_choice(RATES, label="lr")),
        objectives=[Maximize("default"), Minimize("params"), Minimize("flops")],
        limits=[CostLimit("params", at_most=8)],
        example_inputs=torch.zeros(2, 4),
    )
    run.run()
    costs = {(t.arch["width"], t.metrics["params"], t.metrics["flops"]) for t in run.history}
    assert costs == {(width, 4 * width, 16 * width) for width in (1, 2, 3)}
    assert (run.history.count("done"), run.history.count("infeasible")) == (6, 3)
    assert [trial.arch for trial in run.pareto] == [{"width": 1, "lr": 2.0}]


def test_one_fixed_network_can_be_tuned_alone(tmp_path: Path) -> None:
    class Fixed(ModelSpace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    run = experiment(tmp_path, space=Fixed())
    run.run()
    assert [trial.arch for trial in run.history] == [{"lr": rate} for rate in RATES]
    with pytest.raises(SpaceError, match="nothing to choose"):
        experiment(tmp_path, space=Fixed(), evaluator=Functional(toy.product))
    with pytest.raises(SpaceError, match="nothing to choose"):
        experiment(tmp_path, space=toy.Chain(1).freeze({"layer0": "one"}))


def test_an_evaluator_of_architectures_gets_the_whole_dict(tmp_path: Path) -> None:
    class Table(Tunable):
        """A table whose architectures have a column for the rate."""

        def __init__(self, rate: float) -> None:
            self.rate = rate
            layers = ("one", "two", "three")
            archs = [f'{{"layer0": "{layer}", "lr": {rate}}}' for layer in layers for rate in RATES]
            self.table = Tabular({"arch": archs, "default": list(range(9))})

        def evaluate_architecture(self, arch: Any, report: Any = None) -> dict[str, float]:
            return {**self.table.evaluate_architecture(arch, report), "rate": self.rate}

    run = experiment(tmp_path, evaluator=Table(value_choice(RATES, label="lr")))
    run.run()
    assert [trial.metrics["default"] for trial in run.history] == list(range(9))
    assert [trial.metrics["rate"] for trial in run.history] == 3 * RATES


def test_models_of_trials_are_those_of_the_space_alone(tmp_path: Path, recwarn: Any) -> None:
    seen = []

    def look(model: nn.Module, rate: float) -> float:
        seen.append(architecture_of(model))
        return toy.product(model)

    run = experiment(tmp_path, evaluator=Functional(look, rate=value_choice(RATES, label="lr")))
    run.run()
    assert seen[0] == {"layer0": "one"}
    (model,) = run.export_top_models(1, formatter="instance")
    assert toy.product(model) == 3
    with model_context(run.best):
        assert toy.product(toy.Chain(1)) == 3
        assert run.evaluator.decided(run.best).evaluate(toy.Chain(1)) == {"default": 3}
    assert toy.product(run.space.freeze(run.best)) == 3
    assert not [warning for warning in recwarn if "no choice asked" in str(warning.message)]


def test_one_shot_strategies_refuse_before_training(tmp_path: Path) -> None:
    evaluator = Classification(learning_rate=value_choice(RATES, label="lr"), max_epochs=1)
    message = r"leaves 'lr' to be chosen. DARTS trains one supernet .* evaluator.decided\(\{'lr': 0.5\}\)"
    with pytest.raises(SpaceError, match=message):
        Experiment(toy.Chain(1), evaluator, DARTS(), directory=tmp_path)
    Experiment(toy.Chain(1), evaluator.decided({"lr": 0.5}), DARTS(), directory=tmp_path)
