"""Recalibration: running statistics become the mean over the given passes, for whatever path is selected."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.supernet import batch_statistics, recalibrate

from ..toys.spaces import CASES

BATCHES = [torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(3)]


def passes(model: nn.Module, batches: list[Tensor]) -> list[partial[Tensor]]:
    return [partial(model, batch) for batch in batches]


def test_statistics_are_the_mean_over_the_passes() -> None:
    norm = nn.BatchNorm1d(3, momentum=0.3)
    norm.running_mean += 7.0
    recalibrate(norm, passes(norm, BATCHES))
    mean = torch.stack([batch.mean(dim=0) for batch in BATCHES]).mean(dim=0)
    variance = torch.stack([batch.var(dim=0) for batch in BATCHES]).mean(dim=0)
    assert torch.allclose(norm.running_mean, mean, atol=1e-6)
    assert torch.allclose(norm.running_var, variance, rtol=1e-5)
    assert norm.num_batches_tracked == 3


def test_modes_momenta_and_gradients_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Dropout()).eval()
    model[2].train()
    recalibrate(model, passes(model, BATCHES))
    assert [child.training for child in model.modules()] == [False, False, False, True]
    assert model[1].momentum == 0.3
    assert all(p.grad is None for p in model.parameters())


def test_an_error_in_a_pass_leaves_modes_and_momenta() -> None:
    norm = nn.BatchNorm1d(3).eval()
    with pytest.raises(ValueError, match="expected 2D or 3D"):
        recalibrate(norm, [partial(norm, torch.zeros(1, 2, 3, 4))])
    assert norm.momentum == 0.1
    assert not norm.training


def test_nothing_runs_without_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3))
    recalibrate(model, [lambda: pytest.fail("ran")])


def test_no_pass_is_an_error() -> None:
    with pytest.raises(SpaceError, match="at least one batch"):
        recalibrate(nn.BatchNorm1d(3), [])


class Widths(ModelSpace):
    """A batch norm that is sliced, with a momentum that is chosen too."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 4], label="width")
        self.linear = space_nn.Linear(3, width)
        self.norm = space_nn.BatchNorm1d(width, momentum=value_choice([0.1, 0.5], label="momentum"))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


@pytest.mark.parametrize("width", [2, 4])
def test_a_sliced_norm_is_calibrated_as_its_frozen_model(width: int) -> None:
    torch.manual_seed(0)
    supernet, arch = Supernet(Widths()), {"width": width, "momentum": 0.5}
    supernet.select(arch)
    model = supernet.freeze(arch)
    recalibrate(supernet, passes(supernet, BATCHES))
    recalibrate(model, passes(model, BATCHES))
    supernet.eval()
    model.eval()
    assert torch.equal(supernet(BATCHES[0]), model(BATCHES[0]))
    # The layer of the slice has its momentum back.
    supernet.train()
    model.train()
    assert torch.equal(supernet(BATCHES[1]), model(BATCHES[1]))
    assert torch.equal(supernet.eval()(BATCHES[0]), model.eval()(BATCHES[0]))


def test_a_cell_is_calibrated_as_its_frozen_model() -> None:
    case = CASES["cells"]
    space = case.space()
    supernet, arch = Supernet(space), space.default()
    supernet.select(arch)
    model = supernet.freeze(arch)
    batches = [case.example()[0] for _ in range(2)]
    recalibrate(supernet, passes(supernet, batches))
    recalibrate(model, passes(model, batches))
    assert torch.equal(supernet.eval()(batches[0]), model.eval()(batches[0]))


def test_batch_statistics_normalise_with_the_batch_and_remember_nothing() -> None:
    norm = nn.BatchNorm1d(3).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with batch_statistics():
        output = norm(BATCHES[2])
    assert torch.allclose(output.mean(dim=0), torch.zeros(3), atol=1e-6)
    assert not norm.training
    assert norm.track_running_stats
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
