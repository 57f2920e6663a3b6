"""The space of single-path one-shot search (SPOS): shuffle blocks and the channels inside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from spacelang import LayerChoice, value_choice
from spacelang.errors import SpaceError

from ..operations.mobile_operations import initialise, shuffle_block
from ..published import PublishedSpace
from .mobile_layouts import converted_shuffle

OPERATIONS: dict[str, dict[str, Any]] = {
    "k3": {"kernel": 3},
    "k5": {"kernel": 5},
    "k7": {"kernel": 7},
    "xcep": {"kernel": 3, "xception": True},
}
"""Candidates of a block by name, as arguments of `shuffle_block`."""

STAGES = ((64, 4), (160, 4), (320, 8), (640, 4))
STEM_CHANNELS, LAST_CHANNELS = 16, 1024


class ShuffleNetSpace(PublishedSpace):
    """The space of SPOS: 20 shuffle blocks, each with a 3x3, 5x5 or 7x7 kernel or of the Xception form.

    Decisions: `layer_{i}`, counted from 1, a key of `OPERATIONS`; with `channel_search` also `channel_{i}`,
    the channels inside the block, 0.2 to 1.6 times half its output. There are 4^20 architectures, and 32^20
    with channels. Source: arXiv:1904.00420.

    Args:
        num_classes: Number of classes.
        channel_search: Whether to search the channels inside the blocks also.
        affine: Whether batch norms of the blocks and of the last convolution have parameters; SPOS trains its
            supernet without.
        dropout_rate: Dropout before the classifier, which has no bias.
        in_channels: Channels of the images.
        stages: (channels, blocks) of each stage; its first block has stride 2.

    Raises:
        SpaceError: a stage has no block, or its channels are odd or not more than the channels before it (16
            before the first).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        channel_search: bool = False,
        affine: bool = True,
        dropout_rate: float = 0.1,
        in_channels: int = 3,
        stages: Sequence[tuple[int, int]] = STAGES,
    ) -> None:
        super().__init__()
        _check(stages)
        self.first_conv = _conv(in_channels, STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for out_channels, repeats in stages:
            for index in range(repeats):
                stride = 2 if index == 0 else 1
                blocks.append(_block(len(blocks) + 1, channels, out_channels, stride, channel_search, affine))
                channels = out_channels
        self.features = nn.Sequential(*blocks)
        self.conv_last = _conv(channels, LAST_CHANNELS, 1, affine=affine)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout_rate)
        self.classifier = nn.Linear(LAST_CHANNELS, num_classes, bias=False)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, H, W) -> (B, num_classes)."""
        features = self.conv_last(self.features(self.first_conv(images)))
        logits: Tensor = self.classifier(self.dropout(self.pool(features).flatten(1)))
        return logits

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the authors or of NNI under the names of this network."""
        return converted_shuffle(weights)


def _check(stages: Sequence[tuple[int, int]]) -> None:
    channels = STEM_CHANNELS
    for out_channels, repeats in stages:
        if out_channels <= channels or out_channels % 2 or repeats < 1:
            raise SpaceError(
                f"stages are (channels, blocks), channels even and more than the {channels} before; got "
                f"({out_channels!r}, {repeats!r})."
            )
        channels = out_channels


def _block(
    number: int, in_channels: int, out_channels: int, stride: int, channel_search: bool, affine: bool
) -> nn.Module:
    half = out_channels // 2
    mid_channels: Any = half
    if channel_search:
        mid_channels = value_choice([half * fifths // 5 for fifths in range(1, 9)], label=f"channel_{number}")
    candidates: dict[str, Callable[[], nn.Module]] = {
        name: partial(
            shuffle_block, in_channels, out_channels, mid_channels, stride=stride, affine=affine, **arguments
        )
        for name, arguments in OPERATIONS.items()
    }
    return LayerChoice(candidates, label=f"layer_{number}")


def _conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, affine: bool = True
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, affine=affine), nn.ReLU(inplace=True))
