"""The DARTS derivation rule against oracle 1a, its ties, and the ranking of further architectures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet, value_choice
from spacelang import nn as space_nn
from spacelang.hub import DARTS as DartsSpace
from spacelang.language import where
from spacelang.strategies import Softmax, top_architectures

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


def oracle_logits() -> torch.Tensor:
    """alpha[e, k] = 2 sin(1 + e + 4k + 3ek), e = 0..13, k = 0..7, `none` first."""
    e = torch.arange(14, dtype=torch.float64)[:, None]
    k = torch.arange(8, dtype=torch.float64)[None]
    return 2 * torch.sin(1 + e + 4 * k + 3 * e * k)


class OneCell(ModelSpace):
    def __init__(self, distinct_inputs: bool) -> None:
        super().__init__()
        identities = {name: nn.Identity() for name in OPERATIONS}
        self.cell = Cell(identities, 4, 2, 2, label="cell", distinct_inputs=distinct_inputs)


@pytest.fixture(scope="module")
def cell_supernet() -> Supernet:
    return Supernet(OneCell(distinct_inputs=True))


def slots_of(arch: dict[str, Any]) -> list[list[tuple[str, int]]]:
    """`(operation, source)` of each slot of the four nodes."""
    return [
        [(arch[f"cell/op_{node}_{k}"], arch[f"cell/input_{node}_{k}"]) for k in range(2)]
        for node in range(2, 6)
    ]


def probabilities(supernet: Supernet, **logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {x: Softmax().probabilities(supernet.groups[x], p) for x, p in logits.items()}


def test_softmax_of_oracle_1a(cell_supernet: Supernet) -> None:
    table = Softmax().probabilities(cell_supernet.groups["cell"], oracle_logits())
    expected = [0.00883258, 0.13707554, 0.13929992, 0.00878899, 0.32041162, 0.04613591, 0.01594312]
    assert table.shape == (14, 7)
    assert table[0].tolist() == pytest.approx(expected, abs=5e-9)
    assert 1 - table[0].sum().item() == pytest.approx(0.32351231, abs=5e-9)


def test_oracle_1a_derives_the_published_cell(cell_supernet: Supernet) -> None:
    (arch,) = top_architectures(cell_supernet, probabilities(cell_supernet, cell=oracle_logits()), 1)
    assert slots_of(arch) == [
        [("sep_conv_5x5", 0), ("dil_conv_5x5", 1)],
        [("dil_conv_5x5", 1), ("skip_connect", 0)],
        [("sep_conv_3x3", 3), ("dil_conv_5x5", 0)],
        [("dil_conv_3x3", 1), ("dil_conv_3x3", 3)],
    ]


def test_ties_go_to_the_lowest_index(cell_supernet: Supernet) -> None:
    (arch,) = top_architectures(cell_supernet, probabilities(cell_supernet, cell=torch.zeros(14, 8)), 1)
    for node in range(2, 6):
        assert [arch[f"cell/input_{node}_{k}"] for k in range(2)] == [0, 1]
        assert [arch[f"cell/op_{node}_{k}"] for k in range(2)] == ["max_pool_3x3"] * 2


class Mixed(ModelSpace):
    """Layer, subset and depth choices, one of them conditional."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = InputChoice(3, 2, label="inputs")
        self.repeat = Repeat(
            lambda i: LayerChoice({"a": nn.Identity(), "b": nn.ReLU()}, label=f"block{i}"),
            (0, 2),
            label="depth",
        )
        self.layer = LayerChoice([nn.Identity(), nn.ReLU(), nn.Tanh()], label="layer")


def random_tables(supernet: Supernet) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        label: Softmax().probabilities(
            group, torch.randn(Softmax().shape(group), generator=generator).double()
        )
        for label, group in supernet.groups.items()
    }


def relative_probability(
    space: ModelSpace, arch: dict[str, object], tables: dict[str, torch.Tensor]
) -> float:
    """Joint probability, every decision relative to its best option: computed the plain way."""
    total = 0.0
    for decision in space.decisions:
        if decision.label in arch:
            row = tables[decision.label][0].tolist()
            chosen = decision.position(arch[decision.label])
            if isinstance(chosen, tuple):
                best = max(math.prod(row[i] for i in s) for s in itertools.combinations(range(3), 2))
                total += math.log(math.prod(row[i] for i in chosen) / best)
            else:
                total += math.log(row[chosen] / max(row))
    return total


def test_further_architectures_follow_in_order_of_probability() -> None:
    space = Mixed()
    supernet = Supernet(space)
    tables = random_tables(supernet)
    everything = top_architectures(supernet, tables, 1000)
    assert len(everything) == space.size() == 3 * 3 * (1 + 2 + 4)
    assert sorted(map(str, map(space.canonical, everything))) == sorted(map(str, space.grid()))
    scores = [relative_probability(space, arch, tables) for arch in everything]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 0
    assert top_architectures(supernet, tables, 5) == everything[:5]


def test_every_cell_architecture_is_found_once() -> None:
    class Small(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell(
                {"a": nn.Identity(), "b": nn.ReLU()}, 2, 2, 2, label="cell", distinct_inputs=True
            )

    space = Small()
    supernet = Supernet(space)
    found = top_architectures(supernet, random_tables(supernet), 10_000)
    assert len(found) == space.size() == 4 * 12
    assert len({str(space.canonical(arch)) for arch in found}) == len(found)


@pytest.mark.slow
def test_a_pruned_candidate_is_never_derived(cell_supernet: Supernet) -> None:
    supernet = Supernet(DartsSpace(4, 3, (1, 8, 10)))
    group = supernet.groups["normal"]
    alive = [[name != "sep_conv_5x5" for name in group.columns] for _ in group.rows]
    supernet.prune({"normal": alive})
    logits = {label: oracle_logits() for label in supernet.groups}
    tables = {x: Softmax().probabilities(supernet.groups[x], p) for x, p in logits.items()}
    column = group.columns.index("sep_conv_5x5")
    assert tables["normal"][:, column].abs().max() == 0
    for arch in top_architectures(supernet, tables, 20):
        assert "sep_conv_5x5" not in [v for k, v in arch.items() if k.startswith("normal")]
    assert "sep_conv_5x5" in arch.values()


def test_one_input_for_two_slots_may_be_used_twice() -> None:
    class Chain(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell({"a": nn.Identity(), "b": nn.ReLU()}, 1, 2, 1, label="cell")

    supernet = Supernet(Chain())
    (arch,) = top_architectures(supernet, {"cell": torch.tensor([[0.3, 0.6]])}, 1)
    assert arch == {"cell/op_1_0": "b", "cell/input_1_0": 0, "cell/op_1_1": "b", "cell/input_1_1": 0}


def test_constraints_are_kept() -> None:
    class Constrained(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice([nn.Identity(), nn.ReLU()], label="a")
            self.b = LayerChoice([nn.Identity(), nn.ReLU()], label="b")
            from spacelang.language import Choice, distinct

            self.constrain(distinct(Choice(self.a.decision), Choice(self.b.decision)), "a and b must differ")

    supernet = Supernet(Constrained())
    tables = {"a": torch.tensor([[0.6, 0.4]]), "b": torch.tensor([[0.9, 0.1]])}
    assert top_architectures(supernet, tables, 9) == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]


@pytest.mark.slow
def test_constraints_that_link_many_decisions_are_kept_at_once() -> None:
    """Ten edges of eight candidates, at most two of each five in use."""

    class Sparse(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            values = [[value_choice(range(8), label=f"{node}{edge}") for edge in range(5)] for node in "ab"]
            for row in values:
                used = sum((where(value > 0, 1, 0) for value in row[1:]), where(row[0] > 0, 1, 0))
                self.constrain(used <= 2, "at most two edges")
            self.layers = nn.ModuleList(space_nn.Linear(1 + value, 1) for row in values for value in row)

    space = Sparse()
    supernet = Supernet(space)
    tables = random_tables(supernet)
    found = top_architectures(supernet, tables, 4)
    # Each node by brute force: the best two edges to use.
    best = {}
    for node in "ab":
        options = []
        for used in itertools.product(range(8), repeat=5):
            if sum(k > 0 for k in used) <= 2:
                score = sum(math.log(tables[f"{node}{edge}"][0, k]) for edge, k in enumerate(used))
                options.append((score, {f"{node}{edge}": k for edge, k in enumerate(used)}))
        best[node] = sorted(options, key=lambda option: -option[0])[:4]
    pairs = sorted(
        ((a[0] + b[0], a[1] | b[1]) for a in best["a"] for b in best["b"]), key=lambda pair: -pair[0]
    )
    assert found == [arch for _, arch in pairs[:4]]


def test_a_count_below_one_is_refused(cell_supernet: Supernet) -> None:
    with pytest.raises(SpaceError, match="count=0 must be an integer of at least 1"):
        top_architectures(cell_supernet, probabilities(cell_supernet, cell=oracle_logits()), 0)
