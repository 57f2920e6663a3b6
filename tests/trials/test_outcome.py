"""What a search says at its end, and that it reports no result where nothing was measured."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

from spacelang import Experiment, SpaceError
from spacelang.costs import CostLimit
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Optuna, Random
from spacelang.trials import History, Ledger, Maximize, Minimize, Trial

from ..toys import trials as toy
from ..toys.spaces import Layers


def experiment(directory: Path, function: Any, **settings: Any) -> Experiment:
    return Experiment(toy.Chain(2), Functional(function), Random(), directory=directory, **settings)


def fails(model: nn.Module) -> float:
    raise ValueError(f"no such layer: {toy.product(model):.0f}\n  as always")


def fails_in_many_ways(model: nn.Module) -> float:
    raise ValueError("abcdefghi"[int(toy.product(model)) - 1])


def test_the_end_says_what_happened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    experiment(tmp_path, toy.raises_on_two).run()
    said = capfd.readouterr().err
    assert "all 9 architectures of the space were tried; 7 done, 2 failed, 2 without a number" in said
    assert "The first error, of trial" in said
    assert "ValueError: two is not allowed" in said
    assert load_yaml(tmp_path / "search.yaml")["trials"] == "7 done, 2 failed, 2 without a number"


def test_trials_that_all_fail_for_one_reason_end_the_search(tmp_path: Path) -> None:
    """Also when the error names another number each time; mended and resumed, the search goes on."""
    run = experiment(tmp_path, fails)
    words = (
        "measured nothing: the first 5 trials failed for one reason .*; 0 done, 5 failed. The first error, "
    )
    with pytest.raises(SpaceError, match=rf"{words}of trial 0: ValueError: no such layer: \d"):
        run.run()
    for attempt in (run.export_top_models, lambda: run.best):
        with pytest.raises(SpaceError, match=r"no trial was measured: 0 done, 5 failed.*no such layer"):
            attempt()
    mended = experiment(tmp_path, toy.product)
    mended.run(resume=True)
    assert mended.history.count("done") == 4


def test_several_reasons_or_a_number_do_not_end_it(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="0 done, 9 failed"):
        experiment(tmp_path / "ways", fails_in_many_ways).run()
    with pytest.raises(SpaceError, match="more than max_failures=6 trials failed; 0 done, 7 failed"):
        experiment(tmp_path / "allowed", fails, max_failures=6).run()


def test_nan_alone_is_no_result(tmp_path: Path) -> None:
    run = experiment(tmp_path, lambda model: nan)
    with pytest.raises(SpaceError, match=r"measured nothing: .*; 9 done, 9 without a number"):
        run.run()
    with pytest.raises(SpaceError, match="no trial was measured: 9 done, 9 without a number"):
        run.best  # noqa: B018
    assert run.history.best_trial is None
    assert not list((tmp_path / "architectures").glob("*"))


def test_limits_that_nothing_meets_measure_nothing(tmp_path: Path) -> None:
    run = Experiment(
        toy.Chain(1),
        Functional(toy.product),
        Random(),
        directory=tmp_path,
        limits=[CostLimit("params", at_least=1)],
    )
    with pytest.raises(SpaceError, match=r"measured nothing: .*0 done, .*infeasible"):
        run.run()


MOST = Maximize("a")


def history(*values: Any, objectives: Any = (MOST,)) -> History:
    """Trials whose metrics a, b are given."""
    space = toy.Chain(2).decision_space
    archs = list(space.grid())
    trials = [
        Trial(i, archs[i], 0, "done", metrics=dict(zip("ab", value, strict=False)))
        for i, value in enumerate(values)
    ]
    return History(space, objectives, trials)


def test_nan_is_never_best_and_ranks_last() -> None:
    one = history((nan,), (1.0,), (nan,), (2.0,))
    assert one.best_trial is one[3]
    assert [trial.number for trial in one.ranked()] == [3, 1, 0, 2]
    two = history((nan, 9.0), (0.1, 1.0), (0.0, 0.5), (0.5, nan), objectives=(MOST, Maximize("b")))
    assert [trial.number for trial in two.ranked()] == [1, 2, 3, 0]
    assert two.best_trial is two[1]
    assert two.measured == 2
    assert history((inf,), objectives=(Minimize("a"),)).best_trial is None


def test_a_trial_that_is_tried_again_has_failed_no_longer() -> None:
    known = history()
    failed = Trial(
        0, toy.Chain(2).default(), 0, "failed", error="Traceback (most recent call last):\n x\nE: y\n"
    )
    known.add(failed)
    known.add(failed)
    assert list(known.failed) == [failed]
    assert failed.reason == "E: y"
    known.add(Trial(0, failed.arch, 0, "waiting"))
    assert list(known.failed) == []


# -- what is written where something else is expected ------------------------------------------------------


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        ("mydb", r"ledger='mydb\.db'.*postgresql\+psycopg://user@host:5432/mydb"),
        ("postgres://me:secret@host/db", r"write postgresql\+psycopg://"),
        ("postgresql://me:secret@host/db", r"write postgresql\+psycopg://"),
    ],
)
def test_a_ledger_written_otherwise_says_what_to_type(tmp_path: Path, ledger: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words) as caught:
        experiment(tmp_path, toy.product, ledger=ledger).run()
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(SpaceError, match=r"package psycopg: pip install 'spacelang-nas\[postgresql\]'"):
        Ledger("postgresql+psycopg://me@host/db", "search", {})


def test_the_name_of_a_sampler_is_not_a_sampler() -> None:
    for given, meant in {"tpe": "TPESampler", "CmaEsSampler": "CmaEsSampler", "best": "TPESampler"}.items():
        with pytest.raises(SpaceError, match=rf"Write Optuna\(optuna\.samplers\.{meant}\)"):
            Optuna(given)  # type: ignore[arg-type]
        assert hasattr(optuna.samplers, meant)


def test_latency_is_measured_once_for_all_runs(tmp_path: Path) -> None:
    """By itself, as parameters are; the table stays in the run folder."""

    def make(trials: int) -> Experiment:
        return Experiment(
            Layers(),
            Functional(lambda model: 1.0),
            Random(),
            directory=tmp_path,
            objectives=[Minimize("latency"), Maximize("default")],
            example_inputs=torch.zeros(2, 3),
            max_trials=trials,
        )

    first = make(2)
    first.run()
    table = load_yaml(tmp_path / "latency.yaml")
    assert all(trial.metrics["latency"] > 0 for trial in first.history)
    second = make(4)
    second.run(resume=True)
    assert load_yaml(tmp_path / "latency.yaml") == table
    assert len(second.history) == 4


def test_latency_without_an_example_is_the_evaluators(tmp_path: Path) -> None:
    settings = {"objectives": [Minimize("latency")], "max_trials": 5}
    experiment(tmp_path / "own", lambda model: {"latency": 3.0}, **settings).run()
    with pytest.raises(SpaceError, match=r"'latency' is not among.*example_inputs=tensor"):
        experiment(tmp_path / "none", toy.product, **settings).run()
