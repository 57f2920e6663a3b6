"""The space of ZO-DARTS++: cells of NAS-Bench-201 that differ by stage, with kernels and depths to choose."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from spacelang import ModelSpace, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, require_integer

from ..images import Dataset, resolve_images
from ..operations.cell_operations import cifar_stem, make_operation
from .nasbench201 import STAGES, EdgeCell, ReductionBlock

OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv", "avg_pool_3x3")
KERNELS = (7, 5, 3)


class StagedCells(ModelSpace):
    """Three stages of the cells of NAS-Bench-201, each with its own operations, kernel and number of cells.

    Stage k has width, 2 width or 4 width channels and `stage{k}/depth` equal cells, whose decisions are
    `stage{k}/{source}_{node}`. Its convolutions "conv" share a kernel, `stage{k}/kernel`. Convolutions of
    candidates have a bias, as the authors count them. Source: ZO-DARTS++, arXiv:2503.06092.

    Args:
        width: Channels of the first stage.
        num_cells: Largest number of cells in a stage.
        dataset: "cifar" or (channels, size, classes), by default images of MedMNIST.
        num_classes: Overrides the dataset's.
        affine: Whether batch norms of the candidates have parameters; those of the search have not.

    Raises:
        SpaceError: an argument is out of range; the message names the legal values.
    """

    def __init__(
        self,
        width: int = 16,
        num_cells: int = 3,
        dataset: Dataset = (1, 28, 10),
        *,
        num_classes: int | None = None,
        affine: bool = False,
    ) -> None:
        super().__init__()
        require_integer("width", width, least=1)
        require_integer("num_cells", num_cells, least=2)
        data = resolve_images(dataset, num_classes)
        if data.imagenet:
            raise SpaceError("StagedCells has no stem for 'imagenet'; use dataset=(channels, size, classes).")
        self.stem = cifar_stem(data.channels, width)
        layers: list[nn.Module] = []
        for stage in range(STAGES):
            channels = width * 2**stage
            if stage > 0:
                layers.append(ReductionBlock(channels // 2, channels, affine=True))
            cell = partial(_cell, f"stage{stage}", channels, affine)
            layers.append(Repeat(cell, depth=(1, num_cells), label=f"stage{stage}/depth"))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(channels, data.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.head(self.layers(self.stem(images))))
        return logits


def _cell(label: str, channels: int, affine: bool, index: int) -> nn.Module:
    operations = {name: partial(_operation, name, label, channels, affine) for name in OPERATIONS}
    return EdgeCell(label, operations)


def _operation(name: str, label: str, channels: int, affine: bool) -> nn.Module:
    if name == "conv_1x1":
        conv: nn.Module = nn.Conv2d(channels, channels, 1)
    elif name == "conv":
        kernel = value_choice(list(KERNELS), label=f"{label}/kernel")
        conv = space_nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
    else:  # a pool is never followed by a batch norm
        return make_operation(name, channels, 1, affine=True)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=affine))
