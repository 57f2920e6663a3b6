"""Strategies for cells of convolutions say where a cell of another form does not fit, and what to use."""

from __future__ import annotations

import pytest

from spacelang import SpaceError
from spacelang.strategies import PCDARTS, PDARTS, SGAS, Sandwich
from spacelang.strategies.framework import OneShot
from spacelang.strategies.multi_trial import PNAS

from ..toys.hub import SMALL

SEQUENCES = ("RNNCell", "RecurrentLM")
GRAPHS = ("GraphCells", "GraphCells-points")
REFUSED: list[tuple[tuple[str, ...], OneShot, str]] = [
    (SEQUENCES, PCDARTS(), "cell 'cell' has a projection, which reads all channels.*partial channels of 1"),
    (SEQUENCES, PDARTS(), r"takes no argument 'num_cells'.*Write PDARTS\(overrides=\.\.\.\)"),
    (GRAPHS, PCDARTS(), r"cell 'cell', candidate 'conv_1x1': its layer 'mlp\.0', Linear.*partial"),
    (GRAPHS, PDARTS(), r"cells with skip connections are 'cell'\. Write cells='cell'"),
    ((*SEQUENCES, *GRAPHS), Sandwich(), "no depth, width or kernel size to choose. Use SPOS"),
]


@pytest.mark.parametrize(
    ("name", "strategy", "message"),
    [
        pytest.param(name, strategy, message, id=f"{type(strategy).__name__}-{name}")
        for names, strategy, message in REFUSED
        for name in names
    ],
)
def test_a_form_that_does_not_fit(name: str, strategy: OneShot, message: str) -> None:
    with pytest.raises(SpaceError, match=f"(?s){message}"):
        strategy.check(strategy.supernet(SMALL[name].make()))


@pytest.mark.parametrize("name", [*SEQUENCES, *GRAPHS])
@pytest.mark.parametrize("strategy", [SGAS(), PCDARTS(partial=1)], ids=["SGAS", "PCDARTS of all channels"])
def test_a_form_that_fits(name: str, strategy: OneShot) -> None:
    strategy.check(strategy.supernet(SMALL[name].make()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GraphCells", r"takes no argument 'num_nodes'.*PNAS\(nodes=\.\.\.\)"),
        (
            "HierarchicalCells",
            r"those of HierarchicalCells are none\. RegularizedEvolution and Bananas search any",
        ),
    ],
)
def test_pnas_widens_cells_alone(name: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        PNAS().start(SMALL[name].make())


@pytest.mark.parametrize("name", SEQUENCES)
def test_pnas_widens_recurrent_cells(name: str) -> None:
    PNAS().start(SMALL[name].make())
