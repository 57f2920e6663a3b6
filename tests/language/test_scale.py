"""Spaces of thousands of decisions: nothing recurses over siblings, and what is exact stays exact."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn as plain

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, value_choice
from spacelang.costs import expected_cost
from spacelang.language import Categorical, DecisionSpace, Is, Site, Subset, Value, component
from spacelang.language.conditions import Constraint
from spacelang.language.values import Choice

from ..toys.spaces import CASES

MANY = 10_000


class Values(ModelSpace):
    def __init__(self, number: int, constrain: Callable[[ModelSpace, list[Any]], None]) -> None:
        super().__init__()
        self.values = [value_choice([1, 2, 3], label=f"v{i}") for i in range(number)]
        constrain(self, self.values)


def pairs(space: ModelSpace, values: list[Any]) -> None:
    for a, b in zip(values[::2], values[1::2], strict=True):
        space.constrain(a + b == 4)


def chain(space: ModelSpace, values: list[Any]) -> None:
    for a, b in itertools.pairwise(values):
        space.constrain(a <= b)


def none(space: ModelSpace, values: list[Any]) -> None:
    pass


def use(space: ModelSpace, arch: dict[str, Any]) -> None:
    """Do with a space what needs no forward pass."""
    rng = np.random.default_rng(0)
    other = space.sample(rng)
    assert list(other) == list(arch)
    for found in (other, space.mutate(other, rng), space.crossover(arch, other, rng)):
        space.validate(found)
    assert next(space.grid()) == arch
    assert len(list(itertools.islice(space.grid(), 3))) == 3
    neighbour = next(space.neighbours(arch))
    space.validate(neighbour)
    assert sum(arch[label] != neighbour[label] for label in arch) == 1
    assert space.decision_space.at(0) == arch
    assert space.decision_space.complete({}) == space.canonical(arch) == space.default() == arch
    assert space.encode(arch).sum() == len(arch)


@pytest.mark.parametrize(
    ("number", "constrain", "size"),
    [
        pytest.param(MANY, none, 3**MANY, id="independent", marks=pytest.mark.slow),
        pytest.param(2_000, chain, math.comb(2_002, 2), marks=pytest.mark.slow, id="chain"),
    ],
)
def test_thousands_of_values(
    number: int, constrain: Callable[[ModelSpace, list[Any]], None], size: int
) -> None:
    space = Values(number, constrain)
    assert space.size() == size
    use(space, {decision.label: 1 for decision in space.decisions})


@pytest.mark.slow
def test_five_thousand_constraints() -> None:
    space = Values(MANY, pairs)
    assert space.size() == 3 ** (MANY // 2)
    rng, default = np.random.default_rng(0), space.default()
    assert list(default.values()) == [1, 3] * (MANY // 2)
    space.validate(space.sample(rng))
    assert next(space.grid()) == default
    assert space.decision_space.at(1) == default | {f"v{MANY - 2}": 2, f"v{MANY - 1}": 2}
    assert list(space.neighbours(default)) == []  # a change of one of a pair needs the other


@pytest.mark.parametrize(
    "choice",
    [
        lambda label: LayerChoice({"tanh": plain.Tanh(), "relu": plain.ReLU()}, label=label),
        lambda label: InputChoice(2, label=label),
        lambda label: Repeat(plain.Identity(), (1, 2), label=label),
    ],
)
def test_two_thousand_modules(choice: Callable[[str], plain.Module]) -> None:
    class Space(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layers = plain.ModuleList(choice(f"c{i}") for i in range(2_000))

    space = Space()
    assert space.size() == 2**2_000
    use(space, {d.label: next(iter(d.values())) for d in space.decisions})


def test_an_expression_of_a_thousand_values_does_not_recurse() -> None:
    space = Values(1_000, lambda space, values: space.constrain(sum(values) <= 1_003))
    (constraint,) = space.decision_space.constraints
    assert len(constraint.labels) == 1_000
    assert str(constraint.expression).startswith("((" * 500)
    assert constraint.holds(space.default())


def test_a_constraint_on_many_values_at_once() -> None:
    def budget(space: ModelSpace, values: list[Any]) -> None:
        space.constrain(sum(values) <= 43)

    space = Values(40, budget)
    # Three units to give away: one at three places, or two at one and one at another, and so on.
    assert space.size() == sum(
        math.comb(40, ones) * math.comb(40 - ones, twos)
        for ones, twos in [(0, 0), (1, 0), (2, 0), (0, 1), (3, 0), (1, 1)]
    )
    arch = space.sample(np.random.default_rng(0))
    assert sum(arch.values()) <= 43
    assert set(space.default().values()) == {1}
    space.validate(space.decision_space.at(space.size() - 1))


def test_a_hundred_constraints_at_random_are_sampled_and_completed() -> None:
    rng = np.random.default_rng(0)

    def tangle(space: ModelSpace, values: list[Any]) -> None:
        for _ in range(100):
            a, b = rng.choice(len(values), size=2, replace=False)
            space.constrain(values[a] != values[b])

    space = Values(100, tangle)
    archs = [space.sample(rng) for _ in range(5)]
    for arch in archs:
        space.validate(arch)
    assert len({json.dumps(arch) for arch in archs}) == 5
    assert next(space.grid()) == space.default()


# -- exact answers --------------------------------------------------------------------------------------


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither searches nor draws without regard to constraints."""
    monkeypatch.setattr(component, "_DEAD_ENDS", -math.inf)
    monkeypatch.setattr(component, "_DRAWS", 0)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["layers", "attention", "values", "custom", "shared"])
def test_elimination_finds_what_the_grid_has(name: str) -> None:
    space = CASES[name].make()
    grid = list(space.grid())
    assert [space.decision_space.at(place) for place in range(len(grid))] == grid
    assert space.size() == len(grid)
    for label, decision in space.decision_space.by_label.items():
        for value in decision.values():
            agreeing = [arch for arch in grid if arch.get(label, value) == value]
            assert space.decision_space.complete({label: value}) == next(iter(agreeing), None)


def test_cells_have_the_places_of_their_grid() -> None:
    space = CASES["triples"].make()
    assert [space.decision_space.at(place) for place in range(space.size())] == list(space.grid())


def pair_space() -> DecisionSpace:
    """A depth, a width under it, a set of inputs, and constraints on them."""
    depth = Categorical("depth", [1, 2, 3], [1, 2, 5])
    width = Categorical("width", [1, 2, 3, 4], [4, 3, 2, 1])
    inputs = Subset("inputs", range(3), 2, [1, 2, 3])
    some = Subset("some", range(2), None, [0.2, 0.7])
    rules = (
        Constraint(Choice(depth) < Choice(width), "the width is above the depth."),
        Constraint(Choice(width) != 4, "no width of 4."),
    )
    sites = (Site(depth), Site(width, Is(Choice(depth), (2, 3))), Site(inputs), Site(some))
    return DecisionSpace(sites, rules)


@pytest.mark.usefixtures("exact")
def test_draws_by_elimination_have_the_probabilities_of_the_priors() -> None:
    space, rng = pair_space(), np.random.default_rng(0)
    exact: dict[str, float] = {}
    for arch in space.grid():
        chances = [
            dict(zip(map(str, d.values()), d.probabilities(), strict=True))[str(arch[label])]
            for label, d in space.by_label.items()
            if label in arch
        ]
        exact[json.dumps(arch)] = math.prod(chances)
    total, draws = sum(exact.values()), 6_000
    counts = Counter(json.dumps(space.sample(rng)) for _ in range(draws))
    assert counts.keys() <= exact.keys()
    for text, chance in exact.items():
        expected = draws * chance / total
        assert abs(counts[text] - expected) < 5 * math.sqrt(expected) + 3


# -- where nothing is exact -----------------------------------------------------------------------------


class Parity(Value):
    """A statement that cannot be taken apart; it counts how often it is asked."""

    def __init__(self, values: list[Any], most: int) -> None:
        self.values = values
        self.most = most
        self.asked = 0

    def decisions(self) -> tuple[Any, ...]:
        return tuple(value.decision for value in self.values)

    def evaluate(self, arch: Mapping[str, Any]) -> bool:
        self.asked += 1
        return sum(value.evaluate(arch) for value in self.values) % self.most == 0

    def __str__(self) -> str:
        return "parity"


def test_the_size_of_a_space_that_cannot_be_counted_is_an_upper_bound_and_says_so() -> None:
    space = Values(30, lambda space, values: space.constrain(Parity(values, 7), "parity"))
    with pytest.warns(
        UserWarning, match=r"too much depends on too much .* 'v0', .* size\(\) is an upper bound"
    ):
        assert space.size() == 3**30
    assert f"at most {3**30:,} architectures" in str(space.report())
    with pytest.raises(SpaceError, match="the grid cannot be entered at a place"):
        space.decision_space.at(0)
    arch = space.sample(np.random.default_rng(0))
    space.validate(arch)
    space.validate(space.default())
    assert next(space.grid()) == space.default()


def test_what_no_draw_meets_is_searched_for() -> None:
    space = Values(30, lambda space, values: space.constrain(Parity(values, 90), "parity"))
    with pytest.raises(SpaceError, match=r"the constraints 'parity' are too tight\. A search gave up after"):
        space.sample(np.random.default_rng(0))


@pytest.mark.parametrize("constrain", [pairs, chain])
def test_work_grows_with_the_number_of_decisions(
    constrain: Callable[[ModelSpace, list[Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, evaluate = Counter[int](), Choice.evaluate

    def work(number: int) -> int:
        def counted(choice: Choice, arch: Mapping[str, Any]) -> Any:
            asked[number] += 1
            return evaluate(choice, arch)

        monkeypatch.setattr(Choice, "evaluate", counted)
        space = Values(number, constrain)
        space.size()
        arch = space.default()
        space.canonical(arch)
        space.sample(np.random.default_rng(0))
        next(space.grid())
        next(space.neighbours(arch), None)
        return asked[number]

    assert work(800) < 2.5 * work(400)


def test_many_candidates_are_found_without_comparing_them_all() -> None:
    decision = Categorical("seed", range(100_000))
    assert decision.parse(99_999) == 99_999
    assert decision.position(70_000) == 70_000
    assert decision.indicator(5)[5] == 1 == sum(decision.indicator(5))


@pytest.mark.parametrize("given", [1.0, True, "1", [1, 2], {}, None])
def test_what_only_looks_like_a_candidate_is_none(given: object) -> None:
    with pytest.raises(SpaceError, match="got"):
        Categorical("x", [0, 1, 2]).parse(given)


def test_equal_candidates_of_different_types() -> None:
    decision = Categorical("x", [True, 1, False, 0, (1, 2), (True, 2)])
    found = [decision.position(each) for each in (1, True, 0, False, [1, 2], [True, 2])]
    assert found == [1, 0, 3, 2, 4, 5]
    assert Categorical("y", [0.5, 1.0]).parse(1) == 1.0
    for twice in ([1, 1.0], [[1.0, 2], [1, 2]]):
        with pytest.raises(SpaceError, match="given twice"):
            Categorical("z", twice)


class Nested(ModelSpace):
    def __init__(self, levels: int) -> None:
        super().__init__()
        layer: plain.Module = plain.Linear(1, 1)
        for level in range(levels):
            layer = LayerChoice({"inner": layer, "linear": plain.Linear(level + 1, 1)}, label=f"level{level}")
        self.layer = layer


def test_expected_cost_of_choices_inside_one_another() -> None:
    """P(level l is reached) = 2^-(levels - l), so that its "linear" of l + 2 numbers has half of that."""
    levels = 200
    space = Nested(levels)
    tables = {f"level{level}": torch.full((1, 2), 0.5, dtype=torch.float64) for level in range(levels)}
    wanted = 2 * 2.0**-levels + sum((level + 2) * 2.0 ** -(levels - level) for level in range(levels))
    cost = expected_cost(space, "params")
    assert cost(tables).item() == pytest.approx(wanted, rel=1e-12)
    assert cost.of(space.default()) == 2
    assert space.size() == levels + 1
    assert [arch[f"level{levels - 1}"] for arch in itertools.islice(space.neighbours(space.default()), 2)]


def test_conditions_inside_one_another_stay_flat() -> None:
    conditions = Nested(30).decision_space.conditions
    assert str(conditions["level27"]) == "level29 = 'inner' and level28 = 'inner'"
    assert [len(getattr(conditions[f"level{level}"], "parts", ())) for level in (29, 28, 27, 0)] == [
        0,
        0,
        2,
        29,
    ]
