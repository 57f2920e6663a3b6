"""The MobileNetV3 space of TuNAS: widths, depths, expansions, kernels and squeeze-and-excite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from spacelang import LayerChoice, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, require_one_of

from ..operations.mobile_operations import (
    Size,
    SqueezeExcite,
    Style,
    conv_norm_act,
    initialise,
    inverted_residual,
    make_divisible,
    separable,
)
from ..published import PublishedSpace

SqueezeExciteRule = Literal["force", "optional", "none"]
Activation = Literal["hswish", "swish", "relu"]

KERNELS, STEM_KERNELS = (3, 5, 7), (3, 5)
ACTIVATIONS: dict[str, type[nn.Module]] = {"hswish": nn.Hardswish, "swish": nn.SiLU, "relu": nn.ReLU}
RULES = ("force", "optional", "none")


@dataclass(frozen=True)
class _Stage:
    """One stage; `same_width` tells that also its first block keeps the width."""

    index: int
    in_channels: Size
    out_channels: Size
    stride: int
    same_width: bool
    squeeze_excite: str
    style: Style


class MobileNetV3Space(PublishedSpace):
    """The largest space of TuNAS; its arguments narrow it to the space of MobileNetV3, Cream or once-for-all.

    The network is a stem, stage 0 (one separable block), stages 1, 2, ... of inverted residuals, and a head
    of two 1x1 convolutions around the pooling. Decisions: `stem_ks` and `s0_i0_ks`; `s{stage}_depth`; for
    each block `s{stage}_i{block}_ks`, `..._exp` and, where it is optional, `..._se` ("identity" or "se"); and
    `s{stage}_width_mult`, shared by stem and stage 0. Sizes are slices of shared weights. Dicts of Cream also
    name `s0_depth`, always 1; leave it out, because it is not a decision here.
    Sources: TuNAS, arXiv:2008.06120; MobileNetV3, arXiv:1905.02244.

    A block adds its input where stride and width allow it in every architecture; with searched widths the
    first block of stages 1, 2, ... never does.

    Args:
        num_classes: Number of classes.
        base_widths: Channels of the stem, of stages 0, 1, ... and of the head's two convolutions; n in all.
        width_multipliers: One number for all widths, or candidates for every stage; widths are made divisible
            by 8.
        expand_ratios: Candidates for every block.
        squeeze_excite: "force", "optional" or "none" for stages 0, 1, ...; n - 3 in all.
        depth_range: (min, max) blocks of stages 1, 2, ..., or n - 4 such pairs.
        stride: Strides of the stem, of the first block of each stage, and of the head's two convolutions; n
            in all.
        activation: "hswish", "swish" or "relu" for the same n places.
        dropout_rate: Dropout before the classifier.
        bn_eps: Epsilon of batch norms.
        bn_momentum: Momentum of batch norms.
        in_channels: Channels of the images.

    Raises:
        SpaceError: an argument has the wrong length or an unknown name; the message lists the legal ones.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        base_widths: Sequence[int] = (16, 16, 16, 32, 64, 128, 256, 512, 1024),
        width_multipliers: Sequence[float] | float = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0),
        expand_ratios: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        squeeze_excite: Sequence[SqueezeExciteRule] = (
            "none",
            "none",
            "optional",
            "none",
            "optional",
            "optional",
        ),
        depth_range: Sequence[int] | Sequence[Sequence[int]] = (1, 4),
        stride: Sequence[int] = (2, 1, 2, 2, 2, 1, 2, 1, 1),
        activation: Sequence[Activation] = (
            "hswish",
            "relu",
            "relu",
            "relu",
            "hswish",
            "hswish",
            "hswish",
            "hswish",
            "hswish",
        ),
        dropout_rate: float = 0.2,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check(base_widths, squeeze_excite, stride, activation)
        depths = _depths(depth_range, len(base_widths) - 4)
        fixed = isinstance(width_multipliers, int | float)
        widths = _widths(base_widths, width_multipliers)
        styles = [Style(partial(ACTIVATIONS[name], inplace=True), bn_eps, bn_momentum) for name in activation]
        stages = [
            _Stage(
                index,
                widths[index],
                widths[index + 1],
                stride[index + 1],
                base_widths[index] == base_widths[index + 1] and (fixed or index == 0),
                rule,
                styles[index + 1],
            )
            for index, rule in enumerate(squeeze_excite)
        ]
        stem_kernel = value_choice(STEM_KERNELS, label="stem_ks")
        self.stem = conv_norm_act(in_channels, widths[0], stem_kernel, stride[0], style=styles[0])
        self.blocks = nn.Sequential(
            _first_block(stages[0]),
            *(
                Repeat(
                    partial(_block, stage, tuple(expand_ratios)), depth=depth, label=f"s{stage.index}_depth"
                )
                for stage, depth in zip(stages[1:], depths, strict=True)
            ),
            conv_norm_act(widths[-3], widths[-2], 1, stride[-2], style=styles[-2]),
            nn.AdaptiveAvgPool2d(1),
            nn.Sequential(
                space_nn.Conv2d(widths[-2], widths[-1], 1, stride[-1]), styles[-1].activation()
            ),  # after the pooling, so without a norm and with a bias
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout_rate), space_nn.Linear(widths[-1], num_classes))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).flatten(1))
        return logits


def _first_block(stage: _Stage) -> nn.Module:
    return separable(
        stage.in_channels,
        stage.out_channels,
        kernel=value_choice(KERNELS, label="s0_i0_ks"),
        stride=stage.stride,
        residual=stage.stride == 1 and stage.same_width,
        style=stage.style,
        squeeze_excite=_squeeze_excite(stage, 0),
    )


def _block(stage: _Stage, expand_ratios: Sequence[float], index: int) -> nn.Module:
    """Build a block of a stage; only the first one changes width and size."""
    label = f"s{stage.index}_i{index}"
    first = index == 0
    return inverted_residual(
        stage.in_channels if first else stage.out_channels,
        stage.out_channels,
        expand_ratio=value_choice(expand_ratios, label=f"{label}_exp"),
        kernel=value_choice(KERNELS, label=f"{label}_ks"),
        stride=stage.stride if first else 1,
        residual=not first or (stage.stride == 1 and stage.same_width),
        style=stage.style,
        squeeze_excite=_squeeze_excite(stage, index),
    )


def _squeeze_excite(stage: _Stage, index: int) -> Any:
    """Return a function that builds a block's squeeze-and-excite from its channels, or None."""
    if stage.squeeze_excite == "none":
        return None
    if stage.squeeze_excite == "force":
        return SqueezeExcite
    label = f"s{stage.index}_i{index}_se"
    return lambda channels: LayerChoice(
        {"identity": nn.Identity, "se": partial(SqueezeExcite, channels)}, label=label
    )


def _widths(base_widths: Sequence[int], multipliers: Sequence[float] | float) -> list[Size]:
    """Return the channels of stem, stages and head; stem and stage 0 share a multiplier."""
    if isinstance(multipliers, int | float):
        return [make_divisible(width * multipliers) for width in base_widths]
    return [
        make_divisible(value_choice(multipliers, label=f"s{max(place - 1, 0)}_width_mult") * width)
        for place, width in enumerate(base_widths)
    ]


def _depths(depth_range: Sequence[Any], n_stages: int) -> list[tuple[int, int]]:
    """Return (min, max) of every stage with a chosen depth."""
    one_for_all = all(type(depth) is int for depth in depth_range)
    ranges = [depth_range] * n_stages if one_for_all else list(depth_range)
    legal = len(ranges) == n_stages and all(
        isinstance(r, Sequence) and len(r) == 2 and all(type(d) is int for d in r) and 1 <= r[0] <= r[1]
        for r in ranges
    )
    if not legal:
        raise SpaceError(
            f"depth_range must be (min, max) with 1 <= min <= max, or a list of {n_stages} such pairs; "
            f"got {depth_range!r}."
        )
    return [(low, high) for low, high in ranges]


def _check(
    base_widths: Sequence[int],
    squeeze_excite: Sequence[str],
    stride: Sequence[int],
    activation: Sequence[str],
) -> None:
    n = len(base_widths)
    if n < 5:
        raise SpaceError(
            f"base_widths must have at least 5 entries (stem, 2 stages, 2 head convolutions); got {n}."
        )
    lengths = (
        ("squeeze_excite", squeeze_excite, n - 3),
        ("stride", stride, n),
        ("activation", activation, n),
    )
    for name, given, expected in lengths:
        if len(given) != expected:
            raise SpaceError(
                f"{name} needs {expected} entries for {n} base_widths; got {len(given)}: {given!r}."
            )
    for name, values, known in (
        ("squeeze_excite", squeeze_excite, RULES),
        ("activation", activation, tuple(ACTIVATIONS)),
        ("stride", stride, (1, 2)),
    ):
        for value in values:
            require_one_of(f"an entry of {name}", value, known)
