"""spacelang.nn: torch.nn with value choices as arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import ModelSpace, Supernet, model_context, nn, value_choice
from spacelang.nn import ValueLayer


def v(*candidates: Any, label: str = "v") -> Any:
    return value_choice(list(candidates), label=label)


def image(channels: int) -> Tensor:
    return torch.randn(2, channels, 6, 6, dtype=torch.float64)


# Layer with choices, and an input for each architecture.
LAYERS: dict[str, tuple[Callable[[], Any], Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "linear out": (lambda: nn.Linear(3, v(2, 4)), lambda a: (image(1)[0, 0, :, :3],)),
    "linear in": (
        lambda: nn.Linear(v(2, 4), 3, v(True, False, label="b")),
        lambda a: (image(1)[0, 0, :, : a["v"]],),
    ),
    "kernel": (lambda: nn.Conv2d(2, 3, v(1, 3, 5), padding="same"), lambda a: (image(2),)),
    "kernel and padding": (
        lambda: nn.Conv2d(2, 3, v(1, 3, 5), padding=v(1, 3, 5) // 2),
        lambda a: (image(2),),
    ),
    "tuple kernel": (lambda: nn.Conv2d(2, 3, v((1, 3), (3, 1), (3, 3))), lambda a: (image(2),)),
    "stride": (
        lambda: nn.Conv2d(2, 3, 3, stride=v(1, 2), dilation=v(1, 2, label="d")),
        lambda a: (image(2),),
    ),
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=v(1, 2, 4)), lambda a: (image(4),)),
    "depthwise": (lambda: nn.Conv2d(v(4, 6), v(4, 6), 3, groups=v(4, 6)), lambda a: (image(a["v"]),)),
    "per group": (
        lambda: nn.Conv2d(v(4, 8), v(4, 8), 3, groups=v(4, 8) // v(1, 2, label="g")),
        lambda a: (image(a["v"]),),
    ),
    "conv1d": (lambda: nn.Conv1d(6, v(2, 3), v(1, 3, label="k")), lambda a: (image(6)[0],)),
    "transposed": (lambda: nn.ConvTranspose2d(2, v(2, 3), v(2, 4, label="k")), lambda a: (image(2),)),
    "batch norm": (
        lambda: nn.BatchNorm2d(v(2, 4), momentum=v(0.1, 0.5, label="m")),
        lambda a: (image(a["v"]),),
    ),
    "layer norm": (lambda: nn.LayerNorm(v(2, 6)), lambda a: (image(1)[..., : a["v"]],)),
    "layer norm of a list": (lambda: nn.LayerNorm([v(2, 6), 6]), lambda a: (image(1)[..., : a["v"], :],)),
    "group norm": (lambda: nn.GroupNorm(v(1, 2), v(2, 4, label="c")), lambda a: (image(a["c"]),)),
    "embedding": (
        lambda: nn.Embedding(v(5, 9), v(2, 3, label="d"), padding_idx=1),
        lambda a: (torch.tensor([[0, 1, 4]]),),
    ),
    "prelu": (lambda: nn.PReLU(v(1, 3)), lambda a: (image(a["v"] if a["v"] > 1 else 2),)),
    "dropout": (lambda: nn.Dropout(v(0.0, 0.5)), lambda a: (image(1),)),
    "pool": (lambda: nn.AvgPool2d(v(2, 3)), lambda a: (image(1),)),
    "lstm": (
        lambda: nn.LSTM(3, v(2, 4), v(1, 2, label="n"), batch_first=True),
        lambda a: (image(1)[0, ..., :3],),
    ),
    "gru in": (lambda: nn.GRU(v(2, 4), 3), lambda a: (image(1)[0, ..., : a["v"]],)),
    "attention": (
        lambda: nn.MultiheadAttention(v(4, 8), v(1, 2, 4, label="h"), batch_first=True),
        lambda a: (torch.randn(2, 5, a["v"], dtype=torch.float64),) * 3,
    ),
    "bilinear": (
        lambda: nn.Bilinear(v(2, 3), 2, 4),
        lambda a: (torch.randn(5, a["v"]).double(), image(1)[0, 0, :5, :2]),
    ),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


class One(ModelSpace):
    """A space that is one layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = LAYERS[name][0]()

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer(*inputs)


def flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for part in output if part is not None for t in flat(part)]


@pytest.mark.slow
@EVERY_LAYER
def test_a_layer_is_the_plain_one_of_every_choice(name: str) -> None:
    """Frozen and selected, forward and backward, the same bits; the class of torch under model_context."""
    torch.manual_seed(0)
    space = One(name).double()
    supernet = Supernet(space, memory_format=None)
    for arch in space.grid():
        model = supernet.freeze(arch)
        with model_context(arch):
            built = One(name).double()
        assert not isinstance(model.layer, ValueLayer)
        assert type(model.layer) is type(built.layer) is getattr(plain, type(built.layer).__name__)
        assert repr(model.layer) == repr(built.layer)
        built.load_state_dict(model.state_dict())
        inputs = LAYERS[name][1](arch)
        supernet.select(arch)
        supernet.zero_grad()
        for training in (True, False):
            results = []
            for network in (supernet, model, built):
                torch.manual_seed(1)
                results.append(flat(network.train(training)(*inputs)))
            for other in results[1:]:
                assert all(map(torch.equal, results[0], other))
        if any(p.requires_grad for p in model.parameters()):
            sum(y.square().sum() for y in flat(supernet(*inputs))).backward()
            sum(y.square().sum() for y in flat(model(*inputs))).backward()
            for parameter, sliced in zip(model.parameters(), supernet.parameters(), strict=False):
                assert parameter.grad is not None
                assert sliced.grad is not None
                assert torch.allclose(sliced.grad.square().sum(), parameter.grad.square().sum())


@EVERY_LAYER
def test_largest_weights_are_no_larger_than_some_choice_needs(name: str) -> None:
    space = One(name)
    needed: dict[str, list[int]] = {}
    for arch in space.grid():
        for key, tensor in space.freeze(arch).layer.named_parameters():
            known = needed.setdefault(key, list(tensor.shape))
            needed[key] = [max(a, b) for a, b in zip(known, tensor.shape, strict=True)]
    largest = {key: list(tensor.shape) for key, tensor in space.layer.largest.named_parameters()}
    assert largest == needed


def test_without_choices_layers_are_torchs_own() -> None:
    assert type(nn.Linear(2, 3)) is plain.Linear
    assert type(nn.Conv2d(1, 2, kernel_size=3, padding=1)) is plain.Conv2d
    with model_context({}):
        assert type(nn.BatchNorm2d(3)) is plain.BatchNorm2d
    assert nn.Module is plain.Module
    assert nn.Sequential is plain.Sequential
    assert nn.Parameter is plain.Parameter
    assert nn.functional is plain.functional
    assert nn.Linear is nn.Linear
    assert "Conv2d" in dir(nn)


def test_every_layer_of_torch_is_here() -> None:
    for name in dir(plain):
        assert getattr(nn, name) is not None or getattr(plain, name) is None
    with pytest.raises(AttributeError, match=r"no attribute 'Lineer', nor has torch\.nn\. Closest: 'Linear'"):
        nn.Lineer  # noqa: B018


def test_kernels_are_cropped_at_their_centre_and_channels_from_the_first() -> None:
    layer = nn.Conv2d(v(1, 2, label="i"), v(1, 2, label="o"), v(1, 3, 5, label="k"))
    with torch.no_grad():
        layer.largest.weight.copy_(torch.arange(100.0).view(2, 2, 5, 5))
    weight = layer.freeze({"i": 2, "o": 1, "k": 3}).weight
    assert torch.equal(weight, torch.arange(100.0).view(2, 2, 5, 5)[:1, :, 1:4, 1:4])
    assert torch.equal(layer.freeze({"i": 1, "o": 1, "k": 1}).weight.flatten(), torch.tensor([12.0]))


def test_projections_of_attention_and_gates_are_cut_one_by_one() -> None:
    attention = nn.MultiheadAttention(v(2, 4), 2)
    rows = torch.arange(12.0)
    with torch.no_grad():
        attention.largest.in_proj_weight.copy_(rows[:, None].expand(12, 4))
    cut = attention.freeze({"v": 2}).in_proj_weight
    assert torch.equal(cut, torch.tensor([0.0, 1, 4, 5, 8, 9])[:, None].expand(6, 2))
    lstm = nn.LSTM(1, v(1, 2))
    with torch.no_grad():
        lstm.largest.weight_ih_l0.copy_(torch.arange(8.0)[:, None])
    assert lstm.freeze({"v": 1}).weight_ih_l0.flatten().tolist() == [0, 2, 4, 6]


def test_selected_batch_norm_updates_its_part_of_the_running_statistics() -> None:
    space = One("batch norm").double()
    supernet = Supernet(space)
    before = supernet.network.layer.largest.running_mean.clone()
    supernet.select({"v": 2, "m": 0.5})
    x = image(2)
    supernet(x)
    after = supernet.network.layer.largest.running_mean
    assert torch.allclose(after[:2], 0.5 * x.mean((0, 2, 3)))
    assert torch.equal(after[2:], before[2:])
    assert supernet.network.layer.largest.num_batches_tracked == 1


def test_a_choice_is_cut_on_the_device_of_the_weights() -> None:
    with torch.device("meta"):
        elsewhere = nn.Conv2d(2, v(2, 4), 3)
    assert elsewhere.freeze({"v": 2}).weight.is_meta
    assert elsewhere(torch.empty(1, 2, 6, 6, device="meta")).shape == (1, 2, 4, 4)
    here = nn.Conv2d(2, v(2, 4), 3)
    with torch.device("meta"):
        frozen = here.freeze({"v": 2})
    assert torch.equal(frozen.weight, here.largest.weight[:2])


def test_elastic_layers_hold_one_set_of_weights() -> None:
    supernet = Supernet(One("kernel").double())
    assert sum(p.numel() for p in supernet.parameters()) == 3 * 2 * 25 + 3


def test_heads_and_groups_need_not_divide_the_largest_size() -> None:
    attention = nn.MultiheadAttention(v(4, 6), v(2, 4, label="h"))
    assert attention.freeze({"v": 4, "h": 4}).num_heads == 4
    attention = nn.MultiheadAttention(v(6, 8), v(2, 3, label="h"))
    assert attention.freeze({"v": 6, "h": 3}).in_proj_weight.shape == (18, 6)
    norm = nn.GroupNorm(v(2, 3), v(4, 8, label="c"))
    assert norm.freeze({"v": 2, "c": 8}).num_groups == 2


@pytest.mark.parametrize(("width", "ratio"), list(itertools.product([4, 8], [1, 2, 3])))
def test_layers_joined_by_arithmetic_fit_each_other(width: int, ratio: int) -> None:
    class Inverted(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width, ratio = v(4, 8, label="width"), v(1, 2, 3, label="ratio")
            hidden = width * ratio
            self.layers = plain.Sequential(
                nn.Conv2d(2, width, 1),
                nn.Conv2d(width, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.Conv2d(hidden, hidden, 3, groups=hidden, padding=1),
                nn.Conv2d(hidden, width, 1),
                plain.Flatten(),
                nn.Linear(width * 36, 3),
            )

        def forward(self, x: Tensor) -> Any:
            return self.layers(x)

    space = Inverted().double()
    supernet, arch, x = Supernet(space), {"width": width, "ratio": ratio}, image(2)
    supernet.select(arch)
    assert torch.equal(supernet(x), supernet.freeze(arch)(x))
    assert supernet.freeze(arch).layers[3].groups == width * ratio
