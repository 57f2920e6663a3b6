"""Weights given with a space are kept in the supernet and in trials, or drawn anew on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace, Repeat, SpaceError
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.strategies import DARTS, PCDARTS, PDARTS, RandomOneShot
from spacelang.strategies.multi_trial import Grid
from spacelang.testing.toy_evaluators import Fit
from spacelang.trials import ProcessPool

SEVEN = 7.0


class Net(ModelSpace):
    """A backbone and a choice; maps (B, 4, 6, 6) to (B, 2)."""

    def __init__(self, blocks: int = 1, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone or nn.Conv2d(4, 4, 3, padding=1)
        self.blocks = Repeat(
            lambda i: LayerChoice(
                {"one": nn.Conv2d(4, 4, 1), "three": nn.Conv2d(4, 4, 3, padding=1)}, label="block"
            ),
            blocks,
        )
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.backbone(x))).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def sevens(space: ModelSpace) -> ModelSpace:
    with torch.no_grad():
        for parameter in space.parameters():
            parameter.fill_(SEVEN)
    return space


def first_value(model: nn.Module) -> dict[str, float]:
    """Whether all parameters are seven, for a pool to find."""
    return {"default": float(all(bool((p == SEVEN).all()) for p in model.parameters()))}


def one_shot(folder: Path, space: ModelSpace, strategy: Any = None, **options: Any) -> Experiment:
    return Experiment(space, Fit(1), strategy or DARTS(), directory=folder, **options)


def trials(folder: Path, space: ModelSpace, **options: Any) -> Experiment:
    return Experiment(space, Functional(first_value), Grid(), directory=folder, **options)


def begins_with(experiment: Experiment) -> set[float]:
    """Values of the weights with which a one-shot search begins."""
    run: Any = experiment._run
    strategy: Any = experiment.strategy
    found = [strategy.supernet(run.space, stage) for stage in range(strategy.stages)]
    return {
        float(value) for supernet in found for p in supernet.parameters() for value in p.detach().flatten()
    }


@pytest.mark.parametrize(
    "strategy",
    [DARTS(), PCDARTS(warmup_epochs=0), RandomOneShot(candidates=2, finalists=1)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_supernet_begins_with_given_weights(tmp_path: Path, strategy: Any) -> None:
    assert begins_with(one_shot(tmp_path, sevens(Net()), strategy, weights="given")) == {SEVEN}
    assert SEVEN not in begins_with(one_shot(tmp_path, sevens(Net()), strategy, weights="fresh"))


def test_every_stage_begins_with_those_that_fit(tmp_path: Path) -> None:
    stages = PDARTS(overrides=({}, {"blocks": 1}), drops=(1,), skip_dropout=(0.0, 0.0), warmup_epochs=0)
    assert begins_with(one_shot(tmp_path, sevens(Net()), stages, weights="given")) == {SEVEN}


def test_changed_weights_are_kept_and_said_so(tmp_path: Path) -> None:
    changed = {
        "filled": lambda space: sevens(space),
        "loaded": lambda space: space.load_state_dict(sevens(Net()).state_dict()),
        "data": lambda space: space.head.weight.data.fill_(SEVEN),
        "backbone": lambda space: space.backbone.load_state_dict(nn.Conv2d(4, 4, 3, padding=1).state_dict()),
        "replaced": lambda space: setattr(space, "backbone", nn.Conv2d(4, 4, 3, padding=1)),
    }
    for name, change in changed.items():
        space = Net()
        assert not space.was_changed
        change(space)
        assert space.was_changed, name
        with pytest.warns(
            UserWarning, match="weights of this Net were loaded or changed after its construction"
        ):
            one_shot(tmp_path, space)
        for weights in ("given", "fresh"):
            one_shot(tmp_path, space, weights=weights)  # warnings are errors


def test_unchanged_weights_are_drawn_by_the_seed(tmp_path: Path) -> None:
    space = Net().double().float()
    space.report(torch.zeros(1, 4, 6, 6))
    experiment = one_shot(tmp_path, space)
    own = {float(value) for p in space.parameters() for value in p.detach().flatten()}
    drawn = begins_with(experiment)
    assert len(drawn & own) < 10  # the constants of the norm


def test_a_pretrained_backbone_is_kept_however_it_came(tmp_path: Path) -> None:
    """By an argument, in the constructor, or loaded afterwards."""
    backbone = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.constant_(backbone.weight, SEVEN)
    later = Net()
    later.backbone.load_state_dict(backbone.state_dict())
    for weights, space in (("fresh", Net(backbone=backbone)), ("given", later)):
        run: Any = one_shot(tmp_path, space, weights=weights)._run
        supernet = run.strategy.supernet(run.space)
        assert torch.equal(supernet.network.backbone.weight, backbone.weight)


def test_a_search_records_and_resumes_with_its_weights(tmp_path: Path) -> None:
    one_shot(tmp_path, sevens(Net()), weights="given").run()
    assert load_yaml(tmp_path / "experiment.yaml")["weights"] == "given"  # type: ignore[index, call-overload]
    with pytest.raises(SpaceError, match="weights was 'given', now 'fresh'"):
        one_shot(tmp_path, Net()).run(resume=True)


def test_trials_begin_with_given_weights(tmp_path: Path) -> None:
    run = trials(tmp_path / "given", sevens(Net()), weights="given")
    run.run()
    assert [trial.metrics["default"] for trial in run.history] == [1.0, 1.0]
    (model,) = run.export_top_models(formatter="instance")
    assert first_value(model)["default"] == 1.0
    fresh = trials(tmp_path / "fresh", sevens(Net()), weights="fresh")
    fresh.run()
    assert [trial.metrics["default"] for trial in fresh.history] == [0.0, 0.0]
    assert not (tmp_path / "fresh" / "given.safetensors").exists()


def test_given_weights_travel_to_other_processes(tmp_path: Path) -> None:
    run = trials(tmp_path, sevens(Net()), weights="given", executor=ProcessPool(1, start_method="fork"))
    run.run()
    assert [trial.metrics["default"] for trial in run.history] == [1.0, 1.0]


def test_weights_that_do_not_fit_are_named() -> None:
    class Wide(ModelSpace):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.choice = LayerChoice([nn.ReLU(), nn.Tanh()], label="choice")
            self.linear = nn.Linear(2, width)

    with pytest.warns(UserWarning, match=r"2 of the weights given have another shape.*linear\.weight"):
        Wide().keeping_weights().rebuild(width=3)


def test_an_unknown_choice_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="weights='pretrained' must be one of 'given', 'fresh'"):
        one_shot(tmp_path, Net(), weights="pretrained")
