"""Trials that begin with the weights of their parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError, value_choice
from spacelang import nn as space_nn
from spacelang.strategies import FewerEpochs, RegularizedEvolution, Repeated, Retry, WarmStart
from spacelang.trials import Exhausted, History, Proposal, inherit_weights

from ..strategies.multi_trial.drive import search


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)


class Other(Scale):
    """Of the same shape, and something else."""


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        width, size = value_choice([2, 4], label="width"), value_choice([1, 3], label="size")
        self.conv = space_nn.Conv2d(1, width, size, padding=size // 2, bias=False)
        self.layer = LayerChoice({"scale": Scale, "other": Other}, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return x


def built(arch: dict[str, Any]) -> Net:
    return Net().freeze(arch)


SMALL = {"width": 2, "size": 1, "layer": "scale"}


def test_what_fits_is_copied() -> None:
    parent, child = built({"width": 4, "size": 3, "layer": "scale"}), built(SMALL)
    inherit_weights(child, parent)
    assert torch.equal(child.conv.weight[..., 0, 0], parent.conv.weight[:2, :, 1, 1])
    assert torch.equal(child.layer.linear.weight, parent.layer.linear.weight)
    grown = built({"width": 4, "size": 3, "layer": "scale"})
    before = grown.conv.weight.detach().clone()
    inherit_weights(grown, child)
    assert torch.equal(grown.conv.weight[:2, :, 1, 1], child.conv.weight[..., 0, 0])
    before[:2, :, 1, 1] = child.conv.weight[..., 0, 0].detach()
    assert torch.equal(grown.conv.weight, before)  # and nothing else


def test_another_operation_in_the_same_place_inherits_nothing() -> None:
    parent, child = built(SMALL), built(SMALL | {"layer": "other"})
    before = child.layer.linear.weight.clone()
    inherit_weights(child, parent)
    assert torch.equal(child.layer.linear.weight, before)
    assert torch.equal(child.conv.weight, parent.conv.weight)


class Children:
    """Two trials: `SMALL`, and its child of four channels."""

    has_end = True

    def start(self, space: Any) -> Children:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        if len(history) > 1:
            raise Exhausted("two are enough")
        if len(history):
            return Proposal(SMALL | {"width": 4}, note={"parent": 0})
        return Proposal(SMALL)


class Sum:
    """The sum of the weights with which a model begins; then they become ones."""

    def evaluate(self, model: Any, report: Any = None) -> dict[str, float]:
        weights = {"conv": model.conv.weight, "linear": model.layer.linear.weight}
        found = {name: float(weight.detach().sum()) for name, weight in weights.items()}
        found["default"] = float(torch.rand(()))  # as the training of the trial would draw it
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        return found


@pytest.mark.parametrize("inherit", ["parent", None])
def test_a_trial_begins_where_its_parent_ended(tmp_path: Path, inherit: Any) -> None:
    experiment = Experiment(
        Net(), Sum(), Children(), directory=tmp_path / "run", inherit=inherit, keep_weights=0
    )
    experiment.run()
    child = experiment.history[1].metrics
    assert (child["linear"] == 16) == (inherit == "parent")
    if inherit:
        expected = Experiment(Net(), Sum(), Children(), directory=tmp_path / "other")
        expected.run()
        fresh = expected.history[1].metrics
        assert child["default"] == fresh["default"]  # the parent moves no generator
        assert child["conv"] != fresh["conv"]


class Line:
    """Trials each of which is a child of the one before, as the history shows it."""

    has_end = True

    def start(self, space: Any) -> Line:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        parent = max((trial.number for trial in history.done), default=None)
        return Proposal(SMALL, note={} if parent is None else {"parent": parent})


KNOWN = [(SMALL, {"value": 0.5, "default": 0.5})] * 2
EARLIER: list[tuple[Any, list[int | None]]] = [
    (WarmStart(Line(), KNOWN), [None, 0, 1, 2]),  # the first one's parent is not of this search
    (Repeated(Line(), times=2), [None, None, 1, 1]),  # each trial twice; the last of the parent's
    (WarmStart(Repeated(Line(), times=2), KNOWN), [None, None, 1, 1]),
    (Retry(WarmStart(Line(), KNOWN)), [None, 0, 1, 2]),
    (FewerEpochs(Line(), epochs=1), [None, 0, 1, 2]),
]


@pytest.mark.parametrize(("strategy", "parents"), EARLIER, ids=["warm", "twice", "both", "retry", "proxy"])
def test_wrappers_name_the_parent_as_the_ledger_numbers_it(strategy: Any, parents: list[Any]) -> None:
    history = search(strategy, Net(), lambda trial: {"value": 1.0}, 4)
    assert [trial.note.get("parent") for trial in history] == parents


def test_a_trial_inherits_through_wrappers(tmp_path: Path) -> None:
    strategy = WarmStart(Line(), KNOWN)
    experiment = Experiment(
        Net(), Sum(), strategy, directory=tmp_path / "run", inherit="parent", keep_weights=0, max_trials=3
    )
    experiment.run()
    assert [trial.metrics["linear"] == 16 for trial in experiment.history] == [False, True, True]


def test_a_model_may_say_how_it_inherits(tmp_path: Path) -> None:
    class Own(Net):
        def inherit(self, parent: Any) -> None:
            nn.init.constant_(self.conv.weight, float(parent.conv.weight.detach().sum()))

    experiment = Experiment(Own(), Sum(), Children(), directory=tmp_path / "run", inherit="parent")
    experiment.run()
    assert experiment.history[1].metrics["conv"] == 2 * 4  # two ones, in each of four channels


def test_evolution_inherits_and_resumes(tmp_path: Path) -> None:
    def search(name: str, trials: int) -> Experiment:
        strategy = RegularizedEvolution(population=2, sample=1)
        settings = {"inherit": "parent", "max_trials": trials, "seed": 1}
        found = Experiment(Net(), Sum(), strategy, directory=tmp_path / name, **settings)
        found.run(resume=True)
        return found

    whole = search("whole", 6)
    children = [t for t in whole.history if "parent" in t.note]
    assert len(children) == 4
    same = [t.arch["layer"] == whole.history[t.note["parent"]].arch["layer"] for t in children]
    assert [t.metrics["linear"] == 16 for t in children] == same
    search("parts", 3)
    parts = search("parts", 6)
    assert [t.metrics for t in parts.history] == [t.metrics for t in whole.history]
    alone = Experiment(Net(), Sum(), parts.strategy, directory=tmp_path / "parts", max_trials=7, seed=1)
    with pytest.raises(SpaceError, match="weights was 'fresh, then inherited', now 'fresh'"):
        alone.run(resume=True)


def test_misuse(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"inherit='parents' must be one of 'parent', None"):
        Experiment(Net(), Sum(), Children(), directory=tmp_path, inherit="parents")  # type: ignore[arg-type]
