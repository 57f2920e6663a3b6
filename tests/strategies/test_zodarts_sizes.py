"""ZO-DARTS++: expected parameters of its space, the penalty, and sizes that open late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spacelang import Experiment, SpaceError, Supernet
from spacelang.hub import StagedCells
from spacelang.strategies import Moment, ZODARTSPlusPlus
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit


@pytest.fixture(scope="module")
def uniform() -> Any:
    """A search of the authors' space in epoch 20, with uniform mixtures."""
    strategy = ZODARTSPlusPlus()
    search: Any = strategy.attach(strategy.supernet(StagedCells()))
    for logits in search.parameters.logits.values():
        logits.data = torch.zeros_like(logits, dtype=torch.float64)
    search.moment = Moment(20, 50, torch.Generator())
    return search


@pytest.mark.parametrize(
    ("limits", "missed"),
    [({"lower": 4e5, "upper": 6e5}, 0), ({"upper": 4e5}, 43_424.4), ({"lower": 5e5}, 56_575.6), ({}, 0)],
)
def test_oracle_16b(uniform: Any, limits: dict[str, float], missed: float) -> None:
    """P = 443,424.4 under uniform mixtures, 10 classes; the penalty in epoch 20, T = 1.5 * .75^4."""
    search, strategy = uniform, ZODARTSPlusPlus(**limits)  # type: ignore[arg-type]
    search.mix("logits")
    assert search.expected_parameters().item() == pytest.approx(443_424.4, abs=1e-6)
    penalty = strategy.objective(torch.tensor(1.0, dtype=torch.float64), search, "logits") - 1
    assert penalty.item() == pytest.approx(31.6049382716 * missed / 1e6, abs=1e-9)
    assert strategy.objective(torch.tensor(1.0), search, "weights") == 1
    if missed:
        slope = torch.autograd.grad(penalty, search.parameters.logits["stage2/depth"])[0][0]
        assert (slope[2] > slope[0]) == ("upper" in limits)  # fewer cells, or more


def test_sizes_are_the_largest_until_they_open(uniform: Any) -> None:
    relaxation, group = ZODARTSPlusPlus().relaxation, uniform.supernet.groups["stage0/kernel"]
    logits = torch.tensor([[0.0, 0.1, 0.2]])
    early, late = (relaxation.mixture(group, logits, Moment(e, 50, torch.Generator())) for e in (19, 20))
    assert early.weights.tolist() == [[1, 0, 0]]  # of 7, 5, 3
    assert early.active == [[True, False, False]]
    assert (late.weights > 0).all()


@pytest.mark.slow
def test_sizes_rest_until_they_open_and_adam_begins_again(tmp_path: Path) -> None:
    strategy = ZODARTSPlusPlus(rounds=3, opened=1)
    space = StagedCells(2, 2, (4, 6, 2))
    experiment: Any = Experiment(space, Fit(2), strategy, directory=tmp_path / "run")
    experiment.run()
    search = experiment.search
    initial: Any = strategy.attach(strategy.supernet(space), seed=0)
    for label, logits in search.parameters.logits.items():
        if label.endswith(("kernel", "depth")):
            assert torch.equal(search.history[label][0], initial.probabilities()[label])
        assert not torch.equal(logits, initial.parameters.logits[label])
        assert search.parameters.optimizer.state[logits]["step"] == 1  # each epoch has one window


def test_only_numbers_have_a_largest() -> None:
    with pytest.raises(SpaceError, match="matches 'first', whose candidates are 'conv1', 'conv3', 'skip'"):
        ZODARTSPlusPlus(sizes=("first",)).attach(Supernet(toy_spaces()["Layers"]))
    strategy = ZODARTSPlusPlus()
    (sentence,) = strategy.unused_features(Supernet(toy_spaces()["Layers"]))
    assert "so none opens late" in sentence
    with pytest.raises(SpaceError, match=r"upper=1\.0"):
        ZODARTSPlusPlus(lower=2.0, upper=1.0)
