"""Options of an experiment: which strategy can use them, and where foreign ones belong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.costs import CostLimit
from spacelang.evaluators import Functional
from spacelang.experiment import TrialOptions, TrialSettings
from spacelang.strategies import DARTS
from spacelang.strategies.multi_trial import Deduplicate, Grid, Random, RegularizedEvolution
from spacelang.trials import InProcess, Maximize, Minimize

OPTIONS: dict[str, Any] = {
    "max_trials": 3,
    "max_duration": 1.0,
    "max_failures": 0,
    "objectives": [Maximize("default")],
    "limits": [CostLimit("params", at_most=1)],
    "executor": InProcess(),
    "ledger": "sqlite:///trials.db",
    "study": "search",
    "example_inputs": torch.ones(1, 2),
    "keep_weights": 1,
    "inherit": "parent",
}


class Net(ModelSpace):
    """8 architectures of up to 6 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(LayerChoice([nn.Identity(), nn.Linear(1, 1)], label=f"layer{i}") for i in range(3))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def size(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))


def make(strategy: Any, **options: Any) -> Experiment:
    return Experiment(Net(), Functional(size), strategy, **options)


@pytest.mark.parametrize(
    ("option", "named"),
    [({"execution": "torch"}, "execution='torch'"), ({"checkpoint": True}, "checkpoint=True")],
)
def test_a_search_by_trials_has_no_supernet_to_compute(option: dict[str, Any], named: str) -> None:
    with pytest.raises(SpaceError, match=f"{named} says how a supernet computes, and Random trains none"):
        make(Random(), max_trials=1, **option)


class Deep(ModelSpace):
    """2^14 architectures."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LayerChoice([nn.Identity(), nn.Linear(1, 1)], label=f"layer{i}") for i in range(14)
        )


def test_a_search_without_end_is_refused(tmp_path: Path) -> None:
    """A strategy that samples a large space needs a budget; a small space or a grid ends by itself."""
    for strategy in (RegularizedEvolution(), Random(), Deduplicate(Random())):
        with pytest.raises(SpaceError, match=r"more than 10,000: pass max_trials=200, or max_duration=3600"):
            Experiment(Deep(), Functional(size), strategy, max_failures=3, directory=tmp_path)
        for budget in ({"max_trials": 3}, {"max_duration": 1.0}):
            Experiment(Deep(), Functional(size), strategy, directory=tmp_path, **budget)
        Experiment(Net(), Functional(size), strategy, directory=tmp_path)
    for ending in (Grid(), Deduplicate(Grid())):
        Experiment(Deep(), Functional(size), ending, directory=tmp_path)


def test_every_setting_of_trials_is_a_keyword() -> None:
    names = {field.name for field in fields(TrialSettings)}
    assert set(TrialOptions.__annotations__) == names == set(OPTIONS)


@pytest.mark.parametrize("name", [*OPTIONS, "trials"])
def test_a_one_shot_strategy_cannot_use_options_of_trials(name: str) -> None:
    words = (
        f"DARTS is a one-shot strategy: .* no trials, so it cannot use '{name}'.*max_epochs says when to end"
    )
    with pytest.raises(SpaceError, match=words):
        make(DARTS(), **{name: OPTIONS.get(name, TrialSettings(max_trials=3))})


def test_all_options_that_cannot_be_used_are_named() -> None:
    with pytest.raises(SpaceError, match="cannot use 'max_trials', 'keep_weights'"):
        make(DARTS(), max_trials=3, objectives=None, keep_weights=0)


@pytest.mark.parametrize(
    ("strategy", "name", "words"),
    [
        (Random(), "max_trial", r"Experiment takes no argument 'max_trial'.* Closest: 'max_trials'"),
        (DARTS(), "sed", r"Experiment takes no argument 'sed'.* Closest: 'seed'"),
        (Random(), "max_epochs", "pass it to the evaluator, such as Classification"),
        (DARTS(), "gradient_clip_val", "pass it to the evaluator, such as Classification"),
        (DARTS(), "learning_rate", r"setting of the strategy: DARTS\(learning_rate="),
        (RegularizedEvolution(), "population", r"RegularizedEvolution\(population="),
    ],
)
def test_a_foreign_option_is_told_where_it_belongs(strategy: Any, name: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        make(strategy, **{name: 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_trials": 0}, "max_trials=0 must be an integer of at least 1, or None"),
        ({"max_duration": 0}, "max_duration=0 must be a number above 0, or None"),
        ({"max_failures": -1}, "max_failures=-1 must be an integer of at least 0, or None"),
        ({"keep_weights": -1}, "keep_weights=-1 must be an integer of at least 0"),
        ({"limits": ["params"]}, "limits holds 'params'; expected CostLimit"),
        ({"objectives": ["params"]}, "objectives holds 'params'; expected Maximize"),
        ({"objectives": Maximize("default")}, r"objectives=Maximize.* must be a list of Maximize\(metric\)"),
        ({"limits": CostLimit("params", at_most=1)}, "limits=.* must be a list of CostLimit"),
        ({"executor": "pool"}, "executor='pool'; expected one such as ProcessPool"),
        ({"trials": 5}, "trials=5; expected such as TrialSettings"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        make(Random(), **options)


def test_settings_may_be_one_object_and_keywords_win(tmp_path: Path) -> None:
    settings = TrialSettings(max_trials=2, objectives=[Minimize("default")], keep_weights=0)
    whole = make(Random(), directory=tmp_path / "whole", trials=settings)
    longer = make(Random(), directory=tmp_path / "longer", trials=settings, max_trials=8)
    for run in (whole, longer):
        run.run()
    assert (len(whole.history), len(longer.history)) == (2, 8)
    assert [t.arch for t in longer.history][:2] == [t.arch for t in whole.history]
    assert longer.best == dict.fromkeys(("layer0", "layer1", "layer2"), 0)  # all identities: no parameters
    assert not (tmp_path / "longer" / "weights").exists()
