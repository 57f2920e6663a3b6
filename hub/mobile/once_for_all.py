"""The space of once-for-all networks: MobileNetV3 with elastic kernel, depth and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from spacelang import Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError

from ..operations.elastic_kernel import TransformedConv2d
from ..operations.mobile_operations import (
    SqueezeExcite,
    Style,
    conv_norm_act,
    initialise,
    inverted_residual,
    make_divisible,
    separable,
)
from ..published import PublishedSpace
from .mobile_layouts import converted_once_for_all, once_for_all_architecture

WIDTHS = (16, 24, 40, 80, 112, 160, 960, 1280)
"""Channels of the stem and the first block, of units 1 to 5, and of the head's two convolutions."""


@dataclass(frozen=True)
class _Unit:
    """Blocks of one width; the first of them has the stride."""

    stride: int
    squeeze_excite: bool
    activation: type[nn.Module]


UNITS = (
    _Unit(2, False, nn.ReLU),
    _Unit(2, True, nn.ReLU),
    _Unit(2, False, nn.Hardswish),
    _Unit(1, True, nn.Hardswish),
    _Unit(2, True, nn.Hardswish),
)


class OnceForAll(PublishedSpace):
    """The space of once-for-all networks: MobileNetV3 with kernels, depths and widths to choose.

    The network is a stem, one separable block, five units of inverted residuals, and a head of two 1x1
    convolutions around the pooling. Decisions: `s{unit}_depth`, and for each block `s{unit}_i{block}_ks` and
    `..._exp`. A depth takes the first blocks of a unit, an expansion the first channels, and a kernel is a
    learned transformation of the centre of the next larger one. Image sizes are those of the data.
    `ProgressiveShrinking` trains it; it has 7,371^5 architectures.

    Sources: once-for-all, arXiv:1908.09791; the table of layers as in the authors' code.

    Args:
        num_classes: Number of classes.
        width_multiplier: Multiplies all widths, which are then made divisible by 8.
        kernel_sizes: Odd candidates for the kernel of every block.
        expand_ratios: Candidates for the expansion of every block.
        depths: Candidates for the number of blocks of every unit.
        transform_kernels: Whether smaller kernels are transformed; otherwise they are centres of larger ones.
        dropout_rate: Dropout before the classifier.
        bn_eps: Epsilon of batch norms.
        bn_momentum: Momentum of batch norms.
        in_channels: Channels of the images.

    Raises:
        SpaceError: a kernel size is even.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        width_multiplier: float = 1.0,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        expand_ratios: Sequence[float] = (3, 4, 6),
        depths: Sequence[int] = (2, 3, 4),
        transform_kernels: bool = True,
        dropout_rate: float = 0.1,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if any(size % 2 == 0 for size in kernel_sizes):
            raise SpaceError(f"kernel_sizes={tuple(kernel_sizes)} must be odd: kernels have a centre.")
        first, *widths, mixed, features = (make_divisible(width * width_multiplier) for width in WIDTHS)
        style = partial(
            Style,
            eps=bn_eps,
            momentum=bn_momentum,
            depthwise=TransformedConv2d if transform_kernels else space_nn.Conv2d,
        )
        activation = partial(nn.Hardswish, inplace=True)

        def unit(index: int, inputs: int, outputs: int) -> nn.Module:
            kind = UNITS[index]

            def block(place: int) -> nn.Module:
                channels, stride = (inputs, kind.stride) if place == 0 else (outputs, 1)
                label = f"s{index + 1}_i{place}"
                return inverted_residual(
                    channels,
                    outputs,
                    expand_ratio=value_choice(expand_ratios, label=f"{label}_exp"),
                    kernel=value_choice(kernel_sizes, label=f"{label}_ks"),
                    stride=stride,
                    residual=stride == 1 and channels == outputs,
                    style=style(partial(kind.activation, inplace=True)),
                    squeeze_excite=SqueezeExcite if kind.squeeze_excite else None,
                )

            return Repeat(block, depth=value_choice(depths, label=f"s{index + 1}_depth"))

        self.stem = conv_norm_act(in_channels, first, 3, 2, style=style(activation))
        self.blocks = nn.Sequential(
            separable(
                *(first, first),
                kernel=3,
                stride=1,
                residual=True,
                style=style(partial(nn.ReLU, inplace=True)),
            ),
            *(unit(i, *pair) for i, pair in enumerate(zip((first, *widths), widths, strict=False))),
        )
        self.head = nn.Sequential(
            conv_norm_act(widths[-1], mixed, style=style(activation)),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(mixed, features, 1, bias=False),
            activation(),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout_rate), nn.Linear(features, num_classes))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(images))))
        return logits

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a supernet of the authors under the names of this space, or a network under those of it."""
        return converted_once_for_all(weights, self.state_dict())

    @classmethod
    def arguments_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the number of classes and the multiplier of widths that shapes tell."""
        arguments = super().arguments_of(weights)
        heads = [
            weights[name] for name in ("classifier.linear.weight", "classifier.1.weight") if name in weights
        ]
        return {**arguments, "width_multiplier": heads[0].shape[1] / WIDTHS[-1]} if heads else arguments

    @classmethod
    def architecture_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return the architecture of one of the authors' networks."""
        return once_for_all_architecture(weights)

    @property
    def largest(self) -> dict[str, Any]:
        """Architecture of the largest network."""
        return {d.label: max(d.values()) for d in self.decisions}
