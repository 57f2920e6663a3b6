"""Small spaces that together have every primitive, nested and shared in every way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.language import Decision, Primitive, Value


def linear(size: int = 4) -> nn.Module:
    return nn.Linear(size, size)


class Layers(ModelSpace):
    """A nested choice, with a residual connection in ordinary code."""

    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"tanh": nn.Tanh(), "linear": linear()}, label="inner")
        self.first = LayerChoice({"plain": linear(), "deep": nn.Sequential(linear(), inner)}, label="first")
        self.second = LayerChoice([linear(), nn.Identity()], label="second")
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = y + self.second(y)
        return self.head(y + x)


class Inputs(ModelSpace):
    """Choices of one input, of two and of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear() for _ in range(3))
        self.one = InputChoice(3, label="one")
        self.two = InputChoice(3, 2, "mean", label="two")
        self.any = InputChoice(2, None, label="any")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [layer(x) for layer in self.layers]
        return self.any(self.one(maps), self.two(*maps))


class Depths(ModelSpace):
    """Depth 0 to 2 with a choice in each block, and a depth computed from two values."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = Repeat(
            lambda i: LayerChoice({"a": linear(), "b": nn.Tanh()}, label=f"op{i}"),
            depth=(0, 2),
            label="depth",
        )
        depth = value_choice([1, 2], label="x") + value_choice([0, 1], label="y")
        self.sum = Repeat(linear(), depth=depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sum(self.stack(x))


def operations() -> dict[str, Callable[..., nn.Module]]:
    return {"linear": lambda *_: linear(), "none": lambda *_: nn.Identity()}


class SharedCells(ModelSpace):
    """Two cells with one label, one input each time the network's."""

    def __init__(self) -> None:
        super().__init__()
        ops = operations()
        self.cells = nn.ModuleList(Cell(ops, 2, 2, 2, label="cell", distinct_inputs=True) for _ in range(2))
        self.between = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.between(self.cells[0](x, x))
        return self.cells[1](x, y)


class LooseEnds(ModelSpace):
    """A cell whose output is the mean over nodes nobody reads, and whose modules depend on the edge."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        ops = {
            "a": lambda node, _, source: nn.Linear(width, width, bias=source > 0),
            "b": lambda node, _, source: nn.Tanh(),
        }
        self.cell = Cell(ops, 3, 1, 2, "loose_end", postprocessor=mean_of_parts, label="cell")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x, torch.sin(x))


def mean_of_parts(output: torch.Tensor, given: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(output.split(given[0].shape[1], 1)).mean(0)


class NestedCells(ModelSpace):
    """Cells of one label in repeated blocks, with a choice inside an operation."""

    def __init__(self) -> None:
        super().__init__()

        def operation(*_: Any) -> nn.Module:
            return nn.Sequential(LayerChoice({"tanh": nn.Tanh(), "linear": linear()}, label="inside"))

        ops = {"choice": operation, "none": lambda *_: nn.Identity()}
        self.stack = Repeat(lambda i: Cell(ops, 1, label="cell"), depth=(1, 2), label="depth")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stack(x)


class Widths(ModelSpace):
    """Layers with chosen sizes, arithmetic on them, and a value kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        a, b = value_choice([2, 4], label="a"), value_choice([2, 4], label="b")
        self.up = space_nn.Linear(4, a * b)
        self.down = space_nn.Linear(a * b, 4)
        self.scale = value_choice([1.0, 2.0], label="scale")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x)) * self.scale


class Scaled(Primitive):
    """A primitive of a user's own: a layer, scaled by a chosen value."""

    def __init__(self, factor: Value, layer: nn.Module) -> None:
        super().__init__()
        self.factor = factor
        self.layer = layer

    def decisions(self) -> tuple[Decision, ...]:
        return self.factor.decisions()

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return ScaledLayer(self.factor.evaluate(arch), self.layer)


class ScaledLayer(nn.Module):
    def __init__(self, factor: float, layer: nn.Module) -> None:
        super().__init__()
        self.factor = factor
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.layer(x)


class Custom(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"linear": linear(), "tanh": nn.Tanh()}, label="inner")
        self.scaled = Scaled(value_choice([1.0, 3.0], label="factor"), inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x)


SPACES = {
    cls.__name__: cls for cls in (Layers, Inputs, Depths, SharedCells, LooseEnds, NestedCells, Widths, Custom)
}
