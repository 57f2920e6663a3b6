"""TorchScript of frozen spaces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, Repeat, model_context, value_choice
from spacelang import nn as space_nn

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 3], label="width")
        self.layer = LayerChoice([nn.Linear(3, 3), nn.Identity()], label="layer")
        self.blocks = Repeat(lambda index: nn.Linear(3, 3), (1, 2), label="depth")
        self.last = space_nn.Linear(3, width)
        self.scale = width

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.layer(x))) * self.scale  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", [2, 3])
def test_a_frozen_space_is_scripted(width: int) -> None:
    arch = {"layer": 0, "depth": 2, "width": width}
    x = torch.randn(2, 3)
    frozen = Net().freeze(arch)
    assert torch.equal(torch.jit.script(frozen)(x), frozen(x))
    with model_context(arch):
        model = Net()
    assert torch.equal(torch.jit.script(model)(x), model(x))
