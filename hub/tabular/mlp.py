"""Networks of linear layers for tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import require_integer, require_number, require_one_of

from ..operations.mobile_operations import Size

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
NORMS = ("batch", "layer", "none")


class Zero(nn.Module):
    """Zeros in the shape of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


RESIDUAL: Mapping[str, type[nn.Module]] = {"add": nn.Identity, "none": Zero}


class MLP(ModelSpace):
    """Blocks of two linear layers between a first and a last one, for tables of numbers.

    A block is y = r(x) + W_2 f(W_1 n(x)), with r the identity or zero. Decisions: `width` and `depth` of the
    network; `hidden_{i}`, `norm_{i}`, `activation_{i}` and `residual_{i}` of each block. Sizes are slices of
    shared weights. Scale the features first; categories are features of zeros and ones.

    Args:
        inputs: Number of features.
        outputs: Number of classes, or of values to predict.
        width: Candidates for the size between blocks.
        hidden: Candidates for the size inside a block.
        depth: Candidates for the number of blocks.
        activations: Candidates among "relu", "gelu", "silu" and "tanh".
        norms: Candidates among "batch", "layer" and "none".
        residual: Candidates among "add" and "none".
        dropout: Dropout inside blocks.

    Source: the blocks are those of ResNet in Gorishniy et al., arXiv:2106.11959, section 3.3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: Sequence[int] = (64, 128, 256),
        hidden: Sequence[int] = (64, 128, 256),
        depth: Sequence[int] = (1, 2, 3, 4),
        activations: Sequence[str] = tuple(ACTIVATIONS),
        norms: Sequence[str] = NORMS,
        residual: Sequence[str] = tuple(RESIDUAL),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("outputs", outputs)):
            require_integer(name, value, least=1)
        for name, given, known in (
            ("activations", activations, ACTIVATIONS),
            ("norms", norms, NORMS),
            ("residual", residual, RESIDUAL),
        ):
            for choice in given:
                require_one_of(name, choice, known)
        require_number("dropout", dropout, least=0, below=1)
        size = value_choice(width, label="width")

        def block(index: int) -> Block:
            return Block(
                size,
                value_choice(hidden, label=f"hidden_{index}"),
                LayerChoice({x: partial(_norm, x, size) for x in norms}, label=f"norm_{index}"),
                LayerChoice({x: ACTIVATIONS[x] for x in activations}, label=f"activation_{index}"),
                LayerChoice({x: RESIDUAL[x] for x in residual}, label=f"residual_{index}"),
                dropout,
            )

        self.first = space_nn.Linear(inputs, size)
        self.blocks = Repeat(block, depth=value_choice(depth, label="depth"))
        self.last = space_nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits or values, (B, inputs) -> (B, outputs)."""
        y: Tensor = self.last(self.blocks(self.first(x)))
        return y


class Block(nn.Module):
    """y = r(x) + W_2 f(W_1 n(x)), (B, width) -> (B, width)."""

    def __init__(
        self,
        width: Size,
        hidden: Size,
        norm: nn.Module,
        activation: nn.Module,
        residual: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.fc1 = space_nn.Linear(width, hidden)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.fc2 = space_nn.Linear(hidden, width)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.dropout(self.activation(self.fc1(self.norm(x)))))
        kept: Tensor = self.residual(x)
        return kept + y


def _norm(name: str, width: Size) -> nn.Module:
    if name == "none":
        return nn.Identity()
    layer: nn.Module = space_nn.BatchNorm1d(width) if name == "batch" else space_nn.LayerNorm(width)
    return layer
