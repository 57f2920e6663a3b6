"""Spaces that draw and change architectures in their own way, in searches by trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spacelang import ModelSpace, value_choice
from spacelang.hub import HierarchicalCells, NASBench101
from spacelang.language import DecisionSpace, Interval
from spacelang.strategies import LocalSearch, Random, RegularizedEvolution

from ..strategies.multi_trial.drive import search


class Plain(ModelSpace):
    """Two numbers from 0 to 9."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = value_choice(list(range(10)), label="a"), value_choice(list(range(10)), label="b")

    def forward(self, x: Any) -> Any:
        return x


class Counting(Plain):
    """It begins with (0, 0), and from a parent it counts on; the other number follows the first one."""

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"a": 0, "b": 0}

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {"a": (arch["a"] + 1) % 10, "b": (arch["a"] + 1) % 10}

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: Any) -> dict[str, Any]:
        return {"a": a["a"], "b": a["a"]}

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"a": (arch["a"] + 1) % 10, "b": 0}


def sum_of(trial: Any) -> dict[str, float]:
    return {"value": trial.arch["a"]}


def test_strategies_move_as_the_space_says() -> None:
    assert all(trial.arch == {"a": 0, "b": 0} for trial in search(Random(), Counting(), sum_of, 5))
    for crossover in (False, True):
        strategy = RegularizedEvolution(population=1, sample=1, crossover=crossover)
        evolved = [trial.arch["a"] for trial in search(strategy, Counting(), sum_of, 6)]
        assert evolved == [0, 1, 2, 3, 4, 5]
    climbed = search(LocalSearch(), Counting(), sum_of, 4)
    assert [trial.arch for trial in climbed] == [{"a": a, "b": 0} for a in range(4)]


def test_what_a_space_does_not_define_is_as_it_was() -> None:
    space = Plain()
    assert space.search_space is space.decision_space
    history = search(Random(), Plain(), sum_of, 30)
    assert len({trial.arch["a"] for trial in history}) > 5


def test_further_decisions_are_drawn_and_changed_beside() -> None:
    rate = Interval("rate", 0.0, 1.0)
    joint = Counting().joined([rate]).search_space
    rng = np.random.default_rng(0)
    drawn = [joint.sample(rng) for _ in range(5)]
    assert all(arch["a"] == arch["b"] == 0 for arch in drawn)
    assert len({arch["rate"] for arch in drawn}) == 5
    parent, kinds = drawn[0], set()
    for _ in range(60):
        child = joint.mutate(parent, rng)
        changed = {label for label in child if child[label] != parent[label]}
        assert changed in ({"rate"}, {"a", "b"})
        kinds.add(frozenset(changed))
    assert len(kinds) == 2
    assert joint.crossover(drawn[1], drawn[2], rng)["rate"] in {drawn[1]["rate"], drawn[2]["rate"]}
    near = list(joint.neighbours(parent))
    assert {**parent, "a": 1} in near
    assert len({arch["rate"] for arch in near}) > 3


def test_spaces_of_the_hub_move_in_their_own_way() -> None:
    space = NASBench101(width=4, num_cells=1, num_stacks=1, max_vertices=3)
    assert isinstance(space.search_space, DecisionSpace)
    assert space.search_space.bound == space.size()
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    assert space.search_space.sample(one) == space.canonical(space.sample(other))
    cells = HierarchicalCells(width=2)
    parent = cells.sample(np.random.default_rng(0))
    child = cells.search_space.mutate(parent, np.random.default_rng(5))
    assert child == cells.mutate(parent, np.random.default_rng(5))
