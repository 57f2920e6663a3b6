"""Choices inside each other, 200 levels deep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, Supernet, model_context

LEVELS = 200


class Block(nn.Module):
    """A block around an inner one, which doubles what that returns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * 2


class Deep(ModelSpace):
    """A space whose choices are made from the outside in by factories, or from the inside out."""

    def __init__(self, outside_in: bool) -> None:
        super().__init__()
        self.layer = self._level(LEVELS) if outside_in else self._grown()

    def _level(self, level: int) -> nn.Module:
        if level == 0:
            return nn.Linear(2, 2)
        return Block(LayerChoice([lambda: self._level(level - 1), nn.Tanh()], label=f"level{level}"))

    @staticmethod
    def _grown() -> nn.Module:
        layer: nn.Module = nn.Linear(2, 2)
        for level in range(1, LEVELS + 1):
            layer = Block(LayerChoice([layer, nn.Tanh()], label=f"level{level}"))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@pytest.mark.slow
@pytest.mark.parametrize("outside_in", [True, False])
def test_two_hundred_levels(outside_in: bool) -> None:
    space = Deep(outside_in).double()
    assert len(space.decisions) == LEVELS
    arch = space.default()
    assert set(arch.values()) == {0}
    space.validate(arch)
    x = torch.randn(3, 2, dtype=torch.float64)
    supernet = Supernet(space)
    supernet.select(arch)
    expected = space.freeze(arch)(x)
    assert torch.equal(supernet(x), expected)
    assert torch.equal(supernet.freeze(arch)(x), expected)
    for group in supernet.groups.values():
        group.mix(torch.full(group.shape, 0.5, dtype=torch.float64))
    assert supernet(x).isfinite().all()
    assert space.graph.number_of_nodes() == 2 * LEVELS
    assert f"level{LEVELS}" in repr(space)
    with model_context(arch):
        assert Deep(outside_in)(x.float()).shape == x.shape
