"""The scorer: it measures any mixture, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.strategies import DARTS, RandomOneShot
from spacelang.supernet import recalibrate

from ..toys.paths import Anything, rows, trainer


class Blend(ModelSpace):
    """Two linear layers to choose from, behind batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.2))
        self.layer = LayerChoice({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)}, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.stem(x))


class AtEnd(pl.Callback):
    """Calls a function with the search and the module at the end of the epoch."""

    def __init__(self, search: Any, act: Callable[[Any, Anything], None]) -> None:
        self.search = search
        self.act = act
        self.acted = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.act(self.search, pl_module)
        self.acted = True


def at_end(folder: Path, strategy: Any, act: Callable[[Any, Anything], None]) -> None:
    """Search `Blend` for an epoch, and act at its end."""
    torch.manual_seed(0)
    supernet = Supernet(Blend())
    search, module = strategy.attach(supernet), Anything(supernet)
    callback = AtEnd(search, act)
    trainer(folder, search, callback).fit(module, rows(4, 1), rows(3, 2))
    assert callback.acted


def by_hand(module: Anything, weights: list[float]) -> float:
    """Mean loss of the frozen networks' weighted sum on the validation batches."""
    nets = [module.model.freeze({"layer": name}).eval() for name in ("a", "b")]
    with torch.no_grad():
        outputs = [sum(w * net(x) for w, net in zip(weights, nets, strict=True)) for (x,) in rows(3, 2)]
    return sum(float((y - 1).square().mean()) for y in outputs) / 3


def test_a_softmax_mixture_is_measured(tmp_path: Path) -> None:
    def act(search: Any, module: Anything) -> None:
        logits = torch.tensor([[0.0, 1.0]])
        search.supernet.set_mixture({"layer": logits.softmax(1)})
        with search.scorer() as scorer:
            # softmax(0, 1) = (0.26894142, 0.73105858)
            assert scorer.measure() == pytest.approx(by_hand(module, [0.26894142, 0.73105858]), rel=1e-5)
            assert scorer.measure(1) != scorer.measure()
            one = scorer.measure_architecture({"layer": "b"})
            assert one == pytest.approx(by_hand(module, [0.0, 1.0]), rel=1e-6)
            assert scorer.measure() == one  # it stays selected, until the end of the block

    at_end(tmp_path, DARTS(), act)


def test_statistics_are_estimated_for_the_mixture(tmp_path: Path) -> None:
    def act(search: Any, module: Anything) -> None:
        search.supernet.set_mixture({"layer": torch.tensor([[0.25, 0.75]])})
        with search.scorer(calibration_batches=4) as scorer:
            value = scorer.measure()
        recalibrate(module, [lambda x=x: module.model(x) for (x,) in rows(4, 1)])
        assert value == pytest.approx(by_hand(module, [0.25, 0.75]), rel=1e-5)

    at_end(tmp_path, DARTS(), act)


def test_a_metric_is_measured_in_place_of_the_loss(tmp_path: Path) -> None:
    def act(search: Any, module: Anything) -> None:
        with search.scorer() as scorer:
            expected = sum(float(x.flatten()[0]) for (x,) in rows(3, 2)) / 3
            assert scorer.measure() == pytest.approx(expected, rel=1e-6)

    at_end(tmp_path, DARTS(metric="val_first", mode="max"), act)


@pytest.mark.parametrize("strategy", [DARTS(), RandomOneShot(candidates=2, finalists=1)])
def test_measuring_leaves_everything_as_it_was(tmp_path: Path, strategy: Any) -> None:
    def state(search: Any, module: Anything) -> Any:
        group = search.supernet.groups["layer"]
        tensors = {name: value.clone() for name, value in module.state_dict().items()}
        modes = [child.training for child in module.modules()]
        return tensors, modes, torch.get_rng_state(), np.random.get_state()[1].tolist(), group.computing()

    def act(search: Any, module: Anything) -> None:
        module.model.network.stem[1].eval()  # a mode of one's own
        weights, modes, torch_state, numpy_state, computing = state(search, module)
        with search.scorer(calibration_batches=2) as scorer:
            scorer.measure()
            scorer.measure_architecture({"layer": "b"})
            search.supernet.set_mixture({"layer": torch.tensor([[0.5, 0.5]])})
            scorer.measure_on(search.training.validation_batch())
            torch.rand(3)
        weights_, modes_, torch_state_, numpy_state_, computing_ = state(search, module)
        assert all(torch.equal(value, weights_[name]) for name, value in weights.items())
        assert modes == modes_
        assert torch.equal(torch_state, torch_state_)
        assert numpy_state == numpy_state_
        assert computing["active"] == computing_["active"]
        assert computing["is_selected"] == computing_["is_selected"]
        assert computing["weights"] is computing_["weights"]

    at_end(tmp_path, strategy, act)


def test_there_is_no_scorer_outside_a_fit() -> None:
    search = DARTS().attach(Supernet(Blend()))
    with pytest.raises(SpaceError, match="no Trainer is fitting this search"), search.scorer():
        pass


@pytest.mark.parametrize(
    "settings", [{"metric": "val_acc"}, {"mode": "max"}, {"metric": "a", "mode": "most"}]
)
def test_metric_and_mode_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match="a metric needs mode='max' or mode='min'"):
        DARTS(**settings)
