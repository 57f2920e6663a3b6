"""A cell space so small that every architecture has been trained: its table of results ships with the hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from spacelang import Cell, ModelSpace
from spacelang.errors import require_integer

from ..operations.cell_operations import cifar_stem, make_operation, relu_conv_bn
from .nasbench201 import OPERATIONS


class DigitsCells(ModelSpace):
    """Two equal cells of two nodes with two operations each, for images of digits: 825 architectures.

    The operations are those of NAS-Bench-201. The second cell works on maps of half the size. `table` is a
    CSV file for `evaluators.Tabular`: every architecture with 4 channels was trained three times, on 1,000
    images of scikit-learn's digits for 3 epochs (`benchmarks/train_digits_table.py`).

    Args:
        width: Number of channels (4 in the table).
        num_nodes: Number of nodes in a cell; the table also has the 15 architectures of one node, for
            strategies that begin with small cells.

    Raises:
        SpaceError: `width` or `num_nodes` is not a positive integer.

    Attributes:
        table: Path of the table; its metrics are val_acc (400 images) after each epoch, test_acc
            (397 other images), and seconds of processor time.
    """

    table: ClassVar[Path] = Path(__file__).parent.parent / "tables" / "digits_cells.csv"

    def __init__(self, width: int = 4, num_nodes: int = 2) -> None:
        super().__init__()
        require_integer("width", width, least=1)
        require_integer("num_nodes", num_nodes, least=1)
        candidates = {name: partial(_operation, name, width) for name in OPERATIONS}
        self.stem = cifar_stem(1, width)
        self.cell1 = Cell(candidates, num_nodes=num_nodes, num_ops_per_node=2, label="cell")
        self.reduction = nn.Sequential(nn.AvgPool2d(2), relu_conv_bn(num_nodes * width, width, affine=True))
        self.cell2 = Cell(candidates, num_nodes=num_nodes, num_ops_per_node=2, label="cell")
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(num_nodes * width, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, 1, 8, 8) -> (B, 10)."""
        logits: Tensor = self.head(self.cell2(self.reduction(self.cell1(self.stem(images)))))
        return logits


def _operation(name: str, width: int, node: int, slot: int | None, source: int) -> nn.Module:
    return make_operation(name, width, stride=1, affine=True)
