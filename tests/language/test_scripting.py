"""TorchScript of frozen spaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.jit.frontend import NotSupportedError

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, hub, model_context, value_choice
from spacelang import nn as space_nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level"),
]


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


class Joined(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        candidates = {"linear": lambda *edge: nn.Linear(3, 3), "none": lambda *edge: nn.Identity()}
        self.cell = Cell(candidates, 2, num_ops_per_node=2, num_predecessors=2, label="cell")
        self.inputs = InputChoice(3, n_chosen=2, label="inputs")

    def forward(self, x: Tensor) -> Tensor:
        return self.inputs([self.cell(x, 2 * x), self.cell([x, 3 * x]), self.cell(x, x)])  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Joined, lambda: hub.DARTS(4, 2), lambda: hub.NASBench201(4, 1)])
def test_cells_and_inputs_are_scripted_and_traced(make: Callable[[], ModelSpace]) -> None:
    space = make()
    model = space.freeze(space.sample(np.random.default_rng(0))).eval()
    x = torch.randn(2, 3) if isinstance(space, Joined) else torch.randn(2, 3, 9, 9)
    assert torch.equal(torch.jit.script(model)(x), model(x))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
    assert all(not isinstance(module, torch.fx.GraphModule) for module in model.modules())


def test_dropout_of_training_is_not_compiled_away() -> None:
    """Only evaluation mode is traced; in training mode TorchScript says what it cannot compile."""
    space = Joined()
    with pytest.raises(NotSupportedError, match="variable number of arguments"):
        torch.jit.script(space.freeze(space.default()).train())
