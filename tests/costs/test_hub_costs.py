"""Costs of hub spaces are those of frozen models, for sampled and for published architectures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from spacelang import Experiment, ModelSpace, Supernet, hub, profile
from spacelang.costs import CostLimit, ExpectedCost, expected_cost
from spacelang.evaluators import Functional
from spacelang.hub import ENAS, NASBench201
from spacelang.hub.published import read_entry
from spacelang.strategies import DARTS, Penalty
from spacelang.strategies.multi_trial import Filter, Random
from spacelang.trials import Maximize, Minimize

from ..toys.hub import SMALL, Small, narrowed, small_space
from .tables import one_hot

pytestmark = pytest.mark.slow

Metric = Literal["params", "flops"]
FAILED_BEFORE = ("NASNet", "ENAS", "AmoebaNet", "NASBench101", "FairDARTS")


def frozen_cost(space: ModelSpace, metric: Metric, arch: Mapping[str, Any], small: Small) -> int:
    model = space.freeze(arch)
    return (
        sum(p.numel() for p in model.parameters())
        if metric == "params"
        else profile(model, small.inputs(1)).flops
    )


def check(
    space: ModelSpace, supernet: Supernet, cost: ExpectedCost, arch: Mapping[str, Any], small: Small
) -> None:
    """The exact cost, and the expectation at the tables of the architecture, are the frozen model's."""
    wanted = frozen_cost(space, cost.metric, arch, small)
    assert cost.of(arch) == wanted
    assert cost(one_hot(supernet, arch)).item() == pytest.approx(wanted, abs=1e-6)


def sampled() -> Iterator[Any]:
    """Spaces and metrics: FLOPs of all but one, which takes a minute of traces, and parameters of a few."""
    few = ("FairDARTS-width", "DARTS", "AutoFormer")
    for name, metric in product(SMALL, ("params", "flops")):
        is_kept = name in few if metric == "params" else name != few[0]
        yield pytest.param(name, metric, marks=[] if is_kept else [pytest.mark.exhaustive])


@pytest.mark.parametrize(("name", "metric"), list(sampled()))
def test_sampled_architectures(name: str, metric: Metric) -> None:
    small, space = SMALL[name], small_space(name)
    cost, supernet = expected_cost(space, metric, small.inputs(1)), Supernet(space, memory_format=None)
    rng = np.random.default_rng(0)
    for arch in [space.default(), *(space.sample(rng) for _ in range(5))]:
        check(space, supernet, cost, arch, small)


def published() -> Iterator[Any]:
    """Published entries of one space, by metric; one of each, FLOPs of two kinds, are tried every time."""
    alike: dict[str, list[str]] = {}
    for name in hub.list_models():
        small = narrowed(read_entry(name))
        alike.setdefault(f"{small.kind.__name__} {sorted(small.arguments.items())}", []).append(name)
    for names, metric in product(alike.values(), ("params", "flops")):
        is_quick = metric == "params" or narrowed(read_entry(names[0])).kind in (ENAS, NASBench201)
        for part, marked in ((names[:1], not is_quick), (names[1:], True)):
            if part:
                marks = [pytest.mark.exhaustive] if marked else []
                yield pytest.param(part, metric, id=f"{part[0]}-{metric}", marks=marks)


def test_spaces_with_the_same_labels_have_costs_of_their_own() -> None:
    """Nodes of both are named alike; those of FairDARTS have two edges at most, those of SNAS any number."""
    for name in ("FairDARTS", "SNAS"):
        space = small_space(name)
        cost, supernet = expected_cost(space, "params"), Supernet(space, memory_format=None)
        check(space, supernet, cost, space.default(), SMALL[name])


@pytest.mark.parametrize(("names", "metric"), list(published()))
def test_published_architectures(names: list[str], metric: Metric) -> None:
    small = narrowed(read_entry(names[0]))
    space = small.make()
    cost, supernet = expected_cost(space, metric, small.inputs(1)), Supernet(space, memory_format=None)
    for name in names:
        check(space, supernet, cost, read_entry(name).architecture, small)


@pytest.mark.parametrize("name", FAILED_BEFORE)
def test_limits_objectives_and_filters(name: str, tmp_path: Path) -> None:
    small, space = SMALL[name], small_space(name)
    run = Experiment(
        space,
        Functional(lambda model: 1.0),
        Filter(Random(), CostLimit("params", at_least=1)),
        directory=tmp_path,
        objectives=[Maximize("default"), Minimize("params")],
        limits=[CostLimit("params", at_most=10**9)],
        max_trials=1,
    )
    run.run()
    (trial,) = run.history
    assert trial.metrics["params"] == frozen_cost(space, "params", trial.arch, small)


@pytest.mark.parametrize("name", [name for name in FAILED_BEFORE if name != "NASBench101"])
def test_penalties(name: str) -> None:
    """A target between the smallest and the largest cost is in reach (warnings are errors)."""
    space = small_space(name)
    cost = expected_cost(space, "params").of(space.default())
    strategy = DARTS(extras=[Penalty("params", cost)])
    strategy.check(strategy.supernet(space))
