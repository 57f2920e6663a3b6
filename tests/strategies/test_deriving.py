"""Derivations: as a setting of the strategy, and after a search has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.strategies import DARTS, Derivation, GumbelDARTS, Judge, OperationStrength, RandomOneShot
from spacelang.strategies.framework import LogitsSearch
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


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


class Cut(ModelSpace):
    """A network through which nothing gets with "none"."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"none": Zero(), "pass": nn.Identity()}, label="layer")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x))
        return out


@dataclass(frozen=True)
class Always(Derivation):
    """Derives a candidate whatever was learnt."""

    candidate: str = "none"

    def tables(self, search: LogitsSearch) -> Mapping[str, Tensor]:
        return {"layer": torch.tensor([[float(x == self.candidate) for x in ("none", "pass")]])}


@pytest.mark.parametrize(
    "strategy", [DARTS(derive=Always()), RandomOneShot(filter=lambda arch: arch["layer"] == "none")]
)
def test_a_dead_network_is_warned_of(tmp_path: Path, strategy: Any) -> None:
    experiment = Experiment(Cut(), Fit(1), strategy, directory=tmp_path / "run")
    with pytest.warns(UserWarning, match=f"{type(strategy).__name__} derived a dead network"):
        experiment.run()
    assert experiment.best == {"layer": "none"}


def test_a_living_network_is_not(tmp_path: Path) -> None:
    experiment = Experiment(Cut(), Fit(1), DARTS(derive=Always("pass")), directory=tmp_path / "run")
    experiment.run()  # a warning is an error
    assert experiment.best == {"layer": "pass"}


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
