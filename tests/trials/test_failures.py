"""Trials that fail in unusual ways: each costs itself, never the search."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import Experiment
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import ASHA, Grid, Random
from spacelang.trials import Ledger, Maximize, Minimize
from spacelang.trials.trial import MAX_ERROR, storable

from ..toys import trials as toy


class Unchecked:
    """An evaluator that passes on whatever a function returns; `Functional` would look at it first."""

    def __init__(self, function: Callable[[nn.Module], Any]) -> None:
        self.evaluate = lambda model, report=None: function(model)


def search(directory: Path, function: Callable[..., Any], **settings: Any) -> Experiment:
    """Run a search of three architectures, whose products are 1, 2 and 3."""
    strategy = settings.pop("strategy", None) or Grid()
    evaluator = settings.pop("evaluator", Functional)(function)
    experiment = Experiment(toy.Chain(1), evaluator, strategy, directory=directory, **settings)
    experiment.run()
    return experiment


def on_two(behave: Callable[[], Any]) -> Callable[[nn.Module], Any]:
    """Return an evaluator that behaves badly for a product of two."""
    return lambda model: behave() if toy.product(model) == 2 else toy.product(model)


def the_failed(experiment: Experiment) -> Any:
    """Return the trial of the product two, the only one that failed."""
    assert [trial.state for trial in experiment.history] == ["done", "failed", "done"]
    return experiment.history[1]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        Unprintable(),
        ExceptionGroup("two", [OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_trial_raises_is_its_own_failure(tmp_path: Path, error: BaseException) -> None:
    def behave() -> None:
        raise error

    assert type(error).__name__ in the_failed(search(tmp_path, on_two(behave))).error


def test_ctrl_c_is_an_interruption_even_as_lightning_turns_it_into_an_exit(tmp_path: Path) -> None:
    def as_lightning() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, on_two(as_lightning))
    assert [trial.state for trial in Ledger(tmp_path / "trials.db").trials()] == ["done", "waiting"]


def test_an_error_text_is_stored_by_every_database(tmp_path: Path, url: str) -> None:
    def behave() -> None:
        raise ValueError("begin \udcff \0 \x1b[31m " + "x" * 100_000 + " end")

    experiment = search(tmp_path, on_two(behave), ledger=url)
    error = the_failed(experiment).error
    assert error.startswith("Traceback")
    assert "begin \ufffd \ufffd \ufffd[31m xxx" in error
    assert "characters left out" in error
    assert error.endswith(" end\n")
    assert len(error) <= MAX_ERROR


def test_a_text_that_can_be_stored_is_unchanged() -> None:
    text = "Größe\t\n" + "é" * (MAX_ERROR - 7)
    assert storable(text) == text


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "the objective 'default' is not among the metrics"),
        ({"defualt": 1.0}, "'default' is not among the metrics 'defualt'. Closest: 'defualt'."),
        ({"accuracy": 1.0}, "objectives=[Maximize('accuracy')]"),
        ({"default": "high"}, "metrics must be numbers; an evaluator returned 'default': 'high'."),
        ({"default": "0.5"}, "metrics must be numbers"),
        ({"default": torch.ones(2)}, "metrics must be numbers"),
        ({"default": 10**400}, "metrics must be numbers"),
        ({"default": 1.0, "loss": None}, "an evaluator returned 'loss': None."),
        (None, "an evaluator returns metrics by name; got None."),
    ],
)
def test_a_trial_without_the_metric_fails(tmp_path: Path, found: Any, message: str) -> None:
    def measure(model: nn.Module) -> Any:
        value = toy.product(model)
        return found if value == 2 else {"default": value}

    assert message in the_failed(search(tmp_path, measure, evaluator=Unchecked)).error


def test_one_of_several_objectives_is_missing(tmp_path: Path) -> None:
    def measure(model: nn.Module) -> dict[str, float]:
        value = toy.product(model)
        return {"default": value} if value == 2 else {"default": value, "loss": value}

    experiment = search(tmp_path, measure, objectives=[Maximize("default"), Minimize("loss")])
    assert "the objective 'loss' is not among the metrics 'default'" in the_failed(experiment).error


def test_a_strategy_that_stops_trials_gets_reports_without_the_metric(tmp_path: Path) -> None:
    """The trial fails, and its reports do not disturb later ones."""

    def measure(model: nn.Module, report: Any) -> float:
        value = toy.product(model)
        for epoch in range(4):
            report({"loss": 0.0} if value == 2 else {"default": value}, epoch)
        return value

    experiment = search(tmp_path, measure, strategy=ASHA(Random(), max_epochs=4, eta=2))
    states = {toy.product(toy.Chain(1).freeze(trial.arch)): trial.state for trial in experiment.history}
    assert states == {1.0: "done", 2.0: "failed", 3.0: "done"}
    (failed,) = (trial for trial in experiment.history if trial.state == "failed")
    assert "'default' is not among the metrics 'loss'" in failed.error


def test_an_error_of_the_ledger_is_not_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the search, and the trial runs again."""

    def renew(*arguments: Any, **keywords: Any) -> bool:
        raise OSError("the database is gone")

    monkeypatch.setattr(Ledger, "renew", renew)
    with pytest.raises(OSError, match="the database is gone"):
        search(tmp_path, toy.curve)
    monkeypatch.undo()
    assert [trial.state for trial in Ledger(tmp_path / "trials.db").trials()] == ["waiting"]
