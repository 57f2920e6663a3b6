"""S1 to S4, the smaller spaces of DARTS cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spacelang import SpaceError, Supernet, model_context, profile
from spacelang.costs import expected_cost
from spacelang.hub import DARTS
from spacelang.hub.operations.cell_operations import Noise

SMALL: dict[str, Any] = {"width": 2, "num_cells": 3, "dataset": (1, 8, 4)}
# For nodes 2 to 5 two of 2, 3, 4, 5 edges (1 * 3 * 6 * 10), each with one of 2 or 3 operations; two cells.
SIZES = {"s1": (180 * 4**4) ** 2, "s2": (180 * 4**4) ** 2, "s3": (180 * 9**4) ** 2, "s4": (180 * 4**4) ** 2}
NAMES = {
    "skip": "skip_connect", "sep3": "sep_conv_3x3", "dil3": "dil_conv_3x3", "dil5": "dil_conv_5x5",
    "max": "max_pool_3x3", "avg": "avg_pool_3x3",
}  # fmt: skip
NORMAL = """0 skip,dil3 1 skip,dil5 2 skip,dil5 3 skip,sep3 4 skip,dil3 5 max,skip 6 skip,sep3 7 skip,sep3
    8 skip,dil3 9 skip,sep3 10 max,skip 11 skip,dil3 12 dil3,dil5 13 dil3,dil5"""
REDUCE = """0 max,avg 1 max,dil3 2 max,avg 3 max,avg 4 skip,dil5 5 max,avg 6 max,sep3 7 skip,dil3
    8 skip,dil5 9 max,avg 10 max,avg 11 skip,dil5 12 skip,dil5 13 skip,dil5"""


@pytest.mark.parametrize("name", SIZES)
def test_the_size_and_the_candidates_of_each_edge(name: str) -> None:
    space = DARTS(**SMALL, space=name)
    assert space.size() == SIZES[name]
    for label, group in Supernet(space).groups.items():
        offered = [{group.columns[k] for k, alive in enumerate(row) if alive} for row in group.alive]
        if name == "s1":
            texts = (NORMAL if label == "normal" else REDUCE).split()
            assert offered == [{NAMES[x] for x in text.split(",")} for text in texts[1::2]]
        else:
            skip = {"s2": {"skip_connect"}, "s3": {"none", "skip_connect"}, "s4": {"noise"}}[name]
            assert offered == [skip | {"sep_conv_3x3"}] * 14


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_one_model_selected_frozen_and_built_and_what_it_costs(name: str) -> None:
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    space = DARTS(**SMALL, space=name).double()
    supernet = Supernet(space, memory_format=None)
    arch = space.sample(np.random.default_rng(0))
    supernet.select(arch)
    frozen = supernet.freeze(arch)
    with model_context(arch):
        built = DARTS(**SMALL, space=name, affine=False).double()
    built.load_state_dict(frozen.state_dict())
    outputs = []
    for model in (supernet, frozen, space.freeze(arch), built):
        torch.manual_seed(0)
        outputs.append(model(x))
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert expected_cost(space, "params").of(arch) == sum(p.numel() for p in frozen.parameters())
    assert expected_cost(space, "flops", x).of(arch) == profile(frozen, x).flops


def test_a_mixture_of_s1_is_the_sum_edge_by_edge() -> None:
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    space = DARTS(**SMALL, space="s1").double()
    plain, shared, auto = (Supernet(space, execution=name) for name in ("plain", "torch", "auto"))
    generator = torch.Generator().manual_seed(0)
    shapes = {label: group.shape for label, group in plain.groups.items()}
    mixture = {label: torch.rand(n, generator=generator).double() for label, n in shapes.items()}
    for supernet in (plain, shared, auto):
        supernet.set_mixture(mixture)
    expected = plain(x)
    for supernet in (shared, auto):
        torch.testing.assert_close(supernet(x), expected, rtol=1e-10, atol=1e-10)
    normal = shared.plan[shared.plan.index("cells.0:") : shared.plan.index("cells.1:")]
    assert "dil_conv_5x5: 0 -> 3\n" in normal
    assert "max_pool_3x3: 0 -> 4\n" in normal


def test_noise_does_not_depend_on_its_input() -> None:
    noise, x = Noise(stride=2), torch.ones(2, 3, 5, 5)
    torch.manual_seed(0)
    first, second = noise(x), noise(x)
    torch.manual_seed(0)
    assert torch.equal(noise(2 * x), first)
    assert first.shape == (2, 3, 3, 3)
    assert not torch.equal(first, second)


def test_what_does_not_fit_a_smaller_space_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"space='s5' must be one of 's1', 's2', 's3', 's4'"):
        DARTS(**SMALL, space="s5")
    with pytest.raises(SpaceError, match="leave num_nodes and operations out"):
        DARTS(**SMALL, space="s1", num_nodes=3)
    assert DARTS(**SMALL, space="s2", num_nodes=2).size() == (3 * 4**2) ** 2
