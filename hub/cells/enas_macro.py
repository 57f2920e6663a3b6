"""The macro space of ENAS: a chain of layers with skip connections."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from spacelang import LayerChoice
from spacelang.errors import SpaceError

from ..images import Dataset, check_positive, resolve_images
from ..operations.cell_operations import Zero, cifar_stem, factorized_reduce, make_operation
from ..published import PublishedSpace

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")


class ENASMacro(PublishedSpace):
    """Layers of six operations; each adds the outputs of any earlier layers to its own.

    Decisions are `layer_{i}/op`, and `layer_{i}/skip_{j}`, 1 when layer i adds the output of layer j. After a
    third and two thirds of the layers the map is halved, and with it every earlier output. Channels stay the
    same, as in the paper's weight-sharing search. Source: arXiv:1802.03268, section 2.3.

    Args:
        width: channels of every layer, even.
        num_layers: number of layers, at least 3.
        dataset: "cifar" or (channels, size, classes) of square images.
        num_classes: overrides the dataset's.
        dropout: probability of dropping a feature before the classifier.
        affine: batch norms have parameters.

    Raises:
        SpaceError: an argument is out of range; says what is legal.
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
        check_positive("width", width)
        check_positive("num_layers", num_layers)
        if num_layers < 3:
            raise SpaceError(f"num_layers must be at least 3, got {num_layers}.")
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError("ENASMacro has no stem for 'imagenet'; give (channels, size, classes).")
        self.reductions = tuple(third * (num_layers // 3) - 1 for third in (1, 2))
        self.stem = cifar_stem(data.channels, width)
        self.layers = nn.ModuleList(MacroLayer(index, width, affine) for index in range(num_layers))
        # The map is halved for everything a later layer may read: the layers up to here.
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
    """One operation, plus the outputs of earlier layers where it skips to them, normalised.

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
