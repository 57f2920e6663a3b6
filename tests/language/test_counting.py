"""Exact sizes, against counts made by hand and by brute force."""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import pytest
from torch import nn as plain

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, nn, value_choice

from ..toys.spaces import CASES, Case


def two() -> list[plain.Module]:
    return [plain.Identity(), plain.Tanh()]


def space_of(declare: Any) -> ModelSpace:
    class Declared(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            declare(self)

    return Declared()


def test_one_to_three_independent_two_way_layers_are_fourteen() -> None:
    def declare(self: Any) -> None:
        self.blocks = Repeat(lambda i: LayerChoice(two(), label=f"b{i}"), (1, 3), label="depth")

    assert space_of(declare).size() == 2 + 4 + 8 == 14


def test_two_way_layers_that_share_a_label_are_six() -> None:
    def declare(self: Any) -> None:
        self.blocks = Repeat(lambda i: LayerChoice(two(), label="b"), (1, 3), label="depth")

    assert space_of(declare).size() == 3 * 2


@pytest.mark.parametrize("cells", [1, 2])
def test_the_darts_cell(cells: int) -> None:
    """Seven operations, four nodes of two operations each; facts: prod_{n=2..5} C(n,2) * 7^2."""
    operations = [plain.Identity() for _ in range(7)]

    def declare(distinct: bool) -> Any:
        def cells_of(self: Any) -> None:
            self.cells = plain.ModuleList(
                Cell(operations, 4, 2, 2, label=f"cell{k}", distinct_inputs=distinct) for k in range(cells)
            )

        return cells_of

    assert space_of(declare(True)).size() == 1_037_664_180**cells
    # Any two (operation, input) pairs, equal ones too, in no order: n * 7 choices, C(7n + 1, 2) multisets.
    with_equal = math.prod(math.comb(7 * n + 1, 2) for n in range(2, 6))
    assert space_of(declare(False)).size() == with_equal**cells


def test_input_choices() -> None:
    def declare(self: Any) -> None:
        self.a = InputChoice(4, label="a")
        self.b = InputChoice(4, n_chosen=2, label="b")
        self.c = InputChoice(4, n_chosen=None, label="c")

    assert space_of(declare).size() == 4 * 6 * 15


def test_constraints_are_counted_out_only_where_their_decisions_exist() -> None:
    def declare(self: Any) -> None:
        width = value_choice([1, 2, 3], label="w")
        self.a = LayerChoice({"sized": nn.Linear(2, width), "plain": plain.Linear(2, 2)}, label="a")
        self.b = nn.Linear(2, value_choice([1, 2, 3], label="k"))
        self.constrain(width < value_choice([1, 2, 3], label="k"))

    assert space_of(declare).size() == 3 + 3


def test_a_large_space_is_counted_at_once() -> None:
    def declare(self: Any) -> None:
        self.layers = plain.ModuleList(LayerChoice(two(), label=f"l{k}") for k in range(300))
        self.blocks = Repeat(lambda i: LayerChoice(two(), label=f"b{i}"), (0, 40), label="depth")

    space = space_of(declare)
    start = time.perf_counter()
    assert space.size() == 2**300 * (2**41 - 1)
    space.default()
    assert time.perf_counter() - start < 5


def brute_force(space: ModelSpace) -> set[str]:
    """Canonical architectures reached from every full assignment, inactive labels included."""
    found = set()
    for values in itertools.product(*(list(d.values()) for d in space.decisions)):
        arch = dict(zip((d.label for d in space.decisions), values, strict=True))
        if not space.decision_space.problems(arch):
            found.add(json.dumps(space.canonical(arch), sort_keys=True))
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers", 3 * 3 * 4),  # scale | shifted x 2; three; a..c: 2 + 1 + 1
        ("inputs", 3 * 3 * 3 * 7 * 7),
        ("hard inputs", 3 * 7 * 3),
        ("depths", 7 * (2 * 2) * 2 * 2 * (2 + 4) * 2),
        ("triples", math.comb(2 + 2, 3) * math.comb(4 + 2, 3)),
        ("soft loose ends", 2 * 4 * 6),
        ("attention", 2 * 3 * 2 * 3),
        ("values", (3 + 2) * 2 * 2 * 2),  # width 4 with three kernels, width 6 with two
        ("custom", 2 * 2 * 2 * 3),
        ("shared", 2 * (3 + 3 + 2)),  # width 5 forbids hidden 2 where there is one
    ],
)
def test_toy_spaces_have_the_sizes_counted_by_hand(name: str, expected: int) -> None:
    assert CASES[name].make().size() == expected


SMALL = ["layers", "hard inputs", "soft loose ends", "triples", "attention", "values", "custom", "shared"]


@pytest.mark.parametrize("name", SMALL)
def test_size_is_what_brute_force_finds(name: str) -> None:
    space = CASES[name].make()
    found = brute_force(space)
    assert space.size() == len(found)
    assert {json.dumps(arch, sort_keys=True) for arch in space.grid()} == found


@pytest.mark.parametrize("case", [CASES[n] for n in ("cells", "nested cell", "depths")])
def test_the_grid_is_as_long_as_the_size(case: Case) -> None:
    space = case.make()
    grid = [json.dumps(arch, sort_keys=True) for arch in space.grid()]
    assert len(grid) == len(set(grid)) == space.size()
