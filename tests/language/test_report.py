"""The report of a space."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, progress, value_choice
from spacelang import nn as space_nn
from spacelang.costs import CostLimit, profile


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


@pytest.mark.parametrize("positions", [1, 6])
def test_a_slow_report_shows_a_bar(
    positions: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small space is enumerated, a large one searched."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    Small(positions=positions).report()
    assert "smallest and largest models" in capsys.readouterr().err


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_costs_of_chosen_sizes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing a model for every step of the search would take minutes in a real space."""

    class Wide(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            widths = [value_choice([2, 4, 8], label=f"width{i}") for i in range(6)]
            pairs = zip([4, *widths[:-1]], widths, strict=True)
            self.layers = nn.Sequential(*(space_nn.Linear(*pair) for pair in pairs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    space, frozen = Wide(), list[dict[str, int]]()
    freeze = space.freeze
    monkeypatch.setattr(space, "freeze", lambda arch: frozen.append(arch) or freeze(arch))
    report = space.report(torch.zeros(1, 4))
    assert report.flops is not None
    assert (report.flops.smallest, report.flops.largest) == (2 * (8 + 5 * 4), 2 * (32 + 5 * 64))
    assert len(frozen) < 20


def test_limits_on_a_small_space_are_decided_for_certain() -> None:
    space, x = Small(), torch.zeros(2, 4)
    limits = [
        CostLimit("params", at_most=9),
        CostLimit("params", at_most=10),
        CostLimit("params", at_least=80, at_most=84),
        CostLimit("params", at_least=10, at_most=85),
        CostLimit("flops", at_least=1000),
        CostLimit(
            {"layer0/linear": 2.0, "depth/block_0": 1.0, "depth/block_1": 1.0, "wide": 1.0}, at_most=1.5
        ),
    ]
    report = space.report(x, limits=limits)
    assert [verdict.limit for verdict in report.limits] == limits
    met = [verdict.architecture is not None for verdict in report.limits]
    assert met == [False, True, False, True, False, True]
    assert all(verdict.proven for verdict in report.limits)
    assert report.limits[1].range == report.parameters
    assert report.limits[1].architecture is not None
    assert parameters(space.freeze(report.limits[1].architecture)) == 10
    text = str(report)
    for line in (
        "limit: params at most 9: cannot be met; range 10 to 85 (every architecture measured)",
        "limit: params at most 10: can be met; range",
        "limit: params at most 84 and at least 80: cannot be met; range",
        "limit: params at most 85 and at least 10: met by every architecture; range",
        "limit: flops at least 1,000: cannot be met; range",
        "limit: latency at most 1.5: can be met; range 1 to 5 (every architecture measured)",
    ):
        assert line in text


def test_limits_on_a_large_space_are_searched() -> None:
    space = Small(positions=6)  # 10 to 185 parameters in steps of 20 and 15
    limits = [
        CostLimit("params", at_most=9),
        CostLimit("params", at_least=100, at_most=106),
        CostLimit("params", at_least=101, at_most=104),
        CostLimit("params", at_least=10),
    ]
    below, between, gap, every = space.report(limits=limits).limits
    assert (below.architecture, below.proven) == (None, False)
    assert "not met by any architecture found; range 10 to 185 (found by local search, not proven)" in str(
        below
    )
    assert between.architecture is not None
    assert between.proven
    assert 100 <= parameters(space.freeze(between.architecture)) <= 106
    assert gap.architecture is None
    assert "met by every architecture found" in str(every)


def test_limits_are_checked() -> None:
    with pytest.raises(SpaceError, match=r"CostLimit\('params'\) limits nothing"):
        CostLimit("params")
    with pytest.raises(SpaceError, match="at_least=3 is above at_most=2"):
        CostLimit("params", at_least=3, at_most=2)
    with pytest.raises(SpaceError, match="at_most='2' must be a number"):
        CostLimit("params", at_most="2")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="FLOPs need an example input"):
        Small().report(limits=[CostLimit("flops", at_most=2)])
    with pytest.raises(SpaceError, match="metric='flop'; expected 'params', 'flops'"):
        Small().report(limits=[CostLimit("flop", at_most=2)])  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="limits are CostLimits; got 'flops'"):
        Small().report(limits=["flops"])  # type: ignore[list-item]


@pytest.mark.slow
def test_the_darts_space_is_quick() -> None:
    hub = pytest.importorskip("spacelang.hub")
    space = hub.DARTS(width=4, num_cells=3)
    start = time.perf_counter()
    report = space.report()
    assert time.perf_counter() - start < 20
    largest = {label: "sep_conv_5x5" for label in space.default() if "/op_" in label}
    assert report.parameters.largest >= parameters(space.freeze(space.default() | largest))
