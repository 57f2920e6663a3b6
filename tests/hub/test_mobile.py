"""The mobile spaces: exact counts, sizes, both ways to a model, published networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from spacelang import ModelSpace, SpaceError, Supernet, hub, model_context, profile
from spacelang.hub import MobileNetV3Space, ProxylessNAS, ShuffleNetSpace
from spacelang.hub.mobile import proxylessnas as proxylessnas_module
from spacelang.hub.operations.mobile_operations import (
    Residual,
    SqueezeExcite,
    inverted_residual,
    make_divisible,
)
from spacelang.hub.published import read_entry

from ..toys.hub import SMALL, small_space
from .networks import Tally, n_macs, n_parameters, one_hot, use_statistics_of

pytestmark = pytest.mark.slow

CLASSES: dict[str, type[ModelSpace]] = {
    "ProxylessNAS": ProxylessNAS,
    "MobileNetV3Space": MobileNetV3Space,
    "ShuffleNetSpace": ShuffleNetSpace,
}
NAMES = [name for name in hub.list_models() if read_entry(name).space in CLASSES]

# (name, parameters, image size, multiply-accumulates) as measured on other code bases.
PUBLISHED = [
    ("spos", 3_558_464, 224, 322_918_720),
    ("acenas-m1", 4_093_864, 224, 327_351_872),
    ("acenas-m3", 4_076_448, 224, 329_242_880),
    ("proxyless-cpu", 4_361_648, 224, None),
    ("proxyless-gpu", 7_119_848, 224, 465_260_160),
    ("proxyless-mobile", 4_080_512, 224, 320_427_584),
    ("mobilenetv3-large-100", 5_483_032, 224, 216_589_760),
    ("mobilenetv3-small-050", 1_593_224, 224, 24_188_688),
    ("mobilenetv3-small-100", 2_542_856, 224, 56_510_400),
    ("cream-014", 2_673_096, 224, 137_247_488),
    ("cream-014", 2_673_096, 64, 13_188_608),
    ("cream-043", None, 96, 40_655_232),
    ("cream-114", 4_410_120, 224, 211_832_192),
    ("cream-114", 4_410_120, 160, 109_623_680),
    ("cream-481", 7_713_360, 224, 460_398_080),
]


@cache
def wide(name: str) -> ModelSpace:
    with torch.device("meta"):
        return CLASSES[name](num_classes=10)


def build(space: type[ModelSpace], arch: dict[str, Any], **arguments: Any) -> ModelSpace:
    with warnings.catch_warnings(), model_context(arch):
        warnings.simplefilter("error")  # labels no choice asks for
        return space(**arguments)


# -- counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters", "size", "macs"), PUBLISHED)
def test_counts_that_other_code_bases_report(
    name: str, parameters: int | None, size: int, macs: int | None
) -> None:
    with torch.device("meta"):
        model = hub.load(name)
    assert parameters in (None, n_parameters(model))
    assert macs in (None, n_macs(model, 3, size, size))


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_the_entries(name: str) -> None:
    entry = read_entry(name)
    assert entry.counts
    for row in entry.counts:
        with torch.device("meta"):
            model = hub.load(name, **row["arguments"])
        assert n_parameters(model) == row["parameters"]
        assert n_macs(model, *row["image"]) == row["macs"]
        tally = CLOSED_FORMS[entry.space](dict(entry.architecture), row["image"][1], 1000, **entry.arguments)
        assert (tally.parameters, tally.macs) == (row["parameters"], row["macs"])


def test_every_published_architecture_has_an_entry() -> None:
    assert set(NAMES) == {
        *(
            "spos",
            "acenas-m1",
            "acenas-m2",
            "acenas-m3",
            "proxyless-cpu",
            "proxyless-gpu",
            "proxyless-mobile",
        ),
        *("mobilenetv3-large-100", "mobilenetv3-small-050", "mobilenetv3-small-075", "mobilenetv3-small-100"),
        *("cream-014", "cream-043", "cream-114", "cream-287", "cream-481", "cream-604"),
    }


def halved(size: int, stride: int) -> int:
    return -(-size // stride)


def divisible(size: float) -> int:
    rounded = max(8, int(size + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * size else rounded


def mbconv(
    tally: Tally, size: int, channels: int, expanded: int | None, out: int, kernel: int, stride: int, se: bool
) -> int:
    """Write down an inverted residual (`expanded=None`: a separable block); returns the new image size."""
    if expanded is not None:
        tally.conv(channels, expanded, 1, size)
        channels = expanded
    size = halved(size, stride)
    tally.conv(channels, channels, kernel, size, groups=channels)
    if se:
        tally.conv(channels, divisible(channels / 4), 1, 1, norm=False, bias=True)
        tally.conv(divisible(channels / 4), channels, 1, 1, norm=False, bias=True)
    tally.conv(channels, out, 1, size)
    return size


def proxylessnas_tally(
    arch: dict[str, Any],
    size: int,
    classes: int,
    base_widths: tuple[int, ...] = (32, 16, 32, 40, 80, 96, 192, 320, 1280),
) -> Tally:
    tally, size = Tally(), halved(size, 2)
    tally.conv(3, base_widths[0], 3, size)
    size = mbconv(tally, size, base_widths[0], None, base_widths[1], 3, 1, False)
    channels = base_widths[1]
    for stage, stride in zip(range(2, 8), (2, 2, 2, 1, 2, 1), strict=True):
        for index in range(arch[f"s{stage}_depth"]):
            kernel, expand = (int(arch[f"s{stage}_i{index}"][k]) for k in (1, 3))
            first_stride = stride if index == 0 else 1
            expanded, out = channels * expand, base_widths[stage]
            size = mbconv(tally, size, channels, expanded, out, kernel, first_stride, False)
            channels = out
    tally.conv(channels, base_widths[8], 1, size)
    tally.linear(base_widths[8], classes)
    return tally


def mobilenetv3_tally(
    arch: dict[str, Any],
    size: int,
    classes: int,
    *,
    base_widths: tuple[int, ...] = (16, 16, 16, 32, 64, 128, 256, 512, 1024),
    stride: tuple[int, ...] = (2, 1, 2, 2, 2, 1, 2, 1, 1),
    squeeze_excite: tuple[str, ...] = ("none", "none", "optional", "none", "optional", "optional"),
    in_channels: int = 3,
    **rest: Any,
) -> Tally:
    widths = [
        divisible(width * arch.get(f"s{max(place - 1, 0)}_width_mult", 1.0))
        for place, width in enumerate(base_widths)
    ]
    tally, size = Tally(), halved(size, stride[0])
    tally.conv(in_channels, widths[0], arch["stem_ks"], size)
    channels = widths[0]
    for stage, rule in enumerate(squeeze_excite):
        for index in range(arch[f"s{stage}_depth"] if stage else 1):
            label, out = f"s{stage}_i{index}", widths[stage + 1]
            se = rule == "force" or (rule == "optional" and arch[f"{label}_se"] == "se")
            expanded = divisible(channels * arch[f"{label}_exp"]) if stage else None
            first_stride = stride[stage + 1] if index == 0 else 1
            size = mbconv(tally, size, channels, expanded, out, arch[f"{label}_ks"], first_stride, se)
            channels = out
    tally.conv(channels, widths[-2], 1, size)
    tally.conv(widths[-2], widths[-1], 1, 1, norm=False, bias=True)
    tally.linear(widths[-1], classes)
    return tally


def shufflenet_tally(
    arch: dict[str, Any], size: int, classes: int, in_channels: int = 3, **rest: Any
) -> Tally:
    tally, size, channels, number = Tally(), halved(size, 2), 16, 0
    tally.conv(in_channels, 16, 3, size)
    for out, repeats in ((64, 4), (160, 4), (320, 8), (640, 4)):
        for index in range(repeats):
            number += 1
            stride, branch = (2, channels) if index == 0 else (1, channels // 2)
            after, mid = halved(size, stride), arch.get(f"channel_{number}", out // 2)
            name = arch[f"layer_{number}"]
            kernel = 3 if name == "xcep" else int(name[1])
            if name == "xcep":
                for inside, outside in ((branch, mid), (mid, mid), (mid, out - branch)):
                    tally.conv(inside, inside, 3, after, groups=inside)
                    tally.conv(inside, outside, 1, after)
            else:
                tally.conv(branch, mid, 1, size)
                tally.conv(mid, mid, kernel, after, groups=mid)
                tally.conv(mid, out - branch, 1, after)
            if stride == 2:
                tally.conv(branch, branch, kernel, after, groups=branch)
                tally.conv(branch, branch, 1, after)
            size, channels = after, out
    tally.conv(channels, 1024, 1, size)
    tally.linear(1024, classes, bias=False)
    return tally


CLOSED_FORMS: dict[str, Callable[..., Tally]] = {
    "ProxylessNAS": proxylessnas_tally,
    "MobileNetV3Space": mobilenetv3_tally,
    "ShuffleNetSpace": shufflenet_tally,
}


@pytest.mark.parametrize("name", CLASSES)
def test_random_architectures_have_their_closed_form_counts(name: str) -> None:
    space, rng = wide(name), np.random.default_rng(1)
    for index, arch in enumerate([space.default(), *(space.sample(rng) for _ in range(20))]):
        with torch.device("meta"):
            model = build(CLASSES[name], arch, num_classes=10)
        tally = CLOSED_FORMS[name](arch, 64, 10)
        assert n_parameters(model) == tally.parameters
        if index < 2:
            cost = profile(model, torch.empty(1, 3, 64, 64))
            assert (cost.parameters, cost.macs) == (tally.parameters, tally.macs)


# -- spaces ----------------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert wide("ProxylessNAS").size() == (6 + 6**2 + 6**3 + 6**4) ** 5 * 6
    assert wide("ShuffleNetSpace").size() == 4**20
    with torch.device("meta"):
        assert ShuffleNetSpace(channel_search=True).size() == 32**20
    stage = {
        options: options + options**2 + options**3 + options**4 for options in (6 * 3, 6 * 3 * 2)
    }  # expansion, kernel, and squeeze-and-excite where it is optional
    assert wide("MobileNetV3Space").size() == 7**8 * 2 * 3 * stage[18] ** 2 * stage[36] ** 3


def test_the_once_for_all_space_is_a_part_of_it() -> None:
    with torch.device("meta"):
        space = MobileNetV3Space(width_multipliers=1.0, expand_ratios=(3, 4, 6), squeeze_excite=["force"] * 6)
        narrowed = MobileNetV3Space(
            width_multipliers=1.0, expand_ratios=(3, 4, 6), squeeze_excite=["force"] * 6, depth_range=(2, 4)
        )
    assert narrowed.size() == 2 * 3 * 7371**5  # kernels of the stem and of stage 0, then 5 units
    assert space.size() == 2 * 3 * (9 + 7371) ** 5


def test_labels_are_those_of_published_dicts() -> None:
    assert [d.label for d in wide("ProxylessNAS").decisions if d.label.startswith("s7")] == [
        "s7_depth",
        "s7_i0",
    ]
    assert [d.label for d in wide("ShuffleNetSpace").decisions] == [f"layer_{i}" for i in range(1, 21)]
    labels = {decision.label for decision in wide("MobileNetV3Space").decisions}
    assert {"stem_ks", "s0_i0_ks", "s1_depth", "s5_i3_exp", "s5_i3_ks", "s5_i3_se", "s7_width_mult"} <= labels
    assert not {"s0_depth", "s0_i0_exp", "s1_i0_se", "s8_width_mult"} & labels


@pytest.mark.parametrize("name", ["MobileNetV3Space", "MobileNetV3Space-fixed"])
def test_a_mixture_with_one_candidate_each_is_the_frozen_network(name: str) -> None:
    space, (x,) = small_space(name), SMALL[name].inputs()
    supernet = Supernet(space, memory_format=None)
    assert supernet.soft_refusals() == []
    arch = space.sample(np.random.default_rng(6))
    frozen = supernet.freeze(arch)
    supernet.set_mixture(one_hot(supernet, arch))
    torch.testing.assert_close(supernet(x), frozen(x), rtol=0, atol=1e-6)  # padding reorders sums


def test_model_context_builds_chosen_blocks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    built = 0

    def counted(*args: Any, **kwargs: Any) -> nn.Module:
        nonlocal built
        built += 1
        return inverted_residual(*args, **kwargs)

    monkeypatch.setattr(proxylessnas_module, "inverted_residual", counted)
    with torch.device("meta"):
        hub.load("proxyless-gpu")
        assert built == 1 + 2 + 2 + 3 + 4 + 1
        built = 0
        ProxylessNAS()
    assert built == 6 * (5 * 4 + 1)


# -- published networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_published_architectures_run(name: str) -> None:
    entry = read_entry(name)
    with torch.device("meta"):
        space = CLASSES[entry.space](**entry.arguments)
    assert space.canonical(entry.architecture) == dict(entry.architecture)
    torch.manual_seed(4)
    model = CLASSES[entry.space].load_searched_model(name, num_classes=10)  # type: ignore[attr-defined]
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mobilenetv3-large-100", torchvision.models.mobilenet_v3_large),
        ("mobilenetv3-small-100", torchvision.models.mobilenet_v3_small),
    ],
)
def test_mobilenetv3_computes_what_torchvision_computes(
    name: str, reference: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(5)
    theirs = reference()
    x = torch.randn(4, 3, 64, 64)
    use_statistics_of(theirs, x)
    ours = hub.load(name, bn_eps=1e-3)  # as torchvision has it
    own, given = ours.state_dict(), theirs.state_dict()
    ours.load_state_dict(
        {key: value.reshape(own[key].shape) for key, value in zip(own, given.values(), strict=True)}
    )
    expected = theirs.eval()(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours.eval()(x), expected)


def test_a_shuffle_block_shuffles() -> None:
    """At stride 1 the even channels pass, the odd ones are transformed: a channel shuffle and a split."""
    space: Any = small_space("ShuffleNetSpace")
    block = space.freeze(space.default()).features[2].eval()
    x = torch.randn(2, 30, 4, 4, dtype=torch.float64)
    shuffled = x.view(2, 15, 2, 4, 4).transpose(1, 2).reshape(2, 30, 4, 4)
    y = block(x)
    assert torch.equal(y[:, :15], shuffled[:, :15])
    assert torch.equal(y[:, 15:], block.branch_main(shuffled[:, 15:]))


def test_residuals() -> None:
    def residuals(model: Any) -> list[list[bool]]:
        return [[isinstance(block, Residual) for block in stage] for stage in model.blocks[1:-3]]

    with torch.device("meta"):
        large = hub.load("mobilenetv3-large-100")
        assert isinstance(large.blocks[0], Residual)  # 16 -> 16, stride 1
        assert residuals(large) == [
            [False, True],
            [False, True, True],
            [False, True, True, True],
            [False, True],
            [False, True, True],
        ]
    space = small_space("MobileNetV3Space-fixed")
    stages = residuals(space.freeze(space.default()))
    assert [stage[0] for stage in stages] == [False, True, True, False]


def test_make_divisible() -> None:
    assert [make_divisible(size) for size in (1, 12, 18, 58.72, 60, 67)] == [8, 16, 24, 56, 64, 64]
    for size in [*range(1, 3000), *np.arange(1, 300, 0.01)]:
        assert make_divisible(size) == divisible(size)


def test_squeeze_excite_scales_channels() -> None:
    layer = SqueezeExcite(16)
    x = torch.randn(2, 16, 3, 3)
    scale = layer(x) / x
    torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(scale))
    assert ((scale >= 0) & (scale <= 1)).all()


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_widths": (16, 16, 16, 16)}, "at least 5 entries"),
        ({"stride": (2, 1)}, "stride needs 9 entries for 9 base_widths; got 2"),
        ({"squeeze_excite": ("force",) * 5}, "squeeze_excite needs 6 entries"),
        ({"squeeze_excite": ("fore",) * 6}, "squeeze_excite='fore' must be one of .* Closest: 'force'"),
        ({"activation": ("gelu",) * 9}, "an entry of activation='gelu' must be one of 'hswish'"),
        ({"stride": (3,) * 9}, "an entry of stride=3 must be one of 1, 2"),
        ({"depth_range": (0, 4)}, r"depth_range must be .* or a list of 5 such pairs"),
        ({"depth_range": [(1, 2)] * 4}, r"depth_range must be"),
        ({"depth_range": (1, 2, 3)}, r"depth_range must be"),
    ],
)
def test_wrong_arguments_of_mobilenetv3(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message), torch.device("meta"):
        MobileNetV3Space(**arguments)


@pytest.mark.parametrize("stages", [((16, 1),), ((21, 1),), ((20, 0),), ((40, 1), (20, 1))])
def test_wrong_stages_of_shufflenet(stages: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(SpaceError, match=r"stages are \(channels, blocks\), channels even and more than"):
        ShuffleNetSpace(stages=stages)


def test_wrong_arguments_of_proxylessnas() -> None:
    with pytest.raises(SpaceError, match=r"9 in all; got 3"):
        ProxylessNAS(base_widths=(8, 8, 8))


def test_an_architecture_of_another_space_is_refused() -> None:
    with pytest.raises(SpaceError, match="'spos' is an architecture of ShuffleNetSpace, not of ProxylessNAS"):
        ProxylessNAS.load_searched_model("spos")
    with pytest.raises(SpaceError, match=r"no weights are published for 'spos'"):
        ShuffleNetSpace.load_searched_model("spos", pretrained=True)
