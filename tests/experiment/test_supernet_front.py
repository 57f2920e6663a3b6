"""The trade-offs of a trained supernet: measured without training, with a bundle of each point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import Experiment, SpaceError, load_bundle, profile
from spacelang.evaluators import Functional
from spacelang.experiment.supernet_front import FrontEvolution
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import Exhausted, History, Maximize, Minimize, Trial

from ..toys import trials as toy
from ..toys.search_script import make

OBJECTIVES = [Maximize("val_acc"), Minimize("flops")]


@pytest.mark.slow
def test_the_front_of_a_supernet(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.run()
    before = {name: value.clone() for name, value in run.supernet.state_dict().items()}
    front = run.pareto_from_supernet(OBJECTIVES, samples=6, calibration_batches=1)
    assert all(torch.equal(before[name], value) for name, value in run.supernet.state_dict().items())
    assert front.history.measured == 6
    for trial in front.trials:
        for other in front.history.done:
            assert not (
                other.metrics["val_acc"] > trial.metrics["val_acc"]
                and other.metrics["flops"] < trial.metrics["flops"]
            )
    image = torch.zeros(1, 1, 8, 8)
    for trial, folder in zip(front.trials, front.bundles, strict=True):
        model = run.supernet.freeze(trial.arch)
        assert profile(model, image).flops == trial.metrics["flops"]
        bundle = load_bundle(folder, model)
        assert bundle.arch == trial.arch
        assert bundle.metadata["metrics"] == dict(trial.metrics)
    listed = load_yaml(tmp_path / "pareto" / "front.yaml")
    assert [point["architecture"] for point in listed] == front.architectures
    assert "Pareto front" in (tmp_path / "pareto" / "front.svg").read_text()
    assert len(front.to_dataframe()) == len(front.trials)
    assert "<table>" in front._repr_html_()
    more = run.pareto_from_supernet(OBJECTIVES, samples=8, calibration_batches=1)  # continues
    assert toy.trials_of(more)[:6] == toy.trials_of(front)
    assert more.history.measured == 8
    assert Experiment.load(tmp_path / "pareto").status == "finished"


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    run: Any = Experiment(toy.Chain(), Functional(toy.product), Grid(), directory=tmp_path, max_trials=1)
    with pytest.raises(SpaceError, match="must be a list of two or more"):
        run.pareto_from_supernet([Maximize("val_acc")])
    with pytest.raises(SpaceError, match="samples=0"):
        run.pareto_from_supernet(OBJECTIVES, samples=0)
    with pytest.raises(SpaceError, match="Grid trains no supernet"):
        run.pareto_from_supernet(OBJECTIVES)


def test_children_come_from_the_best_fronts() -> None:
    """Two parents that agree in all but one layer: a child differs from both in at most one decision more."""
    space = toy.Chain().decision_space
    history = History(space, [Maximize("a"), Minimize("b")])
    for number, last in enumerate(("one", "two")):
        arch = {"layer0": "three", "layer1": "three", "layer2": last}
        history.add(Trial(number, arch, 0, "done", metrics={"a": number, "b": number}))
    strategy = FrontEvolution(initial=2, parents=2)
    for seed in range(20):
        child = strategy.ask(history, np.random.default_rng(seed)).arch
        assert child not in history
        assert sum(child[layer] != "three" for layer in ("layer0", "layer1")) <= 1


def test_an_exhausted_space_ends_it() -> None:
    space = toy.Chain(layers=1).decision_space
    history = History(space, [Maximize("a")])
    for number, arch in enumerate(space.grid()):
        history.add(Trial(number, arch, 0, "done", metrics={"a": number}))
    with pytest.raises(Exhausted):
        FrontEvolution(initial=2).ask(history, np.random.default_rng(0))
