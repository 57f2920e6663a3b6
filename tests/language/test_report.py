"""The report of a space."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, value_choice
from spacelang import nn as space_nn
from spacelang.results import profile


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class Small(ModelSpace):
    def __init__(self, tied: bool = False, positions: int = 1) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.layers = nn.ModuleList(
            LayerChoice(
                {"linear": shared if tied else nn.Linear(4, 4), "none": nn.Identity()}, label=f"layer{i}"
            )
            for i in range(positions)
        )
        self.stack = Repeat(lambda i: nn.Linear(4, 4), depth=(0, 2), label="depth")
        self.wide = space_nn.Linear(4, value_choice([2, 5], label="width"))
        self.inputs = InputChoice(2, None, label="inputs")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.wide(self.inputs(x, self.stack(x)))


def test_a_small_space_is_measured_completely() -> None:
    space = Small()
    report = space.report(torch.zeros(2, 4))
    counts = {parameters(space.freeze(arch)) for arch in space.grid()}
    assert report.size == space.size() == 36
    assert (report.parameters.smallest, report.parameters.largest) == (min(counts), max(counts)) == (10, 85)
    assert report.parameters.exact
    assert report.flops is not None
    assert (
        report.flops.smallest
        == profile(space.freeze(report.flops.smallest_architecture), torch.zeros(2, 4)).flops
    )
    assert report.flops.largest == 2 * 2 * (3 * 16 + 20)


@pytest.mark.parametrize("tied", [False, True])
def test_the_range_of_a_large_space_is_that_of_its_models(tied: bool) -> None:
    """With one weight behind several choices, edges cannot be added up; models are measured then."""
    space = Small(tied, positions=6)
    assert space.size() > 200
    report = space.report(torch.zeros(2, 4))
    assert not report.parameters.exact
    # Dropping one of several uses of a tied weight gains nothing: there descent ends above the smallest, 10.
    assert report.parameters.smallest == (30 if tied else 10)
    assert parameters(space.freeze(report.parameters.smallest_architecture)) == report.parameters.smallest
    assert report.parameters.largest == 25 + 40 + (20 if tied else 120)
    assert parameters(space.freeze(report.parameters.largest_architecture)) == report.parameters.largest
    assert report.flops is not None
    assert report.flops.largest == 2 * 2 * (8 * 16 + 20)


def test_rows_say_what_is_chosen_and_when() -> None:
    class Nested(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            inner = LayerChoice([nn.Identity(), nn.Tanh()], label="inner")
            self.outer = LayerChoice({"a": nn.Identity(), "b": inner}, label="outer")
            self.two = InputChoice(3, 2, label="two")
            self.any = InputChoice(3, None, label="any")

    rows = {row.label: row for row in Nested().report().decisions}
    assert (rows["outer"].kind, rows["outer"].candidates, rows["outer"].condition) == (
        "one of",
        ("a", "b"),
        "always",
    )
    assert rows["inner"].condition == "outer = 'b'"
    assert (rows["two"].kind, rows["any"].kind) == ("2 of", "any of")


def test_the_table_is_readable() -> None:
    space = Small()
    space_text = str(space.report())
    assert space_text.splitlines()[0] == "Small: 4 decisions, 36 architectures"
    assert "parameters: 10 to 85 (every architecture measured)" in space_text
    assert "FLOPs" not in space_text
    assert "width     one of  2: 2, 5          always" in space_text
    assert "found by local search, not proven" in str(Small(positions=6).report())


def test_the_space_and_generators_are_left_alone() -> None:
    space = Small(positions=6)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    before = {name: tensor.clone() for name, tensor in space.state_dict().items()}
    first, second = space.report(torch.zeros(1, 4)), space.report(torch.zeros(1, 4))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in space.state_dict().items())


def test_constraints_are_listed_and_impossible_ones_reported() -> None:
    class Constrained(ModelSpace):
        def __init__(self, least: int) -> None:
            super().__init__()
            width = value_choice([2, 5], label="width")
            self.layer = space_nn.Linear(4, width)
            self.constrain(width >= least, f"width must be at least {least}.")

    report = Constrained(3).report()
    assert (report.size, report.constraints) == (1, ("width must be at least 3.",))
    assert report.parameters.smallest == report.parameters.largest == 25
    with pytest.raises(SpaceError, match="no architecture satisfies the constraints"):
        Constrained(9).report()


def test_the_darts_space_is_quick() -> None:
    hub = pytest.importorskip("spacelang.hub")
    space = hub.DARTS(width=4, num_cells=3)
    start = time.perf_counter()
    report = space.report()
    assert time.perf_counter() - start < 20
    largest = {label: "sep_conv_5x5" for label in space.default() if "/op_" in label}
    assert report.parameters.largest >= parameters(space.freeze(space.default() | largest))
