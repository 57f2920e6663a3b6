"""Trained weights of the best trials: kept on disk, the others' deleted, and loaded into exported models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace
from spacelang.evaluators import Functional
from spacelang.experiment.trial_run import drop_weights
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import History, Maximize, Minimize, ProcessPool, Trial, history, weights_file


class Wide(ModelSpace):
    """Two layers of one to three units each: nine architectures with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LayerChoice({name: nn.Linear(4, units) for name, units in UNITS.items()}, label=f"layer{i}")
            for i in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=1)


UNITS = {"one": 1, "two": 2, "three": 3}


def trained(model: nn.Module) -> dict[str, float]:
    """Draw the weights anew, which stands for training; the value is better for unequal layers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    first, second = (layer.out_features for layer in model.layers)  # type: ignore[union-attr]
    return {"value": 3.0 * first - second, "total": total(model)}


def total(model: nn.Module) -> float:
    return float(sum(parameter.detach().sum() for parameter in model.parameters()))


def run(directory: Path, **settings: Any) -> Experiment:
    experiment = Experiment(
        Wide(),
        Functional(trained),
        Grid(),
        directory=directory,
        **{"objectives": [Maximize("value")], **settings},
    )
    experiment.run()
    return experiment


def kept(experiment: Experiment) -> set[int]:
    return {int(path.stem) for path in (experiment.directory / "weights").glob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("executor", [None, ProcessPool(2, start_method="fork")], ids=["in-process", "pool"])
def test_the_best_keep_what_they_have_learnt(tmp_path: Path, executor: Any) -> None:
    experiment = run(tmp_path, keep_weights=3, executor=executor)
    best = experiment.history.ranked(3)
    assert [trial.metrics["value"] for trial in best] == [8, 7, 6]
    assert kept(experiment) == {trial.number for trial in best}
    for trial, model in zip(best, experiment.export_top_models(3, formatter="instance"), strict=True):
        assert total(model) == trial.metrics["total"]
    new = experiment.export_top_models(4, formatter="instance")[3]  # its weights were deleted
    assert total(new) != experiment.history.ranked(4)[3].metrics["total"]


def test_a_front_keeps_what_it_has_learnt(tmp_path: Path) -> None:
    """As many as are kept come from the Pareto front first."""
    objectives = [Maximize("value"), Minimize("params")]
    experiment = run(tmp_path, keep_weights=3, objectives=objectives)
    front = experiment.pareto
    assert [trial.arch["layer0"] for trial in front] == ["three", "two", "one"]
    assert {trial.arch["layer1"] for trial in front} == {"one"}
    assert kept(experiment) == {trial.number for trial in front}
    models = experiment.export_top_models(3, formatter="instance")
    assert [total(model) for model in models] == [trial.metrics["total"] for trial in front]


def test_a_resumed_search_keeps_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", keep_weights=2)
    run(tmp_path / "parts", keep_weights=2, max_trials=5)
    experiment = Experiment(
        Wide(),
        Functional(trained),
        Grid(),
        directory=tmp_path / "parts",
        objectives=[Maximize("value")],
        keep_weights=2,
    )
    experiment.run(resume=True)
    assert kept(experiment) == kept(whole)
    models = zip(*(e.export_top_models(2, formatter="instance") for e in (experiment, whole)), strict=True)
    assert [total(a) == total(b) for a, b in models] == [True, True]


@pytest.mark.parametrize("objectives", [[Maximize("value")], [Maximize("value"), Minimize("cost")]])
def test_the_work_of_a_trial_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: Any
) -> None:
    """With four trials' weights on the disk, as many scores are compared after 10,000 trials as after 100."""
    looks: list[str] = []
    scores, keys = History.scores, history.key_of
    monkeypatch.setattr(History, "scores", lambda self, trial: looks.append("score") or scores(self, trial))
    monkeypatch.setattr(history, "key_of", lambda *given: looks.append("key") or keys(*given))
    counts = []
    for trials in (100, 10_000):
        arch, metrics = Wide().decision_space.default(), {"value": 1.0, "cost": 1.0}
        search = History(Wide().decision_space, objectives)
        for number in range(trials):
            name = {**arch, "layer0": str(number)}
            if number == trials - 1:
                search.ranked(1)  # the trials before were ranked when they ended
                looks.clear()
            search.add(Trial(number, name, 0, "done", metrics={**metrics, "value": float(number)}))
        for number in range(trials - 4, trials):
            weights_file(tmp_path, number).touch()
        drop_weights(tmp_path, search, keep=3)
        counts.append((looks.count("score"), looks.count("key")))
        assert sorted(int(path.stem) for path in tmp_path.iterdir()) == list(range(trials - 3, trials))
        for path in tmp_path.iterdir():
            path.unlink()
    assert counts[0] == counts[1]
    assert max(counts[0]) < 30


def test_what_a_kill_left_of_weights_is_removed(tmp_path: Path) -> None:
    """Even those of a trial that another driver runs now, in its own folder."""
    run(tmp_path, max_trials=1)
    (tmp_path / "weights" / f".7.safetensors.{'0' * 16}.tmp").write_bytes(b"half")
    objectives = [Maximize("value")]
    again = Experiment(
        Wide(), Functional(trained), Grid(), directory=tmp_path, max_trials=1, objectives=objectives
    )
    again.run(resume=True)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["0.safetensors"]


def test_none_are_kept(tmp_path: Path) -> None:
    experiment = run(tmp_path, keep_weights=0)
    assert not (tmp_path / "weights").exists()
    assert len(experiment.export_top_models(2, formatter="instance")) == 2
