"""A small space and networks that the results tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, LayerChoice, ModelSpace


class ConvSpace(ModelSpace):
    """Stem choice, one cell with two inputs, linear head; (B, 1, 8, 8) -> (B, 3)."""

    def __init__(self, width: int = 4, shape: tuple[int, ...] = (1, 3), extra: object = None) -> None:
        super().__init__()
        self.shape = shape
        channels, classes = shape
        self.stem = LayerChoice(
            {"conv3": nn.Conv2d(channels, width, 3, padding=1), "conv1": nn.Conv2d(channels, width, 1)},
            label="stem",
        )
        self.cell = Cell(
            {
                "conv": lambda i, k, j: nn.Conv2d(width, width, 3, padding=1),
                "skip": lambda i, k, j: nn.Identity(),
            },
            num_nodes=2,
            num_ops_per_node=2,
            num_predecessors=2,
            label="normal",
        )
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.norm(self.cell(x, x)))  # (B, 2 * width, 8, 8)
        return self.head(x.mean((2, 3)))


ARCH = {
    "stem": "conv3",
    "normal/op_2_0": "conv",
    "normal/input_2_0": 0,
    "normal/op_2_1": "skip",
    "normal/input_2_1": 1,
    "normal/op_3_0": "conv",
    "normal/input_3_0": 2,
    "normal/op_3_1": "conv",
    "normal/input_3_1": 0,
}


@pytest.fixture(scope="session")
def space_class() -> type[ConvSpace]:
    return ConvSpace


@pytest.fixture(scope="session")
def conv_arch() -> dict[str, object]:
    return dict(ARCH)
