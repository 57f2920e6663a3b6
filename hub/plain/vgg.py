"""The space of VGG networks: stages of 3x3 convolutions with a pooling after each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from spacelang import Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, require_integer, require_number

from ..images import Dataset, resolve_images
from ..operations.mobile_operations import Size, make_divisible
from ..published import PublishedSpace

WIDTHS = (64, 128, 256, 512, 512)


class VGG(PublishedSpace):
    """Stages of 3x3 convolutions with a pooling after each, and three linear layers, as in VGG-11 to VGG-19.

    Decisions are `s{stage}_depth`, the number of convolutions, and `s{stage}_width_mult`. A depth takes the
    first convolutions of a stage, and a width the first channels.

    Args:
        dataset: "imagenet", "cifar" or (channels, size, classes) of square images.
        num_classes: Overrides the dataset's.
        widths: Channels of the stages.
        width_multipliers: One number for all stages, or candidates for each; widths are made divisible by 8.
        depths: Candidates for the number of convolutions of each stage.
        batch_norm: Whether a batch norm follows every convolution.
        hidden: Features of the two hidden linear layers.
        pooled: Size to which the last map is averaged, 7 in the paper; by default 7 for "imagenet", else 1.
        dropout: Dropout after both hidden layers.

    Raises:
        SpaceError: an argument is out of range, or the image is too small for so many stages.

    Source: K. Simonyan and A. Zisserman 2015, arXiv:1409.1556.
    """

    def __init__(
        self,
        dataset: Dataset = "imagenet",
        *,
        num_classes: int | None = None,
        widths: Sequence[int] = WIDTHS,
        width_multipliers: Sequence[float] | float = (0.25, 0.5, 0.75, 1.0),
        depths: Sequence[int] = (1, 2, 3, 4),
        batch_norm: bool = False,
        hidden: int = 4096,
        pooled: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_integer("hidden", hidden, least=1)
        require_integer("pooled", pooled, least=1, optional=True)
        require_number("dropout", dropout, least=0, below=1)
        data = resolve_images(dataset, num_classes)
        if data.size < 2 ** len(widths):
            raise SpaceError(
                f"{len(widths)} stages halve images of {data.size} pixels too often; pass widths= of at most "
                f"{data.size.bit_length() - 1} entries."
            )
        size = pooled or (7 if data.imagenet else 1)
        channels: Size = data.channels
        stages: list[nn.Module] = []
        for stage, width in enumerate(widths):
            outputs = _width(width, width_multipliers, f"s{stage}_width_mult")
            depth = value_choice(depths, label=f"s{stage}_depth")
            stages += [Repeat(partial(_layer, channels, outputs, batch_norm), depth=depth), nn.MaxPool2d(2)]
            channels = outputs
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.classifier = nn.Sequential(
            nn.Flatten(1),
            space_nn.Linear(channels * size**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, data.num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(images)))
        return logits

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of torchvision under the names of this network: its order is the same."""
        own = self.state_dict()
        if "features.0.weight" not in weights or len(weights) != len(own):
            return dict(weights)
        return dict(zip(own, weights.values(), strict=True))


def _width(width: int, multipliers: Sequence[float] | float, label: str) -> Size:
    if isinstance(multipliers, int | float):
        return make_divisible(width * multipliers)
    return make_divisible(value_choice(multipliers, label=label) * width)


def _layer(inputs: Size, outputs: Size, batch_norm: bool, place: int) -> nn.Sequential:
    """Build a convolution of a stage, (B, C, H, W) -> (B, C_out, H, W); only the first changes channels."""
    conv = space_nn.Conv2d(inputs if place == 0 else outputs, outputs, 3, padding=1)
    norm = [space_nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))
