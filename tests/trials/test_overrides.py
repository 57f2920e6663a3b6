"""Trials on the space rebuilt with other arguments: where they run, what they count for, what is exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.costs import CostLimit
from spacelang.evaluators import Functional, Tabular
from spacelang.experiment.trial_run import mirror
from spacelang.trials import (
    Exhausted,
    History,
    InProcess,
    Ledger,
    Maximize,
    Minimize,
    ProcessPool,
    Proposal,
    Rebuilt,
    Trial,
    from_optuna,
    key_of,
)

from ..toys import trials as toy


class Net(ModelSpace):
    """Layers of width^2 + width parameters or none."""

    def __init__(self, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            *(
                LayerChoice({"linear": nn.Linear(width, width), "none": nn.Identity()}, label=f"layer{i}")
                for i in range(layers)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def size(model: Any) -> dict[str, float]:
    """Parameters, and a draw from the trial's seed."""
    count = sum(p.numel() for p in model.parameters())
    return {"default": float(count), "draw": float(torch.rand(()))}


LINEAR = {"layer0": "linear", "layer1": "linear"}
MIXED = {"layer0": "linear", "layer1": "none"}
SHORT = {"layer0": "linear"}  # an architecture of one layer

SMALL = Proposal(LINEAR, overrides={"width": 2})
SMALLER = Proposal(MIXED, overrides={"width": 2})
FULL = Proposal(MIXED)
PARTIAL = Proposal(SHORT, overrides={"layers": 1})


@dataclass(frozen=True)
class Fixed:
    """Proposes what it was told to."""

    proposals: tuple[Proposal, ...]

    def start(self, space: ModelSpace) -> Any:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        if len(history) == len(self.proposals):
            raise Exhausted("that was all")
        return self.proposals[len(history)]


def run(
    folder: Path, *proposals: Proposal, evaluator: Any = None, resume: bool = False, **settings: Any
) -> Experiment:
    experiment = Experiment(
        Net(), evaluator or Functional(size), Fixed(proposals), directory=folder, **settings
    )
    experiment.run(resume=resume)
    return experiment


def values(experiment: Experiment) -> list[float]:
    return [trial.metrics["default"] for trial in experiment.history]


# -- running


def test_a_trial_is_measured_on_the_rebuilt_space(tmp_path: Path) -> None:
    experiment = run(tmp_path, SMALL, SMALLER, FULL, PARTIAL)
    assert values(experiment) == [12, 6, 72, 72]
    overrides = [dict(trial.overrides) for trial in experiment.history]
    assert overrides == [{"width": 2}, {"width": 2}, {}, {"layers": 1}]
    assert Ledger(tmp_path / "trials.db").trials() == list(experiment.history)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_measure_the_same(tmp_path: Path, workers: int) -> None:
    pool = ProcessPool(workers, start_method="fork")
    there = run(tmp_path / "there", SMALL, PARTIAL, FULL, executor=pool)
    here = run(tmp_path / "here", SMALL, PARTIAL, FULL, executor=InProcess())
    assert toy.trials_of(there) == toy.trials_of(here)


def test_a_search_resumes_with_them(tmp_path: Path) -> None:
    def interrupted(model: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", SMALL, PARTIAL, evaluator=Functional(interrupted))
    resumed = run(tmp_path / "run", SMALL, PARTIAL, resume=True)
    assert toy.trials_of(resumed) == toy.trials_of(run(tmp_path / "whole", SMALL, PARTIAL))


def test_architectures_are_canonical_in_the_rebuilt_space(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"'layer1' .* is not a label"):
        run(tmp_path / "a", Proposal(LINEAR, overrides={"layers": 1}))
    with pytest.raises(SpaceError, match="'layer1' is missing"):
        run(tmp_path / "b", Proposal(SHORT, overrides={"width": 2}))


def test_arguments_must_exist_and_be_plain(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="Net takes no argument 'depth'"):
        run(tmp_path / "a", Proposal(LINEAR, overrides={"depth": 2}))
    with pytest.raises(SpaceError, match=r"kept in the ledger, so they must be numbers.*Tensor"):
        run(tmp_path / "b", Proposal(LINEAR, overrides={"width": torch.ones(1)}))


def test_what_knows_architectures_alone_must_tell_models_by_them(tmp_path: Path) -> None:
    table = Tabular({"arch": [key_of(LINEAR), key_of(MIXED), key_of(SHORT)], "default": [1.0, 2.0, 3.0]})
    experiment = run(tmp_path / "partial", PARTIAL, FULL, evaluator=table)
    assert [trial.metrics["default"] for trial in experiment.history] == [3.0, 2.0]
    with pytest.raises(SpaceError, match=r"Tabular looks architectures up without a model, .*'width'"):
        run(tmp_path / "small", SMALL, FULL, evaluator=table)


def test_a_space_is_rebuilt_once_for_each_set_of_arguments() -> None:
    widths: list[int] = []
    made = Rebuilt(Net(), lambda space: widths.append(space.width))  # type: ignore[arg-type, func-returns-value]
    for width in (2, 4, 2, 4):
        made({"width": width, "layers": 1})
        made({"layers": 1, "width": width})
        made({})
    assert widths == [2, 8, 4]


# -- what trials count for


HIGHEST = (Maximize("value"),)


def history(*trials: tuple[Proposal, float], objectives: Any = HIGHEST) -> History:
    space = Net()
    known = History(
        space.decision_space, objectives, rebuilt=Rebuilt(space, lambda rebuilt: rebuilt.decision_space)
    )
    for number, (p, value) in enumerate(trials):
        metrics = {"value": value, "cost": -value}
        known.add(Trial(number, p.arch, 0, "done", overrides=p.overrides, metrics=metrics))
    return known


def test_other_arguments_make_another_key() -> None:
    known = history((SMALLER, 1), (PARTIAL, 2), (FULL, 3))
    assert known.find(MIXED) is known[2]
    assert known.find(MIXED, {"width": 2}) is known[0]
    assert known.find(SHORT, {"layers": 1}) is known[1]
    assert known.find(MIXED, {"width": 4}) is None
    assert MIXED in known
    assert LINEAR not in known
    assert known.distinct == 1


def test_results_are_architectures_of_the_space() -> None:
    known = history((SMALL, 1), (PARTIAL, 9), (SMALLER, 2), (FULL, 0))
    assert [t.number for t in known.done] == [0, 1, 2, 3]
    assert known.best_trial is known[2]
    assert [t.number for t in known.ranked(9)] == [0, 3]  # MIXED as the full model of trial 3 was measured
    assert [t.number for t in known.pareto()] == [0]
    assert known.score(known[1]) == 9
    both = history((SMALL, 1), (PARTIAL, 9), (SMALLER, 2), objectives=(Maximize("value"), Minimize("cost")))
    assert [t.number for t in both.ranked(9)] == [2, 0]
    nothing = history((PARTIAL, 9))
    assert (nothing.best_trial, nothing.ranked(), nothing.pareto()) == (None, [], [])


def test_a_history_of_other_trials_knows_the_same_spaces() -> None:
    known = history((SMALL, 1), (PARTIAL, 9))
    assert list(known.of(known.done)) == list(known)
    inner = known.of(overrides={"layers": 1})
    assert inner.space.size() == 2
    assert inner.decisions({"layers": 3}).size() == 8  # what is overridden last holds
    with pytest.raises(SpaceError, match="does not know the space with"):
        History(Net().decision_space, [Maximize("value")]).decisions({"width": 2})


def test_a_search_without_results_says_so(tmp_path: Path) -> None:
    experiment = run(tmp_path, PARTIAL)
    with pytest.raises(SpaceError, match="the 1 measured trials are of the space with other arguments"):
        _ = experiment.best


@pytest.mark.parametrize(
    ("proposal", "params"),
    [
        (SMALL, 144),
        (SMALLER, 72),
        (FULL, 72),
        (PARTIAL, 72),
        (Proposal(SHORT, overrides={"layers": 1, "width": 2}), 6),
    ],
)
def test_costs_are_of_the_model_searched_for(tmp_path: Path, proposal: Proposal, params: float) -> None:
    """Of the space in full, 72 a layer; where it has no such architecture, of the rebuilt one."""
    experiment = run(tmp_path, proposal, PARTIAL, limits=[CostLimit("params", at_most=100)])
    trial = experiment.history[0]
    assert trial.metrics["params"] == params
    assert trial.state == ("infeasible" if params > 100 else "done")


# -- results


def test_an_instance_is_of_the_space_in_full(tmp_path: Path) -> None:
    def trained(model: Any) -> float:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7)
        return float(sum(p.numel() for p in model.parameters()))

    ones = Functional(trained)
    experiment = run(tmp_path / "a", SMALL, evaluator=ones)
    (model,) = experiment.export_top_models(formatter="instance")
    assert experiment.best == LINEAR
    assert model.width == 8
    assert not any((p == 7).any() for p in model.parameters())  # new weights
    (model,) = run(tmp_path / "b", SMALL, FULL, evaluator=ones).export_top_models(formatter="instance")
    assert all((p == 7).all() for p in model.parameters())  # those of its trial


def test_tables_and_studies_hold_them(tmp_path: Path) -> None:
    longer = Proposal({**LINEAR, "layer2": "none"}, overrides={"layers": 3})
    experiment = run(tmp_path, SMALL, PARTIAL, longer, FULL)
    table = experiment.to_dataframe()
    assert table["overrides/width"].tolist()[0] == 2
    assert table["overrides/layers"].tolist()[1:3] == [1, 3]
    study = experiment.to_optuna()
    assert [trial.params for trial in study.trials] == [LINEAR, SHORT, longer.arch, MIXED]
    assert [trial.user_attrs.get("overrides") for trial in study.trials][1:] == [
        {"layers": 1},
        {"layers": 3},
        None,
    ]
    (back,) = from_optuna(study, experiment.space.decision_space)
    assert back.arch == MIXED


def test_the_dashboard_shows_them(tmp_path: Path) -> None:
    run(tmp_path, SMALL, PARTIAL, FULL)
    assert len(mirror(tmp_path, None).trials) == 3
