"""Random sampling and editing: priors, seeds, constraints."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from torch import nn as plain

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, nn, value_choice
from spacelang.language import Categorical, Subset

from ..toys.spaces import CASES, Case

DRAWS = 6000
# Upper 0.1 % points of the chi-square distribution by degrees of freedom.
CHI_SQUARE = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5, 6: 22.5, 8: 26.1}


def check_frequencies(counts: Mapping[Any, int], probabilities: Mapping[Any, float]) -> None:
    """Chi-square test of drawn values, which also refuses any value of probability zero."""
    total = sum(counts.values())
    assert set(counts) <= {value for value, p in probabilities.items() if p > 0}
    statistic = sum(
        (counts.get(v, 0) - total * p) ** 2 / (total * p) for v, p in probabilities.items() if p > 0
    )
    assert statistic < CHI_SQUARE[sum(p > 0 for p in probabilities.values()) - 1]


def frequencies(decision: Categorical | Subset) -> Counter[Any]:
    rng = np.random.default_rng(0)
    return Counter(json.dumps(decision.sample(rng)) for _ in range(DRAWS))


def test_a_categorical_is_drawn_by_its_prior() -> None:
    check_frequencies(frequencies(Categorical("x", ["a", "b", "c"])), {f'"{v}"': 1 / 3 for v in "abc"})
    weighted = Categorical("x", ["a", "b", "c", "d"], prior=[1, 0, 2, 5])
    check_frequencies(frequencies(weighted), {'"a"': 1 / 8, '"b"': 0, '"c"': 2 / 8, '"d"': 5 / 8})


@pytest.mark.slow
def test_a_subset_without_prior_is_uniform_over_its_legal_values() -> None:
    for n_chosen in (None, 1, 2, 3):
        decision = Subset("x", range(3), n_chosen)
        values = [json.dumps(value) for value in decision.values()]
        assert len(values) == decision.cardinality
        if len(values) > 1:
            check_frequencies(frequencies(decision), dict.fromkeys(values, 1 / len(values)))


@pytest.mark.slow
def test_subset_priors() -> None:
    """Inclusion probabilities given that the set is not empty; draws without replacement."""
    p = (0.2, 0.5, 0.9)
    exact = {}
    for kept in itertools.product([False, True], repeat=3):
        if any(kept):
            mass = np.prod([q if k else 1 - q for q, k in zip(p, kept, strict=True)])
            exact[json.dumps([i for i in range(3) if kept[i]])] = mass / (1 - 0.8 * 0.5 * 0.1)
    check_frequencies(frequencies(Subset("x", range(3), None, p)), exact)
    w = np.array([1, 2, 5]) / 8
    pairs = {
        json.dumps([i, j]): w[i] * w[j] / (1 - w[i]) + w[j] * w[i] / (1 - w[j])
        for i, j in itertools.combinations(range(3), 2)
    }
    check_frequencies(frequencies(Subset("x", range(3), 2, [1, 2, 5])), pairs)


@pytest.mark.parametrize(
    ("n_chosen", "prior", "message"),
    [
        (4, None, "n_chosen=4 must be an integer from 1 to 3"),
        (0, None, "n_chosen=0 must be an integer from 1 to 3"),
        (None, [0.5, 1, 0.5], r"probabilities in \(0, 1\)"),
        (2, [1, 0, 0], "leaves fewer than n_chosen=2 candidates"),
        (2, [1, 2], "must be 3 finite weights"),
    ],
)
def test_impossible_subsets_are_refused(n_chosen: int | None, prior: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Subset("x", range(3), n_chosen, prior)


class Prior(ModelSpace):
    """Priors, a condition and a constraint."""

    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice([plain.Tanh(), plain.ReLU()], label="inner", prior=[1, 3])
        self.outer = LayerChoice({"in": inner, "off": plain.Identity()}, label="outer", prior=[3, 1])
        low, high = (
            value_choice([1, 2], label="low", prior=[1, 2]),
            value_choice([1, 2], label="high", prior=[4, 1]),
        )
        self.first, self.second = nn.Linear(2, low), nn.Linear(2, high)
        self.constrain(low <= high)


@pytest.mark.slow
def test_a_space_is_sampled_by_its_priors_conditioned_on_its_constraints() -> None:
    space = Prior()
    outer, inner = {"in": 3 / 4, "off": 1 / 4}, {0: 1 / 4, 1: 3 / 4}
    low, high = {1: 1 / 3, 2: 2 / 3}, {1: 4 / 5, 2: 1 / 5}
    allowed = sum(low[a] * high[b] for a in low for b in high if a <= b)
    exact = {}
    for arch in space.grid():
        mass = outer[arch["outer"]] * low[arch["low"]] * high[arch["high"]] / allowed
        exact[json.dumps(arch)] = mass * (inner[arch["inner"]] if "inner" in arch else 1)
    assert sum(exact.values()) == pytest.approx(1)
    rng = np.random.default_rng(0)
    check_frequencies(Counter(json.dumps(space.sample(rng)) for _ in range(DRAWS)), exact)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_seed_gives_one_sequence_and_touches_no_global_generator(case: Case) -> None:
    space = case.make()

    def sequence(seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        archs = [space.sample(rng) for _ in range(3)]
        return [*archs, space.mutate(archs[0], rng), space.crossover(archs[1], archs[2], rng)]

    state = np.random.get_state()[1].copy()
    assert sequence(7) == sequence(7)
    assert sequence(7) != sequence(8)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_editing_stays_in_the_space(case: Case) -> None:
    """Sampling, mutation, crossover and neighbours of the toy spaces, constraints included."""
    space, rng = case.make(), np.random.default_rng(3)
    a, b = space.sample(rng), space.sample(rng)
    for _ in range(10):
        child = space.mutate(space.crossover(a, b, rng), rng)
        space.validate(child)
        assert space.canonical(child) == child
        assert child != space.mutate(child, rng)
        a, b = b, child
    seen = [json.dumps(n) for n in itertools.islice(space.neighbours(a), 30)]
    assert len(set(seen)) == len(seen)
    assert json.dumps(a) not in seen
    for text in seen:
        space.validate(json.loads(text))


def test_the_neighbours_of_a_small_space_are_those_at_one_change() -> None:
    space = Prior()
    arch = {"outer": "in", "inner": 0, "low": 1, "high": 1}
    assert list(space.neighbours(arch)) == [
        {"outer": "off", "low": 1, "high": 1},
        {"outer": "in", "inner": 1, "low": 1, "high": 1},
        {"outer": "in", "inner": 0, "low": 1, "high": 2},
    ]


def test_mutation_reaches_every_neighbour_by_the_prior_or_not() -> None:
    space, rng = CASES["layers"].make(), np.random.default_rng(0)
    arch = space.default()
    mutants = {json.dumps(space.mutate(arch, rng)) for _ in range(300)}
    assert {json.dumps(n) for n in space.neighbours(arch)} <= mutants


def test_mutation_finds_a_rare_way_out_and_says_when_there_is_none() -> None:
    class Tight(ModelSpace):
        def __init__(self, prior: Any = None) -> None:
            super().__init__()
            a, b = value_choice([1, 2], label="a", prior=prior), value_choice([1, 2], label="b")
            self.layers = plain.Sequential(nn.Linear(a, b))
            self.constrain(a == b)

    rng = np.random.default_rng(0)
    assert Tight().size() == 2
    with pytest.raises(SpaceError, match="no neighbours"):
        Tight().mutate({"a": 1, "b": 1}, rng)
    assert list(Tight().neighbours({"a": 1, "b": 1})) == []

    # The prior never draws 2, but it is one change away all the same.
    class Never(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="x", prior=[1, 0])

    assert Never().mutate({"x": 0}, rng) == {"x": 1}


def test_a_space_that_nothing_satisfies_says_so() -> None:
    class Impossible(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            a = value_choice([1, 2], label="a")
            self.layer = nn.Linear(2, a)
            self.constrain(a > 2, "a must be large.")

    space = Impossible()
    assert space.size() == 0
    assert list(space.grid()) == []
    with pytest.raises(SpaceError, match="no architecture satisfies the constraints"):
        space.default()
    with pytest.raises(
        SpaceError, match=r"no valid value found for 'a': the constraints 'a must be large\.'"
    ):
        space.sample(np.random.default_rng(0))
    with pytest.raises(SpaceError, match="a must be large"):
        space.validate({"a": 1})


def test_a_constraint_on_a_decision_that_no_layer_uses_is_refused() -> None:
    class Stray(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="x")
            self.constrain(value_choice([1, 2], label="stray") > 1)

    with pytest.raises(SpaceError, match=r"the constraint \(stray > 1\) names 'stray', which no layer"):
        Stray()


def test_the_default_satisfies_constraints() -> None:
    class Second(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            a = value_choice([1, 2, 3], label="a")
            self.layer = nn.Linear(2, a)
            self.blocks = Repeat(plain.Identity(), (0, 2), label="depth")
            self.pick = InputChoice(3, n_chosen=2, label="pick")
            self.constrain(a >= 2)

    assert Second().default() == {"a": 2, "depth": 0, "pick": [0, 1]}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_redrawing_keeps_architectures_valid(case: Case) -> None:
    space, rng = case.space(), np.random.default_rng(0)
    arch = space.default()
    assert space.decision_space.redraw(arch, 0.0, rng) == space.canonical(arch)
    for _ in range(10):
        arch = space.decision_space.redraw(arch, 0.5, rng)
        space.validate(arch)
        assert arch == space.canonical(arch)


@pytest.mark.slow
def test_redrawing_changes_each_decision_with_its_probability() -> None:
    class Ten(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layers = plain.ModuleList(LayerChoice([plain.Tanh] * 4, label=f"{i}") for i in range(10))

    space, rng = Ten().decision_space, np.random.default_rng(0)
    parent = space.sample(rng)
    changed = Counter(
        min(6, sum(child[label] != parent[label] for label in parent))
        for child in (space.redraw(parent, 0.2, rng) for _ in range(DRAWS))
    )
    p = 0.2 * 3 / 4  # one of four times it comes out as it was
    binomial = {k: math.comb(10, k) * p**k * (1 - p) ** (10 - k) for k in range(11)}
    tail = sum(binomial[k] for k in range(6, 11))
    check_frequencies(changed, {**{k: binomial[k] for k in range(6)}, 6: tail})
