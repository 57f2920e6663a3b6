"""How much work reports and FLOP counts do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import LayerChoice, ModelSpace, profile
from spacelang.costs.flops import count_flops
from spacelang.costs.prices import Price
from spacelang.graph import tensors
from spacelang.graph.tensors import QuickShapes


class Chain(ModelSpace):
    def __init__(self, number: int) -> None:
        super().__init__()
        layers = [{"one": nn.Linear(2, 2), "none": nn.Identity()} for _ in range(number)]
        self.layers = nn.Sequential(*(LayerChoice(layer, label=f"l{i}") for i, layer in enumerate(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_report_computes_prices_in_proportion_to_the_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, count = Counter[int](), Price.count

    def work(number: int) -> int:
        def counted(price: Price, arch: Any) -> int:
            computed[number] += 1
            return count(price, arch)

        monkeypatch.setattr(Price, "count", counted)
        report = Chain(number).report()
        assert (report.parameters.smallest, report.parameters.largest) == (0, 6 * number)
        return computed[number]

    assert work(24) < 2.5 * work(12)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.GELU(),
        nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 2), nn.SiLU(),
    )  # fmt: skip


def test_shapes_taken_from_the_input_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 3, 6, 6)
    quick = count_flops(network(), (x,))
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "_keeps_shape", lambda *args: False)
        plain = count_flops(network(), (x,))
    assert quick[0] == plain[0] == profile(network(), x).flops
    assert quick[1].shape == plain[1].shape == (1, 2)


def test_a_normalisation_of_another_size_is_still_refused() -> None:
    x = torch.zeros(2, 4, 3, 3, device="meta")
    with QuickShapes():
        assert nn.BatchNorm2d(4, device="meta").eval()(x).shape == x.shape
        with pytest.raises((RuntimeError, ValueError)):
            nn.BatchNorm2d(5, device="meta").eval()(x)
