"""Derivations: as a setting of the strategy, and after a search has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.strategies import DARTS, GumbelDARTS, Judge, OperationStrength, RandomOneShot
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit


def searched(folder: Path, strategy: Any) -> Experiment:
    experiment = Experiment(toy_spaces()["Everything"], Fit(2), strategy, directory=folder)
    experiment.run()
    return experiment


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return searched(tmp_path_factory.mktemp("plain") / "run", GumbelDARTS())


@pytest.mark.parametrize(
    ("derive", "again"),
    [
        ("strength", lambda experiment, count: experiment.derive("strength", count=count)),
        (
            Judge(6, temperature=2.0),
            lambda experiment, count: experiment.derive(sample=6, temperature=2.0, count=count),
        ),
        pytest.param(
            OperationStrength(signed=True),
            lambda experiment, count: experiment.derive(OperationStrength(signed=True), count=count),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_a_finished_search_derives_what_its_strategy_would_have(
    tmp_path: Path, plain: Experiment, derive: Any, again: Callable[[Experiment, int], Any]
) -> None:
    """The relaxation draws at random, and so does the comparison: both from the number of epochs."""
    expected = searched(tmp_path / "run", GumbelDARTS(derive=derive)).export_top_models(5)
    best, files = plain.best, contents(plain.directory)
    assert again(plain, 5) == expected
    not_run = Experiment(plain.space, Fit(2), GumbelDARTS(), directory=plain.directory)
    assert again(not_run, 5) == expected
    assert plain.best == best  # as they were
    assert contents(plain.directory) == files


def test_the_probabilities_are_there_whatever_the_strategy_derives_by(
    tmp_path: Path, plain: Experiment
) -> None:
    strong = searched(tmp_path / "run", GumbelDARTS(derive="strength"))
    assert strong.derive("probabilities", count=5) == plain.export_top_models(5)


def test_a_finished_search_is_loaded_with_what_it_derived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = searched(tmp_path / "run", DARTS(derive=Judge(3)))
    monkeypatch.setattr(Judge, "judged", None)  # it measures nothing again
    again = Experiment(first.space, Fit(2), DARTS(derive=Judge(3)), directory=tmp_path / "run")
    again.run(resume=True)
    assert again.search.judged == first.search.judged  # type: ignore[attr-defined]
    assert again.best == first.best


def test_refusals(tmp_path: Path) -> None:
    space = toy_spaces()["Layers"]
    experiment = Experiment(space, Fit(2), DARTS(), directory=tmp_path / "none")
    with pytest.raises(SpaceError, match="holds no finished search to derive from"):
        experiment.derive("strength")
    with pytest.raises(SpaceError, match=r"RandomOneShot derives in one way alone"):
        Experiment(space, Fit(2), RandomOneShot(), directory=tmp_path / "none").derive("strength")
    with pytest.raises(SpaceError, match="derive='force'"):
        DARTS(derive="force")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="samples"):
        DARTS().deriving(samples=3)
    with pytest.raises(SpaceError, match=r"Judge\(.* has its settings; got also \['sample'\]"):
        DARTS().deriving(Judge(), sample=3)
