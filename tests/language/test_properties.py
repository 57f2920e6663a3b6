"""What holds for every space, on spaces made at random."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import nn as plain

from spacelang import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    Repeat,
    Supernet,
    model_context,
    nn,
    value_choice,
)

pytestmark = pytest.mark.slow

# A module is described by plain data: ("kind", part, part, ...). All map (n, 3) to (n, 3).
LEAVES = st.sampled_from([("linear",), ("tanh",), ("value", 2), ("shared",), ("inputs", 1), ("inputs", 2)])


def _extended(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(st.just("layer"), parts, parts),
        st.tuples(st.just("named"), parts, parts),
        st.tuples(st.just("repeat"), st.integers(0, 1), st.integers(1, 2), parts),
        st.tuples(st.just("pair"), parts, parts),
        st.tuples(st.just("cell"), st.booleans(), st.integers(1, 2), parts),
    )


SPECS = st.lists(st.recursive(LEAVES, _extended, max_leaves=4), min_size=1, max_size=2).map(tuple)
CONSTRAINED = st.booleans()
MAX_SIZE = 300


class Sum(plain.Module):
    """Inputs made of one tensor, joined by an `InputChoice`."""

    def __init__(self, n_chosen: int) -> None:
        super().__init__()
        self.choice = InputChoice(3, n_chosen=n_chosen, reduction="mean")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.choice(x, x.tanh(), x.flip(0))
        return result


def made(spec: Any, widths: list[Any]) -> plain.Module:
    kind, *parts = spec
    if kind == "linear":
        return plain.Linear(3, 3)
    if kind == "tanh":
        return plain.Tanh()
    if kind == "inputs":
        return Sum(parts[0])
    if kind == "shared":
        return LayerChoice([plain.Linear(3, 3), plain.Tanh()], label="shared")
    if kind == "value":
        width = value_choice([2, 4])
        widths.append(width)
        return plain.Sequential(nn.Linear(3, width), nn.Linear(width, 3))
    if kind == "layer":
        return LayerChoice([made(part, widths) for part in parts])
    if kind == "named":
        return LayerChoice({f"n{k}": lambda part=part: made(part, []) for k, part in enumerate(parts)})
    if kind == "repeat":
        low, more, part = parts
        return Repeat(lambda i: made(part, []), (low, low + more))
    if kind == "pair":
        return plain.Sequential(*(made(part, widths) for part in parts))
    distinct, slots, part = parts
    operations = [lambda i, k, j: made(part, []), plain.Linear(3, 3)]
    return plain.Sequential(Two(operations, slots, distinct), plain.Linear(3, 3))


class Two(plain.Module):
    """A cell of one node on two inputs."""

    def __init__(self, operations: list[Any], slots: int, distinct: bool) -> None:
        super().__init__()
        self.cell = Cell(operations, 1, slots, 2, concat_dim=-1, distinct_inputs=distinct)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cell(x, x.flip(0))
        return result


class Random(ModelSpace):
    """The space of a description, perhaps with constraints between its widths."""

    def __init__(self, specs: Any, constrained: bool) -> None:
        super().__init__()
        widths: list[Any] = []
        self.layers = plain.Sequential(*(made(spec, widths) for spec in specs))
        if constrained:
            for a, b in itertools.pairwise(widths):
                self.constrain(a <= b)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def on_random_spaces(examples: int) -> Callable[[Any], Any]:
    """Run a test on random spaces of at most `MAX_SIZE` architectures."""

    def decorate(test: Any) -> Any:
        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(specs=SPECS, constrained=CONSTRAINED, seed=st.integers(0, 1000))
        def run(specs: Any, constrained: bool, seed: int) -> None:
            torch.manual_seed(seed)
            space = Random(specs, constrained)
            assume(space.decisions and space.size() <= MAX_SIZE)
            test(space, np.random.default_rng(seed))

        run.__doc__ = test.__doc__
        return run

    return decorate


def key(arch: dict[str, Any]) -> str:
    return json.dumps(arch, sort_keys=True)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types throughout."""
    return key(a) == key(b) and list(a) == list(b)


@on_random_spaces(60)
def test_the_grid_is_every_architecture_once(space: ModelSpace, rng: np.random.Generator) -> None:
    grid = list(space.grid())
    assert len(grid) == space.size()
    assert len(set(map(key, grid))) == len(grid)
    for arch in grid:
        space.validate(arch)
        assert same(space.canonical(arch), arch)
    assert key(space.default()) in map(key, grid)
    drawn = [space.sample(rng) for _ in range(20)]
    assert {key(arch) for arch in drawn} <= set(map(key, grid))


@on_random_spaces(40)
def test_json_and_yaml_round_trips_are_exact(space: ModelSpace, rng: np.random.Generator) -> None:
    for _ in range(5):
        arch = space.sample(rng)
        for back in (json.loads(json.dumps(arch)), yaml.safe_load(yaml.safe_dump(arch, sort_keys=False))):
            assert same(back, arch)
            space.validate(back)


@on_random_spaces(40)
def test_canonical_drops_what_is_inactive_and_is_idempotent(
    space: ModelSpace, rng: np.random.Generator
) -> None:
    arch = space.sample(rng)
    noisy = {d.label: d.sample(rng) for d in space.decisions} | arch  # inactive labels are ignored
    assert same(space.canonical(noisy), space.canonical(arch))
    assert same(space.canonical(space.canonical(noisy)), space.canonical(noisy))
    vector = space.encode(arch)
    assert vector.shape == (sum(len(d.candidates) for d in space.decisions),)
    assert set(vector) <= {0.0, 1.0}


@on_random_spaces(40)
def test_children_mutants_and_neighbours_are_valid(space: ModelSpace, rng: np.random.Generator) -> None:
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    space.validate(child)
    for label, value in child.items():  # nothing is drawn that a parent decided
        held = [parent[label] for parent in (a, b) if label in parent]
        if held and "cell" not in label:  # exchangeable slots move when put in order
            assert value in held
    neighbours = list(space.neighbours(a))
    assert len({key(n) for n in neighbours}) == len(neighbours)
    assert key(a) not in map(key, neighbours)
    for neighbour in neighbours:
        space.validate(neighbour)
    if neighbours:
        mutant = space.mutate(a, rng)
        space.validate(mutant)
        assert key(mutant) != key(space.canonical(a))


@on_random_spaces(40)
def test_different_architectures_have_different_encodings(
    space: ModelSpace, rng: np.random.Generator
) -> None:
    vectors = {tuple(space.encode(arch)) for arch in space.grid()}
    assert len(vectors) == space.size()


@on_random_spaces(40)
def test_the_three_ways_of_freezing_mean_the_same(space: ModelSpace, rng: np.random.Generator) -> None:
    """model_context, space.freeze and supernet.freeze: one meaning."""
    arch = space.sample(rng)
    x = torch.randn(4, 3)
    before = {name: tensor.clone() for name, tensor in space.state_dict().items()}
    supernet = Supernet(space)
    frozen, inherited = space.freeze(arch), supernet.freeze(arch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no label may be left unused
        with model_context(arch):
            built = space.rebuild()
    shapes = {name: tensor.shape for name, tensor in frozen.state_dict().items()}
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == shapes
    assert {name: tensor.shape for name, tensor in inherited.state_dict().items()} == shapes
    built.load_state_dict(frozen.state_dict())
    supernet.select(arch)
    expected = frozen(x)
    for model in (built, inherited, supernet):
        assert torch.equal(model(x), expected)
    after = space.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
