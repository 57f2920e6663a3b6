"""The macro space of ENAS: a chain of layers with skip connections."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from spacelang import LayerChoice
from spacelang.errors import SpaceError, require_integer

from ..images import Dataset, resolve_images
from ..operations.cell_operations import Zero, cifar_stem, factorized_reduce, make_operation
from ..published import PublishedSpace

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")


class ENASMacro(PublishedSpace):
    """A chain of layers with six operations; a layer may add the outputs of any earlier layers to its own.

    Decisions are `layer_{i}/op`, and `layer_{i}/skip_{j}`, which is 1 when layer i adds the output of layer
    j. After a third and two thirds of the layers the map and every earlier output are halved. All layers have
    the same channels, as in the paper's weight-sharing search. Source: arXiv:1802.03268, section 2.3.

    Args:
        width: Channels of every layer, an even number.
        num_layers: Number of layers, at least 3.
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: Overrides the dataset's.
        dropout: Probability of dropping a feature before the classifier.
        affine: Whether batch norms have parameters.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        width: int = 36,
        num_layers: int = 12,
        dataset: Dataset = "cifar",
        *,
        num_classes: int | None = None,
        dropout: float = 0.0,
        affine: bool = True,
    ) -> None:
        super().__init__()
        require_integer("width", width, least=1)
        require_integer("num_layers", num_layers, least=3)
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError("ENASMacro has no stem for 'imagenet'; pass dataset=(channels, size, classes).")
        self.reductions = tuple(third * (num_layers // 3) - 1 for third in (1, 2))
        self.stem = cifar_stem(data.channels, width)
        self.layers = nn.ModuleList(MacroLayer(index, width, affine) for index in range(num_layers))
        # A later layer may read every layer up to here, so every one of their maps is halved.
        self.reduce = nn.ModuleList(
            nn.ModuleList(factorized_reduce(width, width, affine) for _ in range(index + 1))
            for index in self.reductions
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        x = self.stem(images)
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x = layer(x, outputs)
            outputs.append(x)
            if index in self.reductions:
                halve = self.reduce[self.reductions.index(index)]
                outputs = [reduce(y) for reduce, y in zip(halve.children(), outputs, strict=True)]
                x = outputs[-1]
        logits: Tensor = self.classifier(self.dropout(self.pool(x).flatten(1)))
        return logits


class MacroLayer(nn.Module):
    """One operation, plus the outputs of the earlier layers that it skips to, normalised.

    (B, C, H, W) and the earlier outputs, each (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, index: int, width: int, affine: bool) -> None:
        super().__init__()
        self.operation = LayerChoice(
            {name: partial(make_operation, name, width, 1, affine=affine) for name in OPERATIONS},
            label=f"layer_{index}/op",
        )
        labels = (f"layer_{index}/skip_{earlier}" for earlier in range(index))
        self.skips = nn.ModuleList(LayerChoice([Zero, nn.Identity], label=label) for label in labels)
        self.norm = nn.BatchNorm2d(width, affine=affine)

    def forward(self, x: Tensor, earlier: list[Tensor]) -> Tensor:
        """Return the normalised sum."""
        total = self.operation(x)
        for skip, output in zip(self.skips, earlier, strict=True):
            if not isinstance(skip, Zero):
                total = total + skip(output)
        y: Tensor = self.norm(total)
        return y
