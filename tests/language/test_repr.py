"""What is printed of choices and spaces: labels and candidates."""

from __future__ import annotations

from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.hub import DARTS
from spacelang.language import Categorical, Primitive


class Activation(Primitive):
    """A primitive of somebody else, which says nothing about its representation."""

    def decisions(self) -> tuple[Categorical, ...]:
        return (Categorical("activation", ["relu", "silu"]),)


def small_cell(**options: object) -> Cell:
    operations = {"skip": nn.Identity(), "linear": lambda *edge: nn.Linear(2, 2)}
    return Cell(operations, num_nodes=2, num_ops_per_node=2, num_predecessors=2, label="cell", **options)


def test_choices() -> None:
    layers = {"conv3": nn.Conv2d(1, 1, 3), "conv5": nn.Conv2d(1, 1, 5)}
    assert repr(LayerChoice(layers, label="stem")) == "LayerChoice('stem': conv3, conv5)"
    assert repr(LayerChoice([nn.Identity(), nn.ReLU()], label="act")) == "LayerChoice('act': 0, 1)"
    many = LayerChoice([nn.Identity] * 40, label="many")
    assert repr(many) == "LayerChoice('many': 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..., 39)"
    assert repr(InputChoice(3, label="skip")) == "InputChoice('skip': 0, 1, 2)"
    some = InputChoice(3, 2, "mean", label="skip")
    assert repr(some) == "InputChoice('skip': 2 of 0, 1, 2, reduction='mean')"
    assert repr(InputChoice(3, None, label="skip")) == "InputChoice('skip': any of 0, 1, 2, reduction='sum')"
    assert repr(Activation()) == "Activation('activation': relu, silu)"


def test_value_choices() -> None:
    width = value_choice([8, 16], label="width")
    assert repr(width) == "<value 'width': 8, 16>"
    assert repr(width * 2) == "<value (width * 2)>"
    assert repr(space_nn.Linear(4, width)) == "Linear(in_features=4, out_features=width; 'width': 8, 16)"
    kernel = value_choice([3, 5], label="kernel")
    assert repr(space_nn.Conv2d(1, width * 2, kernel, padding=kernel // 2)) == (
        "Conv2d(in_channels=1, out_channels=(width * 2), kernel_size=kernel, padding=(kernel // 2); "
        "'width': 8, 16; 'kernel': 3, 5)"
    )


def test_what_repeats_and_nests_is_shown_once() -> None:
    assert repr(Repeat(lambda i: nn.ReLU(), (0, 2), label="depth")) == (
        "Repeat('depth': 0, 1, 2\n  (blocks): ModuleList(\n    (0-1): 2 x ReLU()\n  )\n)"
    )
    twice = value_choice([1, 2], label="half") * 2
    assert repr(Repeat(nn.ReLU(), twice)).startswith("Repeat(depth=(half * 2); 'half': 1, 2\n  (blocks): ")
    inner = LayerChoice({"x": nn.ReLU(), "y": nn.SiLU()}, label="inner")
    outer = LayerChoice({"plain": nn.ReLU(), "nested": nn.Sequential(inner)}, label="outer")
    assert repr(outer) == (
        "LayerChoice('outer': plain, nested\n"
        "  (nested): Sequential(\n"
        "    (0): LayerChoice('inner': x, y)\n"
        "  )\n"
        ")"
    )


def test_cells() -> None:
    shape = "'cell': skip, linear; num_nodes=2, num_ops_per_node=2, num_predecessors=2"
    assert repr(small_cell()) == f"Cell({shape})"
    assert repr(small_cell(postprocessor=nn.ReLU())) == f"Cell({shape}\n  (postprocessor): ReLU()\n)"


def test_a_space_is_as_long_as_its_constructor() -> None:
    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.stem = LayerChoice({"linear": nn.Linear(4, 8), "gated": nn.Linear(4, 8)}, label="stem")
            self.cell = small_cell()
            self.head = nn.Linear(8, 3)

    assert repr(Net()) == (
        "Net(\n"
        "  (stem): LayerChoice('stem': linear, gated)\n"
        "  (cell): Cell('cell': skip, linear; num_nodes=2, num_ops_per_node=2, num_predecessors=2)\n"
        "  (head): Linear(in_features=8, out_features=3, bias=True)\n"
        ")"
    )
    darts = repr(DARTS(width=2, num_cells=3))
    assert darts.count("sep_conv_5x5") == 3
    assert darts.count("SepConv") == 0
