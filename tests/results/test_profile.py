"""Profiles: exact counts, an untouched model, no unfrozen space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, profile


def test_counts_of_a_convolution_and_a_linear() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 5))
    found = profile(model, torch.zeros(2, 3, 4, 4))
    macs = 2 * (8 * 3 * 9 * 16 + 128 * 5)
    assert (found.macs, found.flops) == (macs, 2 * macs)
    assert found.parameters == 8 * 3 * 9 + 128 * 5 + 5
    assert found.output_shape == (2, 5)


def test_counts_attention() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(1, 6, 8)
    found = profile(model, (x, x, x))
    assert found.macs == 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8  # projections, scores and values, output
    assert found.output_shape == ((1, 6, 8), (1, 6, 6))


def test_the_model_is_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    profile(model, torch.ones(1, 1, 5, 5))
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not model[0].weight.is_meta


def test_a_network_that_looks_at_values() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.scale = torch.ones(3)  # a plain attribute, which does not move to another device

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.scale if x.sum() > 0 else x

    assert profile(Gated(), torch.ones(1, 3)).macs == 9


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    found = profile(nn.Sequential(layer, layer), torch.ones(1, 3))
    assert (found.parameters, found.macs) == (12, 18)


def test_space_and_frozen_model(space_class: Any, conv_arch: dict[str, Any]) -> None:
    space = space_class()
    with pytest.raises(SpaceError, match=r"cannot profile ConvSpace.*freeze"):
        profile(space, torch.zeros(1, 1, 8, 8))
    found = profile(space.freeze(conv_arch), torch.zeros(1, 1, 8, 8))
    assert found.macs == 64 * 9 * 4 * (1 + 3 * 4) + 8 * 3  # stem, three convolutions, head


@pytest.mark.parametrize("bad", [None, "x", (), (torch.ones(1, 3), torch.ones(2, 3)), torch.tensor(1.0)])
def test_bad_example_inputs(bad: Any) -> None:
    with pytest.raises(SpaceError, match="example_input"):
        profile(nn.Linear(3, 3), bad)


def test_a_wrong_shape_is_reported() -> None:
    with pytest.raises(SpaceError, match=r"Linear: its forward pass fails for an input of shape \(1, 4\)"):
        profile(nn.Linear(3, 3), torch.ones(1, 4))
