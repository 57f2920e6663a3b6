"""Widths of layers whose outputs are concatenated with others, and of all that reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, Supernet, Width, searchable
from spacelang.costs import expected_cost
from tests.models.networks import randomised, size

X = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Branches(nn.Module):
    """Two branches of 4 and 6 channels beside the stem's 2, a norm of all 12, and a head of 2 x 2 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.pool, self.head = nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(2), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left = self.left(x)
        right = self.right(torch.cat([x, left], 1))
        return self.head(self.pool(self.norm(torch.cat([torch.cat([x, left], 1), right], 1))).flatten(1))


CHOICES = {"left": Width([1, 2, 4]), "right": Width([3, 6])}


def test_each_piece_is_cut_by_itself() -> None:
    model = randomised(Branches())
    space = searchable(model, CHOICES, X)
    whole, cut = space.freeze({"left": 4, "right": 6}), space.freeze({"left": 2, "right": 3})
    assert torch.allclose(whole(X), model(X), rtol=1e-9)
    # 3 x 2 + 2, then 2 x 2 + 2, 4 x 3 + 3, a norm of 7 channels and a head of 28 features
    assert size(cut) == 8 + 6 + 15 + 14 + (28 * 3 + 3)
    assert (cut.right.in_channels, cut.norm.num_features, cut.head.in_features) == (4, 7, 28)
    kept = [0, 1, 2, 3, 6, 7, 8]  # of the channels of the stem, left and right
    assert torch.equal(cut.norm.running_mean, whole.norm.running_mean[kept])
    assert torch.equal(cut.head.weight.view(3, 7, 4), whole.head.weight.view(3, 12, 4)[:, kept])
    with torch.no_grad():  # what is dropped adds nothing
        whole.right.weight[:, 4:] = 0
        whole.head.weight.view(3, 12, 4)[:, [4, 5, 9, 10, 11]] = 0
    assert torch.allclose(cut(X), whole(X), rtol=1e-9)


def test_a_supernet_computes_what_the_frozen_model_does_and_keeps_its_statistics() -> None:
    space = searchable(randomised(Branches()), CHOICES, X)
    supernet = Supernet(space, memory_format=None)
    params = expected_cost(space, "params")
    for arch in ({"left": 1, "right": 6}, {"left": 4, "right": 3}):  # 9 channels both
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        assert torch.equal(supernet.train()(X), frozen.train()(X))
        assert torch.equal(supernet.freeze(arch).norm.running_mean, frozen.norm.running_mean)
        assert params.of(arch) == size(frozen)


def test_mixtures_of_pieces_are_refused_with_the_place() -> None:
    supernet = Supernet(searchable(randomised(Branches()), CHOICES, X))
    (right, norm, head) = supernet.soft_refusals()
    assert "several parts of chosen sizes, each of which is padded by itself (at model.norm)" in norm
    assert "(at model.right)" in right
    assert "(at model.head)" in head


def test_a_sum_with_a_concatenation_names_its_pieces() -> None:
    class Summed(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Conv2d(3, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return self.right(torch.cat([y, self.left(y)], 1) + self.gate(x)).mean((2, 3))

    with pytest.raises(SpaceError, match="Name the layers that make its pieces of 2, 4"):
        searchable(Summed(), {"gate": Width([3, 6])}, X.float())
    space: Any = searchable(randomised(Summed()), {"left": Width([2, 4])}, X)
    assert space.freeze({"left": 2}).gate.out_channels == 4


class Shuffled(nn.Module):
    """A concatenation whose halves are interleaved, so that both keep as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        y = y.view(y.shape[0], 2, -1, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.last(y).mean((2, 3))


def test_pieces_that_are_shuffled_keep_as_many_channels() -> None:
    model = randomised(Shuffled())
    space: Any = searchable(model, {"a": Width([2, 4])}, X)
    cut = space.freeze({"a": 2})
    assert (cut.b.out_channels, cut.last.in_channels) == (2, 4)
    assert torch.allclose(space.freeze({"a": 4})(X), model(X), rtol=1e-9)
    with pytest.raises(SpaceError, match="are one width"):
        searchable(model, {"a": Width([2, 4]), "b": Width([1, 4])}, X)
