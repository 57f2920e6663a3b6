"""Grid search: every architecture once, in order or shuffled, without the grid."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from spacelang import ModelSpace, SpaceError
from spacelang.hub import DARTS
from spacelang.strategies import Grid
from spacelang.strategies.multi_trial.grid import permuted
from spacelang.trials import Exhausted, History, Maximize

from ...toys.spaces import CASES, Case
from ...toys.trials import Chain, Conditional
from .drive import archs, search


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_place_of_the_grid_is_found_directly(case: Case) -> None:
    space = case.space().decision_space
    expected = list(itertools.islice(space.grid(), 200))
    assert [space.at(place) for place in range(len(expected))] == expected
    space.validate(space.at(space.size() - 1))


def test_there_is_nothing_outside_the_grid() -> None:
    space = Chain().decision_space
    for place in (-1, 27):
        with pytest.raises(SpaceError, match=f"place {place} is outside a grid of 27"):
            space.at(place)


@pytest.mark.parametrize("space", [Chain(), Conditional()], ids=["chain", "conditional"])
def test_every_architecture_once(space: ModelSpace) -> None:
    value = {"value": 0.0}
    grid = list(space.grid())
    in_order = search(Grid(), space, lambda trial: value, 99)
    assert archs(in_order) == grid
    orders = [archs(search(Grid(shuffle=True), space, lambda trial: value, 99, seed=s)) for s in (0, 0, 1)]
    assert all(sorted(map(json.dumps, order)) == sorted(map(json.dumps, grid)) for order in orders)
    assert grid != orders[0] == orders[1] != orders[2]


def test_it_says_that_it_ended() -> None:
    space = Chain(1)
    history = search(Grid(), space, lambda trial: {"value": 0.0}, 99)
    with pytest.raises(Exhausted, match="all 3 architectures of the space were proposed"):
        Grid().ask(history, np.random.default_rng(0))


def test_what_was_tried_by_others_is_left_out() -> None:
    space = Chain(1)
    history = History(space.decision_space, [Maximize("value")])
    tried = search(Grid(), space, lambda trial: {"value": 0.0}, 2)
    history.add(replace(tried[1], number=0, note={}))
    assert Grid().ask(history, np.random.default_rng(0)).arch == {"layer0": "one"}


@pytest.mark.parametrize("size", [1, 2, 3, 64, 65, 1000])
def test_permutations(size: int) -> None:
    order = [permuted(i, size, 5) for i in range(size)]
    assert sorted(order) == list(range(size))
    if size >= 64:
        assert order != [permuted(i, size, 6) for i in range(size)]
        assert abs(np.corrcoef(order, range(size))[0, 1]) < 0.3


def test_permutations_are_even() -> None:
    """Over keys, each of 5 places comes first about equally often: chi squared with 4 degrees of freedom."""
    keys = random.Random(0)
    counts = np.bincount([permuted(0, 5, keys.getrandbits(32)) for _ in range(1000)], minlength=5)
    assert ((counts - 200) ** 2 / 200).sum() < 18.5  # p = 0.001


@pytest.mark.slow
def test_a_space_far_too_large_to_hold() -> None:
    space = DARTS()
    history = search(Grid(shuffle=True), space, lambda trial: {"value": 0.0}, 3)
    assert space.size() > 10**14
    assert history.distinct == 3
    for arch in archs(history):
        space.validate(arch)
