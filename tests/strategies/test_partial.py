"""Partial channels: oracles of section 3, slimmed candidates, frozen paths, widening."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies.one_shot.partial import (
    PartialBuilder,
    PartialCell,
    bypass,
    channel_sources,
    check_partial,
    joined,
    parted,
    partial_supernet,
    slimmed,
    widen,
)

pytestmark = pytest.mark.slow


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Lines(ModelSpace):
    """The oracle's operations 0, x, 2x and -x on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell([Times(k) for k in (0, 1, 2, -1)], 1, 1, 2, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, 2 * x)


class OneCell(ModelSpace):
    """A cell of the given candidates on maps of four channels."""

    def __init__(self, operations: Any, distinct_inputs: bool = False) -> None:
        super().__init__()
        self.cell = Cell(operations, 2, 2, 2, label="cell", distinct_inputs=distinct_inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, 2 * x)


def conv(channels: int = 4, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, **settings)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- oracles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "cells", "partial", "count"),
    [(16, 8, 4, 299_578), (36, 20, 6, 2_221_750)],
)
def test_numbers_of_parameters(width: int, cells: int, partial: int, count: int) -> None:
    supernet = Supernet(DartsSpace(width, cells), builder=PartialBuilder(partial))
    assert parameters(supernet) == count


def test_shuffle_oracle() -> None:
    x = torch.arange(16.0).reshape(1, 16, 1, 1)
    shuffled = joined(*parted(x, 4), 4)
    assert shuffled.flatten().tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]


def test_mixture_and_node_oracle() -> None:
    supernet = partial_supernet(Lines(), 4)
    x = torch.arange(1.0, 9, dtype=torch.float64).reshape(1, 8, 1, 1)
    alpha = torch.tensor([[0.1, 0.4, -0.2, 0.3]] * 2, dtype=torch.float64)
    weights = alpha.softmax(dim=1)
    assert weights[0].tolist() == pytest.approx([0.23190666, 0.31304124, 0.17180068, 0.28325143], abs=5e-9)
    mixed = [0.37339116, 0.74678233]
    supernet.set_mixture({"cell": weights}, edges={"cell": torch.tensor([1.0, 0.0], dtype=torch.float64)})
    expected = [mixed[0], 3, 5, 7, mixed[1], 4, 6, 8]
    assert supernet(x).flatten().tolist() == pytest.approx(expected, abs=5e-9)
    beta = torch.tensor([0.2, -0.1], dtype=torch.float64).softmax(dim=0)
    assert beta.tolist() == pytest.approx([0.57444252, 0.42555748], abs=5e-9)
    supernet.set_mixture({"cell": weights}, edges={"cell": beta})
    node = [
        0.53229057,
        4.27667245,
        7.12778742,
        9.97890238,
        1.06458114,
        5.70222993,
        8.55334490,
        11.40445987,
    ]
    assert supernet(x).flatten().tolist() == pytest.approx(node, abs=5e-9)


# -- the cell ------------------------------------------------------------------------------------------------


def plain_edge(operations: Any, weights: Tensor, x: Tensor, partial: int) -> Tensor:
    """An edge by the book, one channel after the other."""
    share = x.shape[1] // partial
    mixed = sum(w * f(x[:, :share]) for w, f in zip(weights, operations, strict=True))
    rest = x[:, share:]
    if mixed.shape[-1] < rest.shape[-1]:
        rest = nn.functional.max_pool2d(rest, 2, ceil_mode=True)
    everything = torch.cat([mixed, rest], dim=1)
    return torch.stack([everything[:, g * share + c] for c in range(share) for g in range(partial)], dim=1)


def plain_cell(cell: PartialCell, weights: Tensor, edges: Tensor, inputs: list[Tensor]) -> Tensor:
    states = list(cell.frame.preprocessor(inputs))
    for node in cell.topology.nodes:
        rows = cell.topology.rows_into(node)
        terms = [
            edges[row] * plain_edge(cell.edges[row], weights[row], states[source], cell.partial)
            for source, row in enumerate(rows)
        ]
        states.append(sum(terms))
    return torch.cat(states[2:], dim=1)


@pytest.mark.parametrize("size", [8, 7])
def test_a_cell_is_the_papers_formula(size: int) -> None:
    """Outputs and gradients, with strides and odd sizes, against edges computed one channel at a time."""
    supernet = partial_supernet(DartsSpace(4, 3, (1, size, 10), num_nodes=2), 2).double()
    generator = torch.Generator().manual_seed(0)
    (label,) = [x for x in supernet.groups if x == "reduce"]
    weights = torch.rand(5, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    edges = torch.rand(5, dtype=torch.float64, generator=generator, requires_grad=True)
    supernet.set_mixture({label: weights}, edges={label: edges})
    cell = supernet.network.cells[1]
    reference = copy.deepcopy(cell)
    inputs = [torch.randn(2, 12, size, size, dtype=torch.float64), torch.randn(2, 8, size, size).double()]
    output = cell(inputs)
    expected = plain_cell(reference, weights, edges, inputs)
    assert torch.allclose(output, expected, atol=1e-12)
    factor = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    found = torch.autograd.grad((output * factor).sum(), (weights, edges))
    wanted = torch.autograd.grad((expected * factor).sum(), (weights, edges))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def spaces() -> dict[str, ModelSpace]:
    operations = {"conv": nn.Sequential(nn.ReLU(), conv()), "skip": nn.Identity()}
    return {"darts": DartsSpace(4, 3, (1, 8, 10), num_nodes=2), "slots": OneCell(operations)}


@pytest.mark.parametrize("name", spaces())
def test_a_frozen_network_is_the_selected_path_bit_for_bit(name: str) -> None:
    space = spaces()[name]
    supernet = partial_supernet(space, 2)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(5)]
    if name == "slots":  # both slots of a node on one edge, with one operation and with two
        assert any(a["cell/input_2_0"] == a["cell/input_2_1"] for a in archs)
    for arch in archs:
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        for training in (True, False):
            x = torch.randn(2, 1 if name == "darts" else 4, 8, 8)
            assert torch.equal(supernet.train(training)(x), frozen.train(training)(x))


def test_an_edge_without_candidates_is_gone_with_its_bypass() -> None:
    supernet = partial_supernet(Lines(), 4)
    supernet.prune({"cell": [[True] * 4, [False] * 4]})
    supernet.set_mixture({"cell": torch.full((2, 4), 0.25)})
    x = torch.randn(2, 8, 2, 2)
    alone = joined(0.5 * x[:, :2], x[:, 2:], 4)
    assert torch.allclose(supernet(x), alone)


@pytest.mark.parametrize(
    ("operation", "channels", "message"),
    [
        (nn.Identity(), 6, r"C a multiple of 4; a cell has \(1, 6, 7, 7\)"),
        (nn.MaxPool2d(3, 3), 8, r"turn maps of \(7, 7\) into \(2, 2\); partial channels need stride 1 or 2"),
        (nn.PixelShuffle(1), 8, None),
        (nn.ChannelShuffle(1), 8, None),
        (nn.ZeroPad2d((0, 0, 0, 0, 0, 1)), 8, "turn 2 channels into 3; partial channels need as many"),
    ],
)
def test_shapes_that_do_not_fit_are_named(operation: nn.Module, channels: int, message: str | None) -> None:
    supernet = partial_supernet(OneCell([operation]), 4)
    x = torch.randn(1, channels, 7, 7)
    if message is None:
        assert supernet(x).shape == (1, 16, 7, 7)
        return
    with pytest.raises(SpaceError, match=message):
        supernet(x)


def test_bypass_of_odd_maps() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert bypass(x, torch.Size((2, 2))).flatten().tolist() == [4, 5, 7, 8]
    assert bypass(x, torch.Size((3, 3))) is x


# -- slimming ------------------------------------------------------------------------------------------------


def test_layers_are_slimmed_and_the_original_is_left_alone() -> None:
    depthwise = conv(8, groups=8, dilation=2, bias=False, padding_mode="circular")
    grouped = conv(8, groups=2)
    norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.2, affine=False)
    module = nn.Sequential(nn.ReLU(), nn.Sequential(depthwise, grouped), norm, depthwise)
    slim: Any = slimmed(module, 4)
    assert [tuple(p.shape) for p in slim.parameters()] == [(2, 1, 3, 3), (2, 1, 3, 3), (2,)]
    assert slim[1][0].groups == 2
    assert slim[1][0].padding_mode == "circular"
    assert slim[1][0].dilation == (2, 2)
    assert slim[1][0] is slim[3]
    assert (slim[2].num_features, slim[2].eps, slim[2].momentum) == (2, 1e-3, 0.2)
    assert slim[0] is not module[0]
    assert module[1][0] is depthwise
    assert parameters(module) == parameters(depthwise) + parameters(grouped)


class Scale(nn.Module):
    """Has weights of its own, and says what fewer channels are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def partial(self, k: int) -> Scale:
        return Scale(len(self.factor) // k)


def test_a_module_may_say_how_it_is_slimmed() -> None:
    assert slimmed(nn.Sequential(Scale(8)), 4)[0].factor.shape == (2, 1, 1)  # type: ignore[index]


def test_odd_halves_of_a_factorized_reduction() -> None:
    supernet = partial_supernet(DartsSpace(12, 2, (1, 8, 10)), 8)  # 24 channels in the reduction, 3 each
    skip = supernet.network.cells[0].edges[0][2]
    assert (skip[1].conv0.out_channels, skip[1].conv1.out_channels) == (1, 2)
    supernet(torch.randn(2, 1, 8, 8))


NAMED = "cell 'cell', candidate 'bad': "


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (
            nn.Sequential(conv(6)),
            NAMED + r"its layer '0', Conv2d\(6, 6, .*\), has 6 channels, which 4 does not",
        ),
        (conv(6), NAMED + r"Conv2d\(6, 6, .*\) has 6 channels"),
        (nn.Sequential(conv(8, groups=4)), "would have 2 and 2 channels in 4 groups"),
        (nn.Sequential(nn.PReLU(8)), "'0', PReLU.*, has weights of its own, and only those of Conv2d and"),
        (nn.Sequential(LayerChoice([nn.ReLU(), nn.Tanh()], label="x")), "is a choice, and a choice inside"),
    ],
)
def test_what_cannot_be_slimmed_is_named(candidate: nn.Module, message: str) -> None:
    space = OneCell({"good": nn.Identity(), "bad": candidate})
    for attempt in (partial_supernet, check_partial):
        with pytest.raises(SpaceError, match=message) as error:
            attempt(space, 4)
        assert "1 for none, or the module a method partial(k)" in str(error.value)
    check_partial(space, 1)
    assert type(partial_supernet(space, 1).network.cell) is not PartialCell


def test_a_reduction_of_too_few_channels_is_named() -> None:
    space = DartsSpace(4, 3, (1, 8, 10), operations=("skip_connect",))
    with pytest.raises(SpaceError, match=r"its layer '1', OffsetConvs, turns 8 channels into 8; 1/8 of both"):
        partial_supernet(space, 8)


def test_weights_are_drawn_anew_from_torchs_generator() -> None:
    space = DartsSpace(4, 3, (1, 8, 10), num_nodes=2)
    before = {name: value.clone() for name, value in space.state_dict().items()}
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        check_partial(space, 2)  # draws nothing
        drawn.append(partial_supernet(space, 2).state_dict())
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    weight = next(name for name, value in drawn[0].items() if "edges" in name and value.dim() == 4)
    assert not torch.equal(drawn[0][weight], drawn[2][weight])
    assert all(torch.equal(value, before[name]) for name, value in space.state_dict().items())


# -- widening ------------------------------------------------------------------------------------------------


def numbered(supernet: Supernet) -> Supernet:
    """Every number of every tensor different."""
    start = 0
    for tensor in supernet.state_dict().values():
        tensor.copy_(torch.arange(start, start + tensor.numel()).reshape(tensor.shape))
        start += tensor.numel()
    return supernet


def test_new_channels_are_copies_of_the_same_old_ones_throughout_a_candidate() -> None:
    space = DartsSpace(8, 3, (1, 8, 10), num_nodes=2)
    narrow = numbered(partial_supernet(space, 4))
    wide = partial_supernet(space, 2)
    widen(narrow, wide, torch.Generator().manual_seed(0))
    for name, value in narrow.state_dict().items():
        if ".edges." not in name:
            assert torch.equal(value, wide.state_dict()[name])
    column = narrow.groups["normal"].columns.index("sep_conv_3x3")
    old, new = (net.network.cells[0].edges[1][column] for net in (narrow, wide))
    c = [int((old[1].weight[:, 0, 0, 0] == v).nonzero()) for v in new[1].weight[:, 0, 0, 0]]
    assert c[:2] == [0, 1]
    assert len(c) == 4
    for layer in (1, 5):  # depthwise
        assert torch.equal(new[layer].weight, old[layer].weight[c])
    for layer in (2, 6):  # pointwise
        assert torch.equal(new[layer].weight, old[layer].weight[c][:, c])
    for layer in (3, 7):
        assert torch.equal(new[layer].running_mean, old[layer].running_mean[c])
        assert new[layer].num_batches_tracked == old[layer].num_batches_tracked
    wide(torch.randn(2, 1, 8, 8))


def test_widening_repeats_with_the_generator_and_copies_what_fits() -> None:
    space = DartsSpace(8, 3, (1, 8, 10), num_nodes=2)
    narrow = numbered(partial_supernet(space, 4))
    results = []
    for seed in (0, 0, 1):
        wide = partial_supernet(space, 2)
        widen(narrow, wide, torch.Generator().manual_seed(seed))
        results.append(torch.cat([v.flatten().double() for v in wide.state_dict().values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    same = partial_supernet(space, 4)
    widen(narrow, same, torch.Generator())
    assert all(torch.equal(v, same.state_dict()[name]) for name, v in narrow.state_dict().items())
    whole = partial_supernet(space, 1)
    widen(narrow, whole, torch.Generator())
    assert whole.network.cells[0].edges[0][3][1].weight.shape[0] == 8


def test_channel_sources() -> None:
    sources = channel_sources(6, 9, torch.Generator().manual_seed(0)).tolist()
    assert sources[:6] == [0, 1, 2, 3, 4, 5]
    assert all(0 <= source < 6 for source in sources[6:])
