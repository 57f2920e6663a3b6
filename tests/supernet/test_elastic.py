"""Mixtures of differently sized layers, against sums over frozen ones written by hand."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn as plain
from torch.utils._python_dispatch import TorchDispatchMode

from spacelang import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    Repeat,
    SpaceError,
    Supernet,
    nn,
    value_choice,
)
from spacelang.language import maximum, to_int, where
from spacelang.nn import Sizes, ValueLayer
from spacelang.supernet import Builder, elastic_merge
from spacelang.supernet.elastic import ElasticLayer
from spacelang.supernet.elastic_refusal import Produced

from .test_selected_path import flat, origins


def v(*candidates: Any, label: str = "v") -> Any:
    return value_choice(list(candidates), label=label)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def image(channels: int, size: int = 6) -> Tensor:
    return normal(2, channels, size, size)


# A layer with choices, and the inputs each architecture reads; in a mixture the first entries of the largest.
LAYERS: dict[str, tuple[Callable[[], Any], Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "linear": (
        lambda: nn.Linear(v(2, 5, label="i"), v(3, 4, 6, label="o"), v(True, False, label="b")),
        lambda a: (normal(3, a["i"]),),
    ),
    "linear of one size": (lambda: nn.Linear(v(4, 6), v(4, 6)), lambda a: (normal(2, 3, a["v"]),)),
    "conv": (
        lambda: nn.Conv2d(v(2, 4, label="i"), v(3, 5, label="o"), v(1, 3, 5, label="k"), padding="same"),
        lambda a: (image(a["i"]),),
    ),
    "conv with bias and padding chosen": (
        lambda: nn.Conv2d(2, 3, v(1, 3), padding=v(1, 3) // 2, bias=v(True, False, label="b"), stride=2),
        lambda a: (image(2),),
    ),
    "tuple kernels": (
        lambda: nn.Conv2d(2, v(2, 3, label="o"), v((1, 3), (3, 1), (3, 3)), padding="same"),
        lambda a: (image(2),),
    ),
    "dilation": (
        lambda: nn.Conv2d(
            2, 3, v(3, 5), padding=v(1, 2, label="d") * (v(3, 5) // 2), dilation=v(1, 2, label="d")
        ),
        lambda a: (image(2),),
    ),
    "reflected": (
        lambda: nn.Conv2d(2, 3, v(3, 5), padding=v(3, 5) // 2, padding_mode="reflect"),
        lambda a: (image(2),),
    ),
    "even kernels": (lambda: nn.Conv2d(2, v(2, 3), 4, padding="same"), lambda a: (image(2),)),
    "even and odd kernels": (lambda: nn.Conv2d(2, 3, v(3, 4), padding="same"), lambda a: (image(2),)),
    "kernels that happen to fit": (
        lambda: nn.Conv2d(2, 3, v(3, 4), stride=2, padding=1),
        lambda a: (image(2),),
    ),
    "not aligned": (
        lambda: nn.Conv1d(
            2, 3, v(1, 3), padding=where(v(1, 3) == 1, 1, 2), stride=1, padding_mode="circular"
        ),
        lambda a: (normal(2, 2, 7),),
    ),
    "depthwise": (
        lambda: nn.Conv2d(v(4, 6), v(4, 6), v(3, 5, label="k"), groups=v(4, 6), padding="same"),
        lambda a: (image(a["v"]),),
    ),
    "multiplied depthwise": (
        lambda: nn.Conv2d(v(2, 3), v(2, 3) * v(1, 2, label="m"), 3, groups=v(2, 3)),
        lambda a: (image(a["v"]),),
    ),
    "groups": (
        lambda: nn.Conv2d(v(4, 8, label="i"), v(4, 8, label="o"), 1, groups=v(1, 2, 4)),
        lambda a: (image(a["i"]),),
    ),
    "conv1d without a batch": (lambda: nn.Conv1d(v(2, 3), 4, 3), lambda a: (normal(a["v"], 7),)),
    "conv3d": (
        lambda: nn.Conv3d(1, v(2, 3), v(1, 3, label="k"), padding="same"),
        lambda a: (normal(1, 1, 3, 3, 3),),
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(
            v(2, 3), v(2, 4, label="o"), v(2, 4, label="k"), 2, v(2, 4, label="k") // 2 - 1
        ),
        lambda a: (image(a["v"]),),
    ),
    "transposed in groups": (
        lambda: nn.ConvTranspose1d(v(2, 4), 2 * v(2, 4), 3, 2, output_padding=1, groups=v(2, 4)),
        lambda a: (normal(2, a["v"], 4),),
    ),
    "bilinear": (
        lambda: nn.Bilinear(v(2, 3), v(2, 4, label="j"), v(2, 3, label="o")),
        lambda a: (normal(3, a["v"]), normal(3, a["j"])),
    ),
    "batch norm": (lambda: nn.BatchNorm2d(v(2, 3, 5)), lambda a: (image(a["v"]),)),
    "batch norm of features": (
        lambda: nn.BatchNorm1d(v(2, 3), momentum=v(0.1, 0.5, label="m"), eps=v(1e-5, 1e-1, label="e")),
        lambda a: (normal(4, a["v"]),),
    ),
    "batch norm without weights": (
        lambda: nn.BatchNorm1d(v(2, 3), affine=v(True, False, label="a")),
        lambda a: (normal(4, a["v"], 3),),
    ),
    "instance norm": (
        lambda: nn.InstanceNorm2d(v(2, 3), affine=True, track_running_stats=v(True, False, label="t")),
        lambda a: (image(a["v"]),),
    ),
    "instance norm without a batch": (lambda: nn.InstanceNorm1d(v(2, 3)), lambda a: (normal(a["v"], 5),)),
    "layer norm": (lambda: nn.LayerNorm(v(2, 6)), lambda a: (normal(3, 4, a["v"]),)),
    "layer norm of a list": (
        lambda: nn.LayerNorm([v(2, 3, label="c"), v(4, 6)]),
        lambda a: (normal(3, a["c"], a["v"]),),
    ),
    "layer norm of tuples": (lambda: nn.LayerNorm(v((2, 4), (3, 3))), lambda a: (normal(5, *a["v"]),)),
    "rms norm": (lambda: nn.RMSNorm(v(2, 6)), lambda a: (normal(3, 4, a["v"]),)),
    "group norm": (lambda: nn.GroupNorm(v(1, 2), v(2, 4, label="c")), lambda a: (image(a["c"]),)),
    "embedding": (
        lambda: nn.Embedding(v(5, 9), v(2, 3, label="d"), padding_idx=1),
        lambda a: (torch.tensor([[0, 1, 4]]),),
    ),
    "embedding of bounded norm": (
        lambda: nn.Embedding(9, v(2, 3), max_norm=100.0),
        lambda a: (torch.tensor([[0, 1, 4]]),),
    ),
    "embedding bag": (lambda: nn.EmbeddingBag(5, v(2, 3)), lambda a: (torch.tensor([[0, 1, 4]]),)),
    "attention": (
        lambda: nn.MultiheadAttention(
            v(4, 8), v(1, 2, label="h"), batch_first=True, bias=v(True, False, label="b")
        ),
        lambda a: (normal(2, 5, a["v"]),) * 3,
    ),
    "attention to others": (
        lambda: nn.MultiheadAttention(v(4, 8), 2, kdim=v(2, 3, label="k"), vdim=3),
        lambda a: (normal(5, 2, a["v"]), normal(4, 2, a["k"]), normal(4, 2, 3)),
    ),
    "attention to as many as its own": (
        lambda: nn.MultiheadAttention(8, 2, kdim=v(4, 8), vdim=v(6, 8, label="i")),
        lambda a: (normal(5, 2, 8), normal(4, 2, a["v"]), normal(4, 2, a["i"])),
    ),
    "attention to more or as many": (
        lambda: nn.MultiheadAttention(v(4, 8), 2, kdim=v(4, 12, label="k"), vdim=v(4, 8, label="i")),
        lambda a: (normal(5, 2, a["v"]), normal(4, 2, a["k"]), normal(4, 2, a["i"])),
    ),
    "gru": (
        lambda: nn.GRU(v(2, 4), v(2, 3, label="h"), 2, bidirectional=True),
        lambda a: (normal(5, 2, a["v"]), normal(4, 2, a["h"])),
    ),
    "lstm": (
        lambda: nn.LSTM(3, v(2, 4), batch_first=True),
        lambda a: (normal(2, 5, 3), (normal(1, 2, a["v"]), normal(1, 2, a["v"]))),
    ),
    "lstm cell": (
        lambda: nn.LSTMCell(v(2, 3), v(2, 4, label="h")),
        lambda a: (normal(2, a["v"]), (normal(2, a["h"]), normal(2, a["h"]))),
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(v(4, 8), v(1, 2, label="h"), v(3, 5, label="f"), dropout=0.0),
        lambda a: (normal(3, 2, a["v"]),),
    ),
    "prelu": (lambda: nn.PReLU(v(2, 4)), lambda a: (image(a["v"]),)),
    "prelu of one slope": (lambda: nn.PReLU(v(4, 1)), lambda a: (image(4),)),
    "dropout": (lambda: nn.Dropout(v(0.2, 0.5), inplace=True), lambda a: (normal(3, 4),)),
    "pool": (lambda: nn.AvgPool2d(v(1, 3), 1, v(1, 3) // 2), lambda a: (image(2),)),
    "max pool": (lambda: nn.MaxPool2d((3, v(1, 3)), 2, (1, v(1, 3) // 2)), lambda a: (image(2),)),
    "slope": (lambda: nn.LeakyReLU(v(0.1, 0.2)), lambda a: (normal(3, 4),)),
    "same layer by different choices": (
        lambda: nn.Linear(3, maximum(v(2, 3, 4), v(3, 4, label="w"))),
        lambda a: (normal(2, 3),),
    ),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


class One(ModelSpace):
    """A space that is one layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = LAYERS[name][0]()

    def forward(self, *inputs: Any) -> Any:
        return self.layer(*inputs)


def randomised(space: ModelSpace) -> Supernet:
    """Supernet in double precision with random weights and statistics."""
    supernet = Supernet(space.double(), memory_format=None)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        for buffer in supernet.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return supernet


def mix(supernet: Supernet, active: dict[str, list[bool]] | None = None) -> dict[str, Tensor]:
    """Set a random mixture whose weights do not sum to one; leaves that record gradients."""
    weights = {x: torch.rand(g.shape).double().requires_grad_() for x, g in supernet.groups.items()}
    supernet.set_mixture(weights, {label: [row] for label, row in (active or {}).items()})
    return weights


def combinations(supernet: Supernet, weights: dict[str, Tensor]) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Every combination of active choices as an architecture, and its weight."""
    groups = list(supernet.groups.values())
    for columns in itertools.product(*(group.active[0] for group in groups)):
        pairs = list(zip(groups, columns, strict=True))
        weight = torch.stack([weights[g.label][0, k] for g, k in pairs]).prod()
        yield {g.label: g.columns[k] for g, k in pairs}, weight


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [t for part in value for t in tensors(part)]


def like(whole: Any, part: Any) -> Any:
    """First entries of `whole` in every dimension, as many as `part` has."""
    if isinstance(part, tuple):
        return tuple(like(w, p) for w, p in zip(whole, part, strict=True))
    return whole[tuple(slice(n) for n in part.shape)].clone()


def largest_inputs(name: str, supernet: Supernet) -> tuple[Any, ...]:
    """Inputs of which each active combination reads a corner; they require grad if they can."""
    unweighted = {label: torch.ones(group.shape) for label, group in supernet.groups.items()}
    return largest([LAYERS[name][1](arch) for arch, _ in combinations(supernet, unweighted)])


def largest(values: Any) -> Any:
    if isinstance(values[0], tuple):
        return tuple(map(largest, zip(*values, strict=True)))
    if not values[0].is_floating_point():
        return values[0]
    return normal(*map(max, zip(*(x.shape for x in values), strict=True))).requires_grad_()


def padded_sum(terms: list[tuple[Tensor, list[Tensor]]]) -> list[Tensor]:
    """sum_c weight_c y_c, each y_c put into the corner of zeros."""
    totals = []
    for parts in zip(*(outputs for _, outputs in terms), strict=True):
        shape = [max(sizes) for sizes in zip(*(y.shape for y in parts), strict=True)]
        total = torch.zeros(shape, dtype=torch.float64)
        for (weight, _), y in zip(terms, parts, strict=True):
            total = total + torch.zeros(shape, dtype=torch.float64).index_put(
                torch.meshgrid(*(torch.arange(n) for n in y.shape), indexing="ij"), weight * y
            )
        totals.append(total)
    return totals


def separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every combination be called by itself."""
    monkeypatch.setattr(elastic_merge, "_key", lambda layer, largest: None)


def subset(supernet: Supernet) -> dict[str, list[bool]]:
    """All but the last choice of the first group, one choice of every further group that has two."""
    rows = {}
    for position, (label, group) in enumerate(supernet.groups.items()):
        count = len(group.columns)
        rows[label] = [k < count - 1 if position == 0 else (k > 0 or count > 2) for k in range(count)]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("part", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("merged", [True, False], ids=["merged", "separate"])
@EVERY_LAYER
def test_a_mixture_is_the_sum_over_frozen_layers(
    name: str, merged: bool, part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs, and gradients of inputs, weights and mixture; in training and evaluation."""
    if not merged:
        separately(monkeypatch)
    torch.manual_seed(0)
    supernet = randomised(One(name))
    assert supernet.soft_refusals() == []
    weights = mix(supernet, subset(supernet) if part else None)
    for training in (True, False):
        inputs = largest_inputs(name, supernet)
        leaves = [*weights.values(), *(x for x in tensors(inputs) if x.requires_grad)]
        supernet.train(training)
        mixed = list(combinations(supernet, weights))
        models = [supernet.freeze(arch) for arch, _ in mixed]
        given = [like(inputs, LAYERS[name][1](arch)) for arch, _ in mixed]
        torch.manual_seed(1)
        parts = [tensors(model(*x)) for model, x in zip(models, given, strict=True)]
        expected = padded_sum([(weight, part) for (_, weight), part in zip(mixed, parts, strict=True)])
        torch.manual_seed(1)
        outputs = tensors(supernet(*like(inputs, inputs)))
        assert len(outputs) == len(expected)
        for y, z in zip(outputs, expected, strict=True):
            assert torch.allclose(y, z, rtol=0, atol=1e-12)
        factors = [torch.randn_like(y) for y in outputs]
        own = list(supernet.parameters())
        got = gradients(outputs, factors, [*leaves, *own])
        frozen = [p for model in models for p in model.parameters()]
        wanted = gradients(expected, factors, [*leaves, *frozen])
        assert_close(got[: len(leaves)], wanted[: len(leaves)])
        total, rest = torch.zeros_like(flat(own)), iter(wanted[len(leaves) :])
        for (arch, _), model in zip(mixed, models, strict=True):
            positions = origins(supernet, arch)
            for key, _ in model.named_parameters():
                total.index_add_(0, positions[key].flatten(), next(rest).flatten())
        assert_close([flat(got[len(leaves) :])], [total])


def gradients(outputs: list[Tensor], factors: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    loss = sum((y * f).sum() for y, f in zip(outputs, factors, strict=True))
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def assert_close(got: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@EVERY_LAYER
def test_one_choice_of_each_computes_its_slice_alone(name: str) -> None:
    """Selected it is the frozen layer bit for bit; with weights, times their product; never padded."""
    torch.manual_seed(0)
    supernet = randomised(One(name))
    mix(supernet)
    for arch, _ in list(combinations(supernet, mix(supernet))):
        model = supernet.freeze(arch)
        inputs = LAYERS[name][1](arch)
        for training in (True, False):
            supernet.select(arch)
            results = []
            for network in (supernet, model):
                torch.manual_seed(1)
                results.append(tensors(network.train(training)(*like(inputs, inputs))))
            assert all(map(torch.equal, *results))
        active = {x: [c == arch[x] for c in group.columns] for x, group in supernet.groups.items()}
        weights = mix(supernet, active)
        ((_, weight),) = combinations(supernet, weights)
        for y, z in zip(tensors(supernet(*inputs)), results[1], strict=True):
            assert y.shape == z.shape
            assert torch.allclose(y, weight * z, rtol=0, atol=1e-14)


class Chain(ModelSpace):
    """Convolutions, norms and a classifier on flattened maps, by one width and arithmetic on it."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = v(2, 4, label="width"), v(1, 3, label="kernel")
        hidden = where(width < 3, width * 3, width * v(1, 2, label="ratio"))
        self.layers = plain.Sequential(
            nn.Conv2d(2, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            plain.Sigmoid(),  # what is padded need not stay zero
            nn.Conv2d(width, hidden, 1),
            nn.PReLU(hidden),
            nn.Conv2d(hidden, hidden, v(3, 5, label="depthwise"), groups=hidden, padding="same"),
            nn.GroupNorm(2, hidden),
            nn.Conv2d(hidden, width, 3, stride=2, padding=1),
            plain.Flatten(),
            nn.Linear(width * 9, to_int(width * 1.5)),
            nn.Linear(to_int(width * 1.5), 3),
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class Tokens(ModelSpace):
    """A transformer of chosen width, heads and depth, and a recurrent layer in both directions."""

    def __init__(self) -> None:
        super().__init__()
        width, hidden = v(4, 8, label="width"), v(2, 3, label="hidden")
        self.embedding = nn.Embedding(7, width)
        self.attention = nn.MultiheadAttention(width, v(1, 2, label="heads"), batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.blocks = Repeat(self.block, v(0, 1, label="half") * 2)
        self.rnn = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(hidden * 2, 3)
        self.width = width

    def block(self, index: int) -> plain.Module:
        inner = v(3, 5, label=f"inner{index}")
        return plain.Sequential(nn.Linear(4, inner), plain.GELU(), nn.Linear(inner, 4))

    def forward(self, tokens: Tensor) -> Any:
        x = self.embedding(tokens)
        x = self.norm(x + self.attention(x, x, x)[0])
        y, last = self.rnn(x)
        return self.head(y).sum(1) + self.blocks(last.sum((0, 2))[:, None].expand(-1, 4)).sum(1, keepdim=True)


class Nested(ModelSpace):
    """Value choices within candidates, within repeated blocks and within the operations of a cell."""

    def __init__(self) -> None:
        super().__init__()
        width = v(2, 4, label="width")

        def wide(kernel: Any) -> plain.Module:
            return nn.Conv2d(width, width, kernel, padding=kernel // 2)

        self.stem = nn.Conv2d(2, width, 1)
        self.choice = LayerChoice(
            {"narrow": wide(1), "chosen": wide(v(1, 3, label="kernel")), "none": plain.Identity()}, label="op"
        )
        self.blocks = Repeat(
            lambda i: plain.Sequential(wide(3), nn.BatchNorm2d(width)), (0, 2), label="depth"
        )
        self.cell = Cell(
            {
                "conv": lambda i, k, j: wide(v(1, 3, label=f"kernel{i}")),
                "skip": lambda i, k, j: plain.Identity(),
            },
            2,
            merge_op="all",
            postprocessor=lambda output, inputs: sum(output.chunk(2, dim=1)),
            label="cell",
        )
        self.pick = InputChoice(2, label="pick")
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.choice(self.stem(x))
        return self.head(self.pick(self.cell(self.blocks(x)), x))


SPACES: dict[str, tuple[Callable[[], ModelSpace], Callable[[], Tensor]]] = {
    "chain": (Chain, lambda: image(2)),
    "tokens": (Tokens, lambda: torch.tensor([[0, 3, 6], [1, 1, 2]])),
    "nested": (Nested, lambda: image(2, 4)),
}
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)


@pytest.mark.slow
@EVERY_SPACE
def test_a_one_hot_mixture_is_the_frozen_model(name: str) -> None:
    """Every layer pads and reads as the next one expects, although all choices are active."""
    torch.manual_seed(0)
    space = SPACES[name][0]()
    supernet = randomised(space)
    assert supernet.soft_refusals() == []
    rng = np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(12)):
        supernet.select(arch)
        hot = {}
        for label, group in supernet.groups.items():
            hot[label] = torch.zeros(group.shape).double()
            for row, active in enumerate(group.active):
                hot[label][row, list(active)] = 1.0
            if not hot[label].any():  # in a branch that is not chosen: whatever it is, it has weight zero
                hot[label] = torch.rand(group.shape).double()
        supernet.set_mixture(hot)
        x = SPACES[name][1]()
        for training in (False, True):
            expected = supernet.freeze(arch).train(training)(x)
            assert torch.allclose(supernet.train(training)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@EVERY_SPACE
def test_merged_calls_compute_what_separate_ones_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and running statistics of a network, some choices pruned, one inactive."""
    torch.manual_seed(0)
    supernet = randomised(SPACES[name][0]())
    supernet.prune({"width": [[True, True]]})
    weights = mix(supernet)
    x = SPACES[name][1]()
    results = []
    for separate in (False, True):
        network = copy.deepcopy(supernet)
        network.set_mixture(weights)
        if separate:
            separately(monkeypatch)
        outputs = [network.train(training)(x) for training in (True, True, False)]
        leaves = [*weights.values(), *network.parameters()]
        torch.manual_seed(1)
        found = gradients(outputs, [torch.randn_like(y) for y in outputs], leaves)
        results.append([*outputs, *found, *(b.double() for b in network.buffers())])
    assert_close(*results)


@pytest.mark.slow
@EVERY_SPACE
def test_gradients_of_a_mixture_are_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    supernet = randomised(SPACES[name][0]()).eval()
    weights = mix(supernet)
    x = SPACES[name][1]()
    loss = supernet(x).square().sum()
    found = torch.autograd.grad(loss, list(weights.values()))
    for (label, table), gradient in zip(weights.items(), found, strict=True):
        for position in itertools.product(*map(range, table.shape)):
            values = []
            for step in (1e-5, -1e-5):
                moved = table.detach().clone()
                moved[position] += step
                supernet.set_mixture({label: moved})
                values.append(supernet(x).square().sum().item())
            supernet.set_mixture({label: table})
            assert gradient[position].item() == pytest.approx(
                (values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-5
            )


class Counter(TorchDispatchMode):
    """Counts operations, and the largest weight of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.filters: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        if name == "convolution":
            self.filters.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


class Narrow(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        width, kernel = v(2, 4, 6, label="width"), v(1, 3, 5, label="kernel")
        self.layers = plain.Sequential(
            nn.Conv2d(2, width, kernel, padding="same"), nn.BatchNorm2d(width), nn.Conv2d(width, 3, 1)
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


def test_nine_combinations_are_one_convolution_and_a_sampled_one_is_its_slice() -> None:
    supernet = randomised(Narrow())
    mix(supernet)
    with Counter() as all_active:
        supernet(image(2))
    assert all_active.filters == [(6, 2, 5, 5), (3, 6, 1, 1)]
    assert all_active.calls["native_batch_norm"] == 1
    mix(supernet, {"width": [True, True, False], "kernel": [True, True, False]})
    with Counter() as some:
        supernet(image(2))
    assert some.filters == [(4, 2, 3, 3), (3, 4, 1, 1)]
    mix(supernet, {"width": [False, True, False], "kernel": [True, False, False]})
    with Counter() as one:
        supernet(image(2))
    assert one.filters == [(4, 2, 1, 1), (3, 4, 1, 1)]


def test_pruned_choices_take_no_part() -> None:
    supernet = randomised(Narrow())
    weights = mix(supernet)
    supernet.prune({"width": [[True, True, False]], "kernel": [[False, True, True]]})
    with Counter() as counter:
        y = supernet(image(2))
    assert counter.filters == [(4, 2, 5, 5), (3, 4, 1, 1)]
    for label, gradient in zip(weights, torch.autograd.grad(y.sum(), list(weights.values())), strict=True):
        alive = torch.tensor(supernet.groups[label].alive)
        assert torch.equal(gradient != 0, alive)


@pytest.mark.parametrize("merged", [True, False])
def test_one_pass_updates_the_statistics_of_a_channel_once(
    merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not merged:
        separately(monkeypatch)
    supernet = Supernet(One("batch norm")).double()
    norm = supernet.network.layer.largest
    mix(supernet, {"v": [True, True, False]})
    x = image(3)
    supernet.train()(x)
    mean = 0.1 * x.mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, torch.cat([mean, torch.zeros(2)]), atol=1e-15)
    assert norm.num_batches_tracked == 1
    supernet.eval()(x)
    assert norm.num_batches_tracked == 1


def test_momenta_that_differ_update_once_too() -> None:
    """The first of the largest combinations updates."""
    supernet = Supernet(One("batch norm of features")).double()
    norm = supernet.network.layer.largest
    mix(supernet)
    x = normal(4, 3)
    supernet(x)
    assert torch.allclose(norm.running_mean, 0.1 * x.mean(0), atol=1e-15)
    assert norm.num_batches_tracked == 1


def test_weights_that_are_not_executed_are_added_as_gates() -> None:
    supernet = randomised(One("linear of one size"))
    weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    supernet.set_mixture({"v": weights}, {"v": [[False, True]]}, adds_gates=True)
    x = normal(2, 3, 6)
    y = supernet(x)
    assert torch.equal(y, supernet.freeze({"v": 6})(x))
    (gradient,) = torch.autograd.grad(y.sum(), weights)
    assert gradient.tolist() == [[y.numel(), pytest.approx(y.sum().item())]]


@EVERY_SPACE
def test_half_precision_stays_half(name: str) -> None:
    """Weights of a mixture in single precision promote no feature map, under autocast or not."""
    space = SPACES[name][0]()
    supernet = randomised(space).to(torch.bfloat16)
    x = SPACES[name][1]()
    supernet.set_mixture({label: torch.rand(group.shape) for label, group in supernet.groups.items()})
    half = x.bfloat16() if x.is_floating_point() else x
    assert supernet(half).dtype == torch.bfloat16
    supernet.float()
    weights = {label: torch.rand(g.shape).requires_grad_() for label, g in supernet.groups.items()}
    supernet.set_mixture(weights)
    single = x.float() if x.is_floating_point() else x
    with torch.autocast("cpu", torch.bfloat16):
        y = supernet(single)
        assert y.dtype == supernet.freeze(space.default())(single).dtype
    found = torch.autograd.grad(y.float().sum(), list(weights.values()))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in found)


@pytest.mark.slow
def test_a_mixture_compiles_without_a_break() -> None:
    supernet = randomised(Narrow()).eval()
    compiled = torch.compile(supernet, backend="eager", fullgraph=True)
    x = image(2)
    for _ in range(2):
        mix(supernet)
        assert torch.equal(supernet(x), compiled(x))


class Sizer(Builder):
    """Lets elastic layers know what others return."""

    def __init__(self) -> None:
        super().__init__()
        self.produced = Produced()

    def elastic_layer(self, layer: ValueLayer) -> plain.Module:
        return ElasticLayer([self.group(d) for d in layer.decisions()], layer, self.produced)


class Layers(ModelSpace):
    """Layers in a list."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        made = make()
        self.layers = plain.ModuleList(made if isinstance(made, list) else [made])


JOINED = (
    "which no layer returns in one piece: parts that were joined or split are padded each by itself. "
    "Give every part its own layer and add their outputs"
)
UNLIKE = "returns feature maps of different sizes"
PAD = f"{UNLIKE}, which cannot be summed; pad by dilation * (kernel_size // 2)"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "stride": (
        lambda: nn.Conv2d(2, 3, 3, stride=v(1, 2)),
        f"{UNLIKE} (stride 1 or 2), which cannot be summed",
    ),
    "padding": (lambda: nn.Conv2d(2, 3, v(1, 3)), PAD),
    "constant padding": (lambda: nn.Conv2d(2, 3, v(3, 7), stride=2, padding=1), PAD),
    "dilation": (lambda: nn.Conv1d(2, 3, 3, padding=1, dilation=v(1, 2)), PAD),
    "transposed": (lambda: nn.ConvTranspose1d(2, 3, 3, 2, output_padding=v(0, 1)), PAD),
    "pool": (lambda: nn.MaxPool2d(v(2, 3)), f"{UNLIKE} (stride 2 or 3), which cannot be summed"),
    "pool padding": (lambda: nn.AvgPool2d((3, v(2, 3)), 1), PAD),
    "indices": (
        lambda: nn.MaxPool2d(v(1, 3), 1, v(1, 3) // 2, return_indices=True),
        "returns indices, which cannot be summed",
    ),
    "adaptive pool": (
        lambda: nn.AdaptiveAvgPool2d(v(1, 2)),
        "computes one choice at a time, since it is not known which of its dimensions have chosen sizes",
    ),
    "split": (
        lambda: nn.GLU(v(0, 1)),
        "computes one choice at a time, since it is not known which of its dimensions have chosen sizes",
    ),
    "layers": (
        lambda: nn.LSTM(2, 3, v(1, 2)),
        "returns different things for each num_layers, which cannot be summed",
    ),
    "projection": (
        lambda: nn.LSTM(2, v(3, 4), proj_size=2),
        "has projected states, which cannot be mixed; use an nn.Linear after the layer",
    ),
    "loss": (
        lambda: nn.MSELoss(reduction=v("mean", "none")),
        "returns different things for each reduction, which cannot be summed",
    ),
    "groups that do not divide": (
        lambda: nn.Conv2d(4, v(4, 6, label="o"), 1, groups=v(1, 4)),
        "cannot be built for o=6, v=4: out_channels must be divisible by groups",
    ),
    "heads that do not divide": (
        lambda: nn.MultiheadAttention(v(4, 6), v(2, 4, label="h")),
        "cannot be built for v=6, h=4: embed_dim must be divisible by num_heads",
    ),
    "too many": (
        lambda: nn.Linear(*(v(*range(1, 41), label=x) for x in "io")),
        "has 1600 combinations of choices; at most 1000 can be mixed",
    ),
    "concatenation": (
        lambda: nn.Linear(v(2, 3) + v(4, 5, label="w"), 2),
        f"reads (v + w) entries, {JOINED}",
    ),
    "flattened concatenation": (
        lambda: nn.Linear((v(2, 3) + 1) * 4, 2),
        f"reads ((v + 1) * 4) entries, {JOINED}",
    ),
    "loose ends": (
        lambda: nn.Linear(
            Cell([plain.Identity()], 2, 2, 2, merge_op="loose_end", label="cell").num_outputs * 3, 2
        ),
        "depends on loose_ends(cell), but in a mixture all that it counts is there; of a cell, "
        "merge_op='all', 'mean' or 'sum' can be mixed",
    ),
    "a size that is none": (
        lambda: Misnamed(v(2, 3)),
        "cannot be mixed: Scale has no size 'width', which its `sizes` names",
    ),
    "a layer of one's own": (
        lambda: Unsized(v(2, 3)),
        "computes one choice at a time, since it is not known which of its dimensions have chosen sizes",
    ),
}


class Scale(plain.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.factor = plain.Parameter(torch.randn(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Scaled(ValueLayer):
    layer_type = Scale
    sizes = Sizes({"x": {-1: "features"}}, ({-1: "features"},))


class Unsized(ValueLayer):
    layer_type = Scale


class Misnamed(ValueLayer):
    layer_type = Scale
    sizes = Sizes({"x": {-1: "width"}}, ({-1: "width"},))


@pytest.mark.filterwarnings("ignore:the choice 'cell/op")  # only the number of outputs of a cell is used
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_mixed_says_why_before_any_training(name: str) -> None:
    make, reason = REFUSED[name]
    supernet = Supernet(Layers(make))
    (text,) = supernet.soft_refusals()
    layer = supernet.network.layers[0]
    assert text == f"{layer.name} {reason} (at layers.0)"
    assert layer.name.startswith("'")
    with pytest.raises(SpaceError) as error:
        layer(torch.zeros(2, 2, 2), torch.zeros(2, 2, 2))
    assert str(error.value) == f"{layer.name} {reason}; call supernet.select(arch)."


def test_one_choice_that_is_left_is_not_refused() -> None:
    supernet = Supernet(Layers(lambda: nn.Conv2d(2, 3, v(3, 5), stride=v(1, 2, label="s"))))
    assert supernet.soft_refusals()
    supernet.prune({"s": [[False, True]], "v": [[True, False]]})
    assert supernet.soft_refusals() == []
    assert supernet.network.layers[0](torch.zeros(1, 2, 7, 7)).shape == (1, 3, 3, 3)


def test_a_layer_of_ones_own_says_its_sizes() -> None:
    supernet = randomised(Layers(lambda: Scaled(v(2, 3))))
    layer = supernet.network.layers[0]
    supernet.set_mixture({"v": torch.tensor([[0.25, 2.0]]).double()})
    x = normal(4, 3)
    expected = torch.tensor([2.25, 2.25, 2.0]) * layer.largest.factor * x
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-14)


def test_what_a_layer_reads_must_be_returned_in_one_piece() -> None:
    """Told from the sizes other layers of the network return."""

    def reads(*makes: Callable[[Any, Any], Any]) -> list[bool]:
        """Whether each layer is refused."""
        width, other = v(2, 4, label="width"), v(3, 5, label="other")
        supernet = Supernet(Layers(lambda: [make(width, other) for make in makes]), builder=Sizer())
        return [
            bool(layer.soft_refusal and JOINED in layer.soft_refusal) for layer in supernet.network.layers
        ]

    def linear(*sizes: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda w, o: nn.Linear(*(size(w, o) if callable(size) else size for size in sizes))

    one = linear(3, lambda w, o: w)
    assert (
        reads(one, linear(lambda w, o: w, lambda w, o: w * 2), linear(lambda w, o: 2 * w, 3)) == [False] * 3
    )
    assert reads(one, linear(3, lambda w, o: o), linear(lambda w, o: w + o, 3)) == [False, False, True]
    assert reads(linear(3, lambda w, o: w + o), linear(lambda w, o: o + w, 3)) == [False, False]
    assert reads(one, linear(lambda w, o: w + 3, 3)) == [False, True]
    assert reads(linear(3, lambda w, o: w * 2), linear(lambda w, o: w, 3)) == [False, True]  # a GLU between
    assert reads(one, linear(lambda w, o: w * 9, 3)) == [False, True]  # tokens flattened
    conv = [lambda w, o: nn.Conv2d(2, w, 3), lambda w, o: nn.BatchNorm2d(w)]
    assert reads(*conv, linear(lambda w, o: w * 9, 3)) == [False] * 3  # maps flattened
    assert reads(*conv, lambda w, o: nn.Conv2d(w * 2, 3, 1)) == [False, False, True]  # maps joined
    assert reads(lambda w, o: nn.BatchNorm2d(w + o), lambda w, o: nn.Conv2d(w + o, 3, 1)) == [True, True]
    assert reads(lambda w, o: nn.GRU(3, w, bidirectional=True), linear(lambda w, o: 2 * w, 3)) == [False] * 2
    assert reads(one, linear(lambda w, o: o, 3)) == [False] * 2  # from elsewhere
    assert reads(linear(3, lambda w, o: w // o), linear(lambda w, o: w + o, 3)) == [False, True]


def test_sizes_that_do_not_meet_are_named() -> None:
    supernet = Supernet(Layers(lambda: nn.Linear(v(2, 4), 3)))
    for call in (lambda x: supernet.network.layers[0](x), lambda x: supernet.network.layers[0](input=x)):
        with pytest.raises(SpaceError) as error:
            call(torch.zeros(5, 2))
        assert str(error.value) == (
            "'v': Linear(in_features=v, out_features=3): input has shape (5, 2), but active choices read "
            "up to 4 entries in dimension -1, and in a mixture all sizes are padded to the largest. The "
            "layer before must have the same expression for its size."
        )


def test_outputs_that_do_not_meet_are_named() -> None:
    supernet = Supernet(Layers(lambda: nn.Conv2d(2, 3, v(3, 4), stride=2, padding=1)))
    assert supernet.soft_refusals() == []
    with pytest.raises(SpaceError, match=r"same shape; 'v=3' returned \(1, 3, 4, 4\), 'v=4' \(1, 3, 3, 3\)"):
        supernet.network.layers[0](torch.zeros(1, 2, 7, 7))
    heads = Supernet(Layers(lambda: nn.MultiheadAttention(4, v(1, 2))))
    with pytest.raises(SpaceError, match="same shape; 'v=1' returned"):
        heads.network.layers[0](*[torch.zeros(5, 2, 4)] * 3, average_attn_weights=False)


def test_a_layer_that_no_choice_reaches_says_so() -> None:
    supernet = Supernet(Nested())
    arch = {**Nested().default(), "op": "narrow"}
    supernet.select(arch)
    with pytest.raises(SpaceError, match=r"'width', 'kernel': Conv2d.* runs no candidate"):
        supernet.network.choice.candidates[1](torch.zeros(1, 4, 3, 3))
