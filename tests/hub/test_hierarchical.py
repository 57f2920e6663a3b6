"""Hierarchical cells: counts, mutations, networks by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.costs import expected_cost
from spacelang.hub import HierarchicalCells
from spacelang.hub.cells.hierarchical import PRIMITIVES

from .networks import n_parameters


@pytest.fixture(scope="module")
def paper() -> HierarchicalCells:
    return HierarchicalCells(width=1, dataset=(1, 8, 3))


def flat(num_nodes: int, width: int = 1) -> HierarchicalCells:
    return HierarchicalCells(width, dataset=(1, 2, 2), motifs=(), num_nodes=num_nodes)


class Scripted(np.random.Generator):
    """A generator that draws the numbers it was given."""

    def __init__(self, numbers: list[tuple[int, int]]) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = iter(numbers)

    def integers(self, high: int) -> int:  # type: ignore[override]
        expected, number = next(self.numbers)
        assert high == expected
        return number


def test_counts_of_the_paper(paper: HierarchicalCells) -> None:
    """7 ** 6 genotypes of a motif, 7 ** 10 of the cell; 6 other operations on each of 36 + 10 edges."""
    assert paper.size() == 117_649**6 * 282_475_249
    assert f"{paper.size():.2e}" == "7.49e+38"
    default = paper.default()
    assert sum(1 for _ in paper.neighbours(default)) == 6 * 6 * 6 + 10 * 6 == 276
    assert set(default.values()) == {"identity", "motif0"}
    assert {label.rsplit("/", 1)[0] for label in default} == {*(f"level2/motif{m}" for m in range(6)), "cell"}


def test_three_levels_and_flat_cells() -> None:
    space = HierarchicalCells(1, dataset=(1, 8, 2), motifs=((2, 3), (1, 2)), num_nodes=3)
    assert space.size() == 7 ** (2 * 3) * 3**1 * 2**3
    assert space.default()["level3/motif0/0_1"] == "motif0"
    assert flat(4).size() == 7**6


@pytest.mark.parametrize("last", range(6))
def test_a_mutation_draws_level_motif_node_and_operation(paper: HierarchicalCells, last: int) -> None:
    """The operation is another one, so a mutation changes exactly one edge."""
    default = paper.default()
    low = paper.mutate(default, Scripted([(2, 0), (6, 4), (3, 2), (3, 1), (6, last)]))
    assert {k: v for k, v in low.items() if v != default[k]} == {"level2/motif4/1_3": PRIMITIVES[1 + last]}
    high = paper.mutate(default, Scripted([(2, 1), (1, 0), (4, 1), (2, 0), (6, last)]))
    names = ["motif1", "motif2", "motif3", "motif4", "motif5", "none"]
    assert {k: v for k, v in high.items() if v != default[k]} == {"cell/0_2": names[last]}


def by_hand(space: HierarchicalCells, x: Tensor, **edges: str) -> Tensor:
    """Return the output of the first cell, whose merge has weights 0.5 and 2."""
    frozen: Any = space.freeze({f"cell/{edge[1:]}": name for edge, name in edges.items()})
    cell = frozen.double().eval().layers[2]
    for name, weight in cell.named_parameters():
        if name == "merges.0.project.0.weight":
            weight.data = torch.tensor([0.5, 2.0], dtype=torch.float64).view(1, 2, 1, 1)
    y: Tensor = cell(x.view(1, 1, 2, 2)).detach().view(2, 2)
    return y


def test_nodes_by_hand() -> None:
    """Two maps are weighted, normalised and rectified; one passes, and none is zero."""
    space = flat(3)
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
    both = by_hand(space, x, _0_1="identity", _0_2="max_pool_3x3", _1_2="identity")
    summed = torch.tensor([[3.5, 5.5], [7.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(both, summed / (1 + 1e-5) ** 0.5, rtol=1e-15, atol=0)
    assert torch.equal(by_hand(space, x, _0_1="identity", _0_2="none", _1_2="identity"), x)
    mean = by_hand(space, x, _0_1="none", _0_2="avg_pool_3x3", _1_2="none")
    assert torch.equal(mean, torch.full_like(x, 0.5))
    assert not by_hand(space, x, _0_1="identity", _0_2="none", _1_2="none").any()


def test_a_merge_has_the_columns_of_its_edges() -> None:
    space = flat(4, width=2)
    frozen: Any = space.freeze({**space.default(), "cell/1_3": "none"})
    largest: Any = space.layers[2]
    columns = largest.merges[1].project[0].weight[:, [0, 1, 4, 5]]
    assert torch.equal(frozen.layers[2].merges[1].project[0].weight, columns)


def test_parameters_by_hand() -> None:
    """They also follow from the choices, of which only the number of edges changes a merge.

    In cells of 4, 8 and 16 channels (C summed: 28, squares: 336) the merges of a cell of 5 nodes have 9 CC +
    6 C, those of each of 10 motifs 5 CC + 4 C, and 6 separable convolutions 6 CC + 66 C.
    """
    space = HierarchicalCells(4, dataset=(1, 8, 3), motifs=((1, 4),))
    around = (9 * 4 + 2 * 4) + (9 * 4 + 4 * 8 + 2 * 8) + (9 * 8 + 8 * 16 + 2 * 16) + (16 * 3 + 3)
    merges = 59 * 336 + 46 * 28
    convolutions = 60 * 336 + 660 * 28
    assert n_parameters(space.freeze(space.default())) == around + merges
    found = space.report().parameters
    assert (found.smallest, found.largest) == (around, around + merges + convolutions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "imagenet"}, r"pass dataset=\(channels, size, classes\)"),
        ({"motifs": ((6, 1),)}, "motifs: nodes=1 must be"),
        ({"motifs": ((0, 4),)}, "motifs: number=0 must be"),
        ({"num_nodes": 1}, "num_nodes=1 must be"),
    ],
)
def test_arguments_are_checked(arguments: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        HierarchicalCells(**arguments)


def test_expected_parameters_in_closed_form() -> None:
    """Under even probabilities an edge is there with 6/7, and with k edges a node merges k maps."""
    channels, nodes = 4, 4
    space = flat(nodes, channels)
    cost = expected_cost(space, "params")
    tables = {
        d.label: torch.full((1, 7), 1 / 7, dtype=torch.float64, requires_grad=True) for d in space.decisions
    }
    expected = cost.of({decision.label: "none" for decision in space.decisions})
    for c in (channels, 2 * channels, 4 * channels):
        # conv_1x1, depthwise_conv_3x3 and sep_conv_3x3, each with a batch norm; the other four have none.
        expected += 6 * ((c * c + 2 * c) + (9 * c + 2 * c) + (9 * c + c * c + 2 * c)) / 7
        for n in (2, 3):
            chances = [math.comb(n, k) * (6 / 7) ** k * (1 / 7) ** (n - k) for k in range(n + 1)]
            expected += sum(chance * (k * c * c + 2 * c) for k, chance in enumerate(chances) if k > 1)
    found = cost(tables)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables.values())
