"""SPOS: the evolution, on values that are known, and one whole search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from spacelang import LayerChoice, ModelSpace, SpaceError
from spacelang.strategies import SPOS

from ..toys.paths import searched


class Digits(ModelSpace):
    """Ten choices of four: 4^10 architectures."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LayerChoice([nn.Tanh] * 4, label=f"{i}") for i in range(10))


class Evolution:
    """One run of the evolution; the value of an architecture is the sum of its digits, less is better."""

    def __init__(self, seed: int = 0, **settings: Any) -> None:
        self.space = Digits().decision_space
        self.measured: list[dict[str, int]] = []
        self.strategy = SPOS(**settings)
        self.ranking = self.strategy.rank(self.space, self.measure, np.random.default_rng(seed))

    def measure(self, arch: dict[str, int], batches: int | None = None) -> float:
        self.measured.append(arch)
        return float(sum(arch.values()))

    def generation(self, number: int) -> list[dict[str, int]]:
        """Architectures measured in a generation, from 0."""
        size = self.strategy.population
        return self.measured[number * size : (number + 1) * size]


@pytest.mark.slow
def test_the_papers_sizes_find_the_optimum() -> None:
    evolution = Evolution()
    assert len(evolution.measured) == 50 * 20 == evolution.strategy.measurements
    assert evolution.ranking[0] == (0.0, dict.fromkeys(map(str, range(10)), 0))
    # A thousand random ones of a million do not: their best is far from it.
    rng = np.random.default_rng(0)
    assert min(sum(evolution.space.sample(rng).values()) for _ in range(1000)) > 2


@pytest.mark.slow
def test_nothing_is_measured_twice() -> None:
    evolution = Evolution()
    assert len({json.dumps(arch) for arch in evolution.measured}) == 1000
    assert len(evolution.ranking) == 1000


@pytest.mark.slow
def test_the_filter_holds() -> None:
    evolution = Evolution(filter=lambda arch: arch["0"] != 0)
    assert all(arch["0"] for arch in evolution.measured)
    assert evolution.ranking[0][0] == 1


def test_crossovers_take_every_decision_from_a_parent() -> None:
    evolution = Evolution(population=20, generations=2, parents=2, mutations=0, crossovers=20)
    parents = sorted(evolution.generation(0), key=lambda arch: sum(arch.values()))[:2]
    for child in evolution.generation(1):
        assert all(value in (parents[0][label], parents[1][label]) for label, value in child.items())


def test_mutations_draw_a_tenth_anew() -> None:
    changed = []
    for seed in range(10):
        evolution = Evolution(seed, population=40, generations=2, parents=1, mutations=40, crossovers=0)
        parent = min(evolution.generation(0), key=lambda arch: sum(arch.values()))
        children = evolution.generation(1)
        changed += [sum(child[label] != parent[label] for label in parent) for child in children]
    # A tenth of ten decisions, three quarters of them to another value; without children that changed
    # nothing, or came twice.
    assert 0.75 < np.mean(changed) < 1.6
    assert min(changed) == 1


def test_the_best_of_all_generations_stay_parents() -> None:
    space, measured = Digits().decision_space, list[dict[str, int]]()

    def later_is_worse(arch: dict[str, int], batches: int | None = None) -> float:
        measured.append(arch)
        return len(measured)

    strategy = SPOS(population=10, generations=5, parents=1, mutations=10, crossovers=0)
    strategy.rank(space, later_is_worse, np.random.default_rng(0))
    changed = [sum(arch[label] != measured[0][label] for label in arch) for arch in measured[10:]]
    assert max(changed) <= 5  # of ten; random ones differ in seven or eight


def test_a_small_space_ends_early(tmp_path: Path) -> None:
    strategy = SPOS(population=8, generations=6, parents=2, mutations=4, crossovers=2, calibration_batches=1)
    search, module = searched(tmp_path, strategy)
    assert len(search.ranking) <= 21
    values = [value for value, _ in search.ranking]
    assert values == sorted(values)
    for arch in search.derive(5):
        module.model.freeze(arch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 0}, "population=0"),
        ({"mutations": 40, "crossovers": 20}, "more than a population of 50"),
        ({"mutation_probability": 0.0}, "mutation_probability=0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SPOS(**settings)
