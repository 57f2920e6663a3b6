"""The once-for-all space: counts of the authors' networks, kernels by hand, the order of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spacelang import ModelSpace, SpaceError, Supernet, model_context, value_choice
from spacelang.hub import OnceForAll
from spacelang.hub.operations.elastic_kernel import TransformedConv2d
from spacelang.supernet import channel_order, sort_channels

from ..toys.hub import SMALL, small_space
from .networks import n_macs, n_parameters


def uniform(kernel: int, ratio: int, depth: int) -> dict[str, Any]:
    """An architecture of equal blocks."""
    units = range(1, 6)
    blocks = [f"s{unit}_i{block}" for unit in units for block in range(depth)]
    sizes = {f"s{unit}_depth": depth for unit in units} | {f"{block}_ks": kernel for block in blocks}
    return sizes | {f"{block}_exp": ratio for block in blocks}


# -- counts of the authors' code, at 224 and 160 ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "parameters", "macs"),
    [
        ((7, 6, 4), 7_664_760, (566_170_656, 291_318_048)),
        ((5, 4, 3), 4_551_792, (250_746_944, 129_548_864)),
        ((3, 3, 2), 3_410_792, (121_278_672, 63_240_528)),
    ],
)
def test_counts(sizes: tuple[int, int, int], parameters: int, macs: tuple[int, int]) -> None:
    with torch.device("meta"), model_context(uniform(*sizes)):
        model = OnceForAll()
    assert n_parameters(model) == parameters
    assert tuple(n_macs(model, 3, size, size) for size in (224, 160)) == macs


def test_counts_of_the_space() -> None:
    with torch.device("meta"):
        space = OnceForAll()
    assert space.size() == (9**2 + 9**3 + 9**4) ** 5 == 21_758_655_492_572_485_851
    assert n_parameters(space) == 7_678_880
    matrices = [p for name, p in space.named_parameters() if "transform" in name]
    assert (len(matrices), sum(p.numel() for p in matrices)) == (40, 14_120)
    with torch.device("meta"):
        cropped = OnceForAll(transform_kernels=False)
    assert n_parameters(cropped) == 7_678_880 - 14_120


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"kernel_sizes=\(3, 4\) must be odd"):
        OnceForAll(kernel_sizes=(3, 4))


# -- kernels ----------------------------------------------------------------------------------------------


class Kernel(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        size = value_choice([3, 5, 7], label="size")
        self.conv = TransformedConv2d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_smaller_kernels_by_hand() -> None:
    space = Kernel().double()
    largest: Any = space.conv.largest
    with torch.no_grad():
        largest.weight.copy_(torch.arange(49.0).view(1, 1, 7, 7))
    five, three = (space.freeze({"size": size}).conv.weight[0, 0].tolist() for size in (5, 3))
    assert five[0] == [8, 9, 10, 11, 12]
    assert three == [[16, 17, 18], [23, 24, 25], [30, 31, 32]]
    with torch.no_grad():
        largest.transform_7_to_5[0, 1] += 0.5
    assert space.freeze({"size": 5}).conv.weight[0, 0, 0].tolist() == [12.5, 9, 10, 11, 12]
    assert space.freeze({"size": 3}).conv.weight[0, 0].tolist() == three
    assert torch.equal(space.freeze({"size": 7}).conv.weight, largest.weight)


def test_matrices_are_trained_by_smaller_kernels_alone() -> None:
    supernet = Supernet(Kernel().double())
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for size, trained in ((7, []), (5, ["7_to_5"]), (3, ["7_to_5", "5_to_3"])):
        supernet.zero_grad()
        supernet.select({"size": size})
        supernet(x).square().sum().backward()
        found = [n.rpartition("transform_")[2] for n, p in supernet.named_parameters() if p.grad is not None]
        assert [name for name in found if "_to_" in name] == trained


def test_a_mixture_of_kernels_is_the_sum_of_their_outputs() -> None:
    supernet = Supernet(Kernel().double())
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    supernet.set_mixture({"size": weights})
    expected = sum(w * supernet.freeze({"size": s})(x) for w, s in zip(weights[0], (3, 5, 7), strict=True))
    torch.testing.assert_close(supernet(x), expected, rtol=0, atol=1e-12)


# -- channels ----------------------------------------------------------------------------------------------


def test_order_by_hand() -> None:
    importance = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7, 0.2])
    assert channel_order(importance).tolist() == [1, 4, 3, 0, 5, 2]
    assert channel_order(importance, [6, 4]).tolist() == [1, 3, 0, 2, 4, 5]
    assert channel_order(torch.tensor([1.0, 2.0, 2.0])).tolist() == [1, 2, 0]


def outputs(supernet: Supernet, archs: list[dict[str, Any]]) -> torch.Tensor:
    """Logits of several networks of a supernet."""
    found = []
    for arch in archs:
        supernet.select(arch)
        found.append(supernet(*SMALL["OnceForAll"].inputs()))
    return torch.stack(found)


def importances(supernet: Supernet) -> list[torch.Tensor]:
    """Of each block's hidden channels, by its projection."""
    blocks = [b for unit in list(supernet.network.blocks)[1:] for b in unit.blocks]
    return [block[-2].largest.weight.abs().sum((0, 2, 3)) for block in blocks]


@torch.no_grad()
def test_sorting_changes_no_network_that_was_trained() -> None:
    """Through squeeze-and-excite, batch norms and transformed kernels."""
    space = SMALL["OnceForAll"].make()
    frozen_norms = [m for m in space.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in frozen_norms:
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_()
        norm.weight.uniform_(0.5, 2)
    supernet = Supernet(space, memory_format=None).eval()
    decisions = space.decision_space.by_label
    exps = [label for label in decisions if label.endswith("exp")]
    full = {label: max(decision.values()) for label, decision in decisions.items()}
    wide = [full, full | {label: 3 for label in full if label.endswith("ks")}]
    before = outputs(supernet, wide)
    sizes = sort_channels(supernet, exps)
    assert len(sizes) == 10 + 6  # hidden channels of blocks, and of squeeze-and-excite
    torch.testing.assert_close(outputs(supernet, wide), before, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(x, x.sort(descending=True).values) for x in importances(supernet))
    for parameter in supernet.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    rng = np.random.default_rng(0)
    every = [*wide, *(space.sample(rng) for _ in range(4))]
    before, unsorted = outputs(supernet, every), importances(supernet)
    sort_channels(supernet, exps, dict.fromkeys(exps, (2, 1)))
    torch.testing.assert_close(outputs(supernet, every), before, rtol=1e-10, atol=1e-12)
    for old, new in zip(unsorted, importances(supernet), strict=True):
        half = len(old) // 2
        assert torch.equal(new[:half], old[:half].sort(descending=True).values)
        assert torch.equal(new[half:], old[half:].sort(descending=True).values)


def test_what_may_not_be_sorted_is_left_alone() -> None:
    """Heads of attention, and tokens that other layers than convolutions read."""
    supernet = Supernet(small_space("AutoFormer"))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    assert sort_channels(supernet, list(supernet.groups)) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
