"""Trials as a table, as an Optuna study and back, and the dashboard's mirror."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, InputChoice, ModelSpace, SpaceError, value_range
from spacelang.evaluators import Functional
from spacelang.experiment.trial_run import mirror
from spacelang.strategies.multi_trial import Random
from spacelang.trials import Maximize, Minimize, Trial, from_optuna
from spacelang.trials.export import to_optuna

from ..toys import trials as toy

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'spacelang-nas[optuna]'")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("run")
    experiment = Experiment(toy.Chain(2), Functional(toy.raises_on_two), Random(), directory=folder)
    experiment.run()
    return experiment


def test_a_table_has_a_row_a_trial(finished: Experiment) -> None:
    table = finished.to_dataframe()
    assert list(table.index) == list(range(9))
    assert (table["state"] == "failed").sum() == 2
    best = table.sort_values("default", ascending=False).iloc[0]
    assert best["default"] == 9
    assert {label: best[f"arch/{label}"] for label in finished.best} == finished.best


def test_a_study_has_the_trials_the_direction_and_the_failures(finished: Experiment) -> None:
    study = finished.to_optuna()
    assert study.best_value == 9
    assert study.best_params == finished.best
    states = [trial.state.name for trial in study.trials]
    assert (states.count("COMPLETE"), states.count("FAIL")) == (5, 4)  # two raised, two were NaN
    assert study.metric_names == ["default"]


def test_a_study_of_several_objectives_has_the_same_front() -> None:
    space = toy.Chain(2)
    trials = []
    for number, arch in enumerate(space.grid()):
        metrics = {"a": float(number), "b": float((number * 5) % 9)}
        trials.append(Trial(number, arch, 0, "done", metrics=metrics))
    objectives = [Maximize("a"), Minimize("b")]
    from spacelang.trials import History

    study = to_optuna(trials, objectives, space.decision_space.by_label)
    ours = History(space.decision_space, objectives, trials).pareto()
    assert {t.user_attrs["number"] for t in study.best_trials} == {t.number for t in ours}


class Ranges(ModelSpace):
    """A learning rate on a logarithmic scale, and two numbers in steps that end before the range does."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = value_range(1e-4, 1e-1, log=True, label="rate")
        self.drop = value_range(0.0, 0.55, step=0.1, label="drop")
        self.count = value_range(2, 9, step=3, label="count")

    def forward(self, x: Any) -> Any:
        return x


def test_ranges_are_distributions_of_numbers(tmp_path: Path) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    evaluator = Functional(lambda model: model.rate + model.drop + model.count)
    experiment = Experiment(
        Ranges(), evaluator, Random(), directory=tmp_path / "run", example_inputs=None, max_trials=8
    )
    experiment.run()
    expected = {
        "rate": FloatDistribution(1e-4, 1e-1, log=True),
        "drop": FloatDistribution(0.0, 0.5, step=0.1),
        "count": IntDistribution(2, 8, step=3),
    }
    for study in (experiment.to_optuna(), mirror(tmp_path / "run", optuna.storages.InMemoryStorage())):
        assert all(trial.distributions == expected for trial in study.trials)
        assert [trial.params for trial in study.trials] == [trial.arch for trial in experiment.history]
    assert all(type(trial.params["count"]) is int for trial in study.trials)
    again = from_optuna(experiment.to_optuna(), Ranges().decision_space)
    assert [trial.arch for trial in again] == [trial.arch for trial in experiment.history]
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)  # learns from these trials
    new = study.ask(expected)
    assert Ranges().decision_space.problems(new.params) == []
    (unknown, *_) = to_optuna(experiment.history, experiment.history.objectives, {}).trials
    assert isinstance(unknown.distributions["rate"], CategoricalDistribution)


def test_numbers_of_a_rebuilt_space_widen_a_range() -> None:
    from optuna.distributions import FloatDistribution

    trials = [Trial(0, {"rate": 0.5, "drop": 0.1, "count": 5}, 0, "done", metrics={"a": 1.0})]
    study = to_optuna(trials, [Maximize("a")], Ranges().decision_space.by_label)
    assert study.trials[0].distributions["rate"] == FloatDistribution(1e-4, 0.5, log=True)


class Sets(ModelSpace):
    """A choice of two of three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.pick = InputChoice(3, n_chosen=2, reduction="sum", label="pick")

    def forward(self, x: Any) -> Any:
        return self.pick([x, 2 * x, 4 * x])


def test_a_study_comes_back_as_trials(tmp_path: Path) -> None:
    experiment = Experiment(Sets(), Functional(toy.product), Random(), directory=tmp_path)
    experiment.run()
    trials = from_optuna(experiment.to_optuna(), Sets().decision_space)
    assert [(t.arch, t.metrics) for t in trials] == [(t.arch, t.metrics) for t in experiment.history]


def test_a_study_of_something_else_is_refused() -> None:
    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            value=1.0,
            params={"colour": "red"},
            distributions={"colour": optuna.distributions.CategoricalDistribution(["red"])},
        )
    )
    with pytest.raises(SpaceError, match="'colour', which is not a decision"):
        from_optuna(study, toy.Chain().decision_space)


def test_curves_become_intermediate_values(tmp_path: Path) -> None:
    experiment = Experiment(toy.Chain(1), Functional(toy.curve), Random(), directory=tmp_path)
    experiment.run()
    for trial in experiment.to_optuna().trials:
        assert list(trial.intermediate_values) == list(range(10))
        assert math.isclose(trial.intermediate_values[9], trial.value)


def test_a_run_folder_is_mirrored_without_its_space(finished: Experiment, tmp_path: Path) -> None:
    study = mirror(finished.directory, optuna.storages.InMemoryStorage())
    assert study.best_params == finished.best
    with pytest.raises(SpaceError, match="holds no multi-trial search"):
        mirror(tmp_path, optuna.storages.InMemoryStorage())


def test_a_shared_ledger_is_mirrored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    experiment = Experiment(
        toy.Chain(1), Functional(toy.curve), Random(), directory=tmp_path / "run", ledger=url
    )
    experiment.run()
    for given in (None, url):
        study = mirror(experiment.directory, optuna.storages.InMemoryStorage(), given)
        assert study.best_params == experiment.best
    record = experiment.directory / "experiment.yaml"
    record.write_text(
        record.read_text().replace(url.removeprefix("sqlite:///"), "postgresql://me:***@host/trials")
    )
    with pytest.raises(SpaceError, match=r"the password is not kept; .*--ledger URL"):
        mirror(experiment.directory, optuna.storages.InMemoryStorage())


def test_the_dashboard_serves_the_trials(finished: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    from spacelang.cli import main

    served = []

    def serve(storage: Any, host: str, port: int) -> None:
        served.append((len(storage.get_all_studies()), host, port))
        assert dashboard.wsgi(storage)  # the application accepts it

    monkeypatch.setattr(dashboard, "run_server", serve)
    assert main(["dashboard", str(finished.directory), "--port", "8123"]) == 0
    assert served == [(1, "localhost", 8123)]
