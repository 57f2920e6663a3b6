"""Toy spaces that between them use every primitive; each maps (B, 4, 6, 6) to (B, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..language import Categorical, Cell, InputChoice, LayerChoice, Primitive, Relaxer, Repeat, value_choice
from ..nn import BatchNorm2d, Conv2d, Linear
from ..space import ModelSpace
from ..supernet import Group, Mixed

_WIDTH = 4


def toy_spaces() -> dict[str, ModelSpace]:
    """Return a new space of every kind, by name."""
    kinds = (Layers, Inputs, ListedInputs, Depths, Values, Cells, LooseEnds, OwnPrimitive, Everything)
    return {kind.__name__: kind() for kind in kinds}


def _conv(size: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(_WIDTH, _WIDTH, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(_WIDTH))


def _join(num_nodes: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_nodes * _WIDTH, _WIDTH, 1, bias=False), nn.BatchNorm2d(_WIDTH))


def _head(width: int = _WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


class Layers(ModelSpace):
    """A layer choice, and one nested in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice({"conv1": _conv(1), "conv3": _conv(3), "skip": nn.Identity()}, label="first")
        inner = LayerChoice([_conv(1), _conv(3)], label="inner")
        self.second = LayerChoice({"inner": inner, "skip": nn.Identity()}, label="second")
        self.head = _head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))  # type: ignore[no-any-return]


class Inputs(ModelSpace):
    """Input choices of one, of two and of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(1), _conv(3), nn.Identity()])
        self.one = InputChoice(3, label="one")
        self.two = InputChoice(3, n_chosen=2, reduction="mean", label="two")
        self.any = InputChoice(3, n_chosen=None, reduction="sum", label="any")
        self.head = _head()

    def forward(self, x: Tensor) -> Tensor:
        xs = [branch(x) for branch in self.branches]
        return self.head(self.one(xs) + self.two(xs) + self.any(xs))  # type: ignore[no-any-return]


class ListedInputs(ModelSpace):
    """An input choice whose result, a concatenation, has no meaning in a mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(1), _conv(3), nn.Identity()])
        self.two = InputChoice(3, n_chosen=2, reduction="concat", label="two")
        self.head = _head(2 * _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two([branch(x) for branch in self.branches]))  # type: ignore[no-any-return]


class Depths(ModelSpace):
    """A depth, down to none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = _blocks()
        self.head = _head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))  # type: ignore[no-any-return]


class Values(ModelSpace):
    """A width and a kernel size, the width shared by three layers."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 4], label="width")
        size = value_choice([1, 3], label="size")
        self.conv = Conv2d(_WIDTH, width, size, padding=size // 2)
        self.norm = BatchNorm2d(width)
        self.pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.norm(self.conv(x))))  # type: ignore[no-any-return]


def _blocks() -> Repeat:
    return Repeat(lambda i: LayerChoice([_conv(1), _conv(3)], label=f"block{i}"), (0, 2), label="depth")


def _operations() -> dict[str, nn.Module]:
    return {"conv": _conv(), "pool": nn.MaxPool2d(3, 1, 1), "skip_connect": nn.Identity()}


def _cell(label: str, num_nodes: int = 2, **settings: Any) -> Cell:
    return Cell(_operations(), num_nodes, 2, 2, label=label, **settings)


def _on_edge(node: int, source: int) -> dict[str, nn.Module]:
    """Return the candidates of an edge: all from the first input, of others two."""
    return {name: operation for name, operation in _operations().items() if source == 0 or name != "pool"}


class Cells(ModelSpace):
    """Two cells that share their decisions, and a third."""

    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__()
        self.cells = nn.ModuleList(_cell(label, num_nodes) for label in ("normal", "normal", "other"))
        self.joins = nn.ModuleList(_join(num_nodes) for _ in self.cells)
        self.head = _head()

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for cell, join in zip(self.cells, self.joins, strict=True):
            before, x = x, join(cell(before, x))
        return self.head(x)  # type: ignore[no-any-return]


class LooseEnds(ModelSpace):
    """A cell whose output consists of the nodes that no other reads."""

    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__()
        self.cell = _cell("cell", num_nodes, merge_op="loose_end", postprocessor=_mean_of_nodes)
        self.head = _head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, x))  # type: ignore[no-any-return]


def _mean_of_nodes(output: Tensor, given: list[Tensor]) -> Tensor:
    batch, _, height, width = output.shape
    return output.reshape(batch, -1, _WIDTH, height, width).mean(dim=1)


class Gain(Primitive):
    """A custom primitive: a factor in front of a feature map."""

    def __init__(self, factors: tuple[float, ...], label: str) -> None:
        super().__init__()
        self.decision = Categorical(label, factors)

    def decisions(self) -> tuple[Categorical, ...]:
        return (self.decision,)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return FixedGain(arch[self.decision.label])

    def relax(self, builder: Relaxer) -> nn.Module:
        return MixedGain(builder.group(self.decision))


class FixedGain(nn.Module):
    """A multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class MixedGain(Mixed):
    """A multiplication by the mixture of the factors."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        terms = [self.group.weighted(0, k, self.group.columns[k] * x) for k in self.group.active[0]]
        total: Tensor = sum(terms[1:], start=terms[0])
        return total

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return FixedGain(arch[self.group.label])


class OwnPrimitive(ModelSpace):
    """A space with a custom primitive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(), Gain((0.5, 1.0, 2.0), "gain"), _head())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Everything(ModelSpace):
    """A layer choice, an input choice, a depth, and a cell whose edges differ, in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = LayerChoice({"conv": _conv(), "skip": nn.Identity()}, label="stem")
        self.blocks = _blocks()
        self.input = InputChoice(2, label="input")
        self.cell = Cell(_on_edge, 2, 2, 2, label="cell")
        self.head = _head(2 * _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.head(self.cell(stem, self.input(x, self.blocks(stem))))  # type: ignore[no-any-return]
