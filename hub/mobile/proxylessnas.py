"""The ProxylessNAS space: inverted residuals of chosen kernel and expansion, stages of chosen depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from spacelang import LayerChoice, Repeat
from spacelang.errors import SpaceError

from ..operations.mobile_operations import (
    Style,
    conv_norm_act,
    initialise,
    inverted_residual,
    make_divisible,
    separable,
)
from ..published import PublishedSpace
from .mobile_layouts import converted_proxyless

OPERATIONS = {f"k{kernel}e{expand}": (kernel, expand) for expand in (3, 6) for kernel in (3, 5, 7)}
"""Candidates of a block by name: (kernel size, expand ratio)."""

STRIDES = {2: 2, 3: 2, 4: 2, 5: 1, 6: 2, 7: 1}
"""Stride of the first block of each searched stage."""


class ProxylessNAS(PublishedSpace):
    """The space of ProxylessNAS: six stages of inverted residuals with kernel 3, 5 or 7 and expansion 3 or 6.

    Decisions: `s{2..7}_depth`, 1 to 4 blocks (stage 7 always has one), and `s{stage}_i{block}`, a key of
    `OPERATIONS`. There are (6 + 6^2 + 6^3 + 6^4)^5 * 6 architectures. Every candidate has its own weights.
    Source: arXiv:1812.00332.

    Args:
        num_classes: Number of classes.
        base_widths: Channels of the stem, of stages 1 to 7, and of the last convolution; 9 in all.
        width_mult: Multiplies the widths, which are then made divisible by 8.
        dropout_rate: Dropout before the classifier.
        bn_eps: Epsilon of batch norms.
        bn_momentum: Momentum of batch norms.
        in_channels: Channels of the images.

    Raises:
        SpaceError: `base_widths` does not have 9 entries.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        base_widths: Sequence[int] = (32, 16, 32, 40, 80, 96, 192, 320, 1280),
        width_mult: float = 1.0,
        dropout_rate: float = 0.0,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(base_widths) != 9:
            raise SpaceError(
                "base_widths must list the channels of the stem, stages 1 to 7 and the last convolution, 9 "
                f"in all; got {len(base_widths)}: {base_widths!r}."
            )
        widths: list[int] = [make_divisible(width * width_mult) for width in base_widths]
        style = Style(partial(nn.ReLU6, inplace=True), bn_eps, bn_momentum)

        self.stem = conv_norm_act(in_channels, widths[0], 3, stride=2, style=style)
        first = separable(
            widths[0], widths[1], kernel=3, stride=1, residual=widths[0] == widths[1], style=style
        )
        self.blocks = nn.Sequential(first, *(_stage(stage, widths, style) for stage in STRIDES))
        self.feature_mix_layer = conv_norm_act(widths[7], widths[8], style=style)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout_rate)
        self.classifier = nn.Linear(widths[8], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, H, W) -> (B, num_classes)."""
        features = self.feature_mix_layer(self.blocks(self.stem(images)))
        logits: Tensor = self.classifier(self.dropout(self.pool(features).flatten(1)))
        return logits

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the authors or of NNI under the names of this network."""
        return converted_proxyless(weights, self.state_dict())


def _stage(stage: int, widths: list[int], style: Style) -> nn.Module:
    """Build the blocks of one stage; the first one changes width and size."""

    def block(index: int) -> nn.Module:
        in_channels = widths[stage - 1] if index == 0 else widths[stage]
        stride = STRIDES[stage] if index == 0 else 1
        candidates: dict[str, Callable[[], nn.Module]] = {
            name: partial(
                inverted_residual,
                in_channels,
                widths[stage],
                expand_ratio=expand,
                kernel=kernel,
                stride=stride,
                residual=stride == 1 and in_channels == widths[stage],
                style=style,
            )
            for name, (kernel, expand) in OPERATIONS.items()
        }
        return LayerChoice(candidates, label=f"s{stage}_i{index}")

    # Stage 7 has one block; its depth is a decision also, because published dicts name it.
    return Repeat(block, depth=(1, 4) if stage < 7 else (1, 1), label=f"s{stage}_depth")
