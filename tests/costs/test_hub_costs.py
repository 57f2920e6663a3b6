"""Costs of hub spaces are those of frozen models, for sampled and for published architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest

from spacelang import ModelSpace, Supernet, hub, profile
from spacelang.costs import ExpectedCost, expected_cost
from spacelang.hub import AutoFormer, MobileNetV3Space, ProxylessNAS, ShuffleNetSpace
from spacelang.hub.published import read_entry

from ..toys.hub import SMALL, Small, narrowed, small_space
from .tables import one_hot

pytestmark = pytest.mark.slow

Metric = Literal["params", "flops"]


def frozen_cost(space: ModelSpace, metric: Metric, arch: Mapping[str, Any], small: Small) -> int:
    model = space.freeze(arch)
    return (
        sum(p.numel() for p in model.parameters())
        if metric == "params"
        else profile(model, small.images(1)).flops
    )


def check(
    space: ModelSpace, supernet: Supernet, cost: ExpectedCost, arch: Mapping[str, Any], small: Small
) -> None:
    """The exact cost, and the expectation at the tables of the architecture, are the frozen model's."""
    wanted = frozen_cost(space, cost.metric, arch, small)
    assert cost.of(arch) == wanted
    assert cost(one_hot(supernet, arch)).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("metric", ["params", "flops"])
@pytest.mark.parametrize("name", SMALL)
def test_sampled_architectures(name: str, metric: Metric) -> None:
    if (name, metric) == ("ENAS-sizes", "flops"):
        pytest.skip("half a minute; what it has, ENAS and DARTS-sizes have")
    small, space = SMALL[name], small_space(name)
    cost, supernet = expected_cost(space, metric, small.images(1)), Supernet(space, memory_format=None)
    rng = np.random.default_rng(0)
    for arch in [space.default(), *(space.sample(rng) for _ in range(5))]:
        check(space, supernet, cost, arch, small)


def alike() -> dict[str, list[str]]:
    """Published entries by the space they are in, which is named by its first entry."""
    found: dict[str, list[str]] = {}
    for name in hub.list_models():
        small = narrowed(read_entry(name))
        found.setdefault(f"{small.kind.__name__} {sorted(small.arguments.items())}", []).append(name)
    return {names[0]: names for names in found.values()}


PUBLISHED = alike()


@pytest.mark.parametrize("metric", ["params", "flops"])
@pytest.mark.parametrize("first", PUBLISHED)
def test_published_architectures(first: str, metric: Metric) -> None:
    small = narrowed(read_entry(first))
    if metric == "flops" and small.kind in (MobileNetV3Space, ProxylessNAS, ShuffleNetSpace, AutoFormer):
        pytest.skip("minutes of traces; smaller spaces of this kind are above")
    space = small.make()
    cost, supernet = expected_cost(space, metric, small.images(1)), Supernet(space, memory_format=None)
    for name in PUBLISHED[first]:
        check(space, supernet, cost, read_entry(name).architecture, small)
