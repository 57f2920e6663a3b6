"""Toy spaces that between them use every primitive; small enough to build, count and run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, nn, value_choice
from spacelang.language import Categorical, Primitive, label_scope, maximum, to_int
from spacelang.supernet import Group, Mixed, Supernet

from . import cells

C = 4  # channels of the toy images


def conv(size: int = 3, channels: int = C) -> plain.Sequential:
    """ReLU, convolution, batch norm: the usual operation of a cell."""
    return plain.Sequential(
        plain.ReLU(),
        plain.Conv2d(channels, channels, size, padding=size // 2, bias=False),
        plain.BatchNorm2d(channels),
    )


def pool(kind: type[plain.Module] = plain.MaxPool2d) -> plain.Sequential:
    """Pooling and its normalisation, without parameters."""
    return plain.Sequential(kind(3, stride=1, padding=1), plain.BatchNorm2d(C, affine=False))


class Scale(plain.Module):
    """Multiply by a learned number; takes a second argument and a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = plain.Parameter(torch.ones(1))

    def forward(self, x: Tensor, shift: Tensor | None = None, *, times: float = 1.0) -> Tensor:
        return self.factor * x * times + (0 if shift is None else shift)


class Shifted(plain.Module):
    """A module `Scale` may be exchanged for."""

    def __init__(self, inner: plain.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, shift: Tensor | None = None, *, times: float = 1.0) -> Tensor:
        return self.inner(x) * times - (0 if shift is None else shift)


class Layers(ModelSpace):
    """Layer choices: dict, list, factories, nested, with more arguments, one of them unlabelled."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        inner = LayerChoice({"linear": plain.Linear(width, width), "tanh": plain.Tanh()}, label="inner")
        self.outer = LayerChoice({"scale": Scale(), "shifted": Shifted(inner)}, label="outer")
        self.listed = LayerChoice([lambda: plain.Linear(width, width), plain.Identity, plain.ReLU])
        deepest = LayerChoice([plain.Linear(width, width), plain.ReLU()], label="c")
        deeper = LayerChoice([deepest, plain.Tanh()], label="b")
        deep = LayerChoice([deeper, plain.Identity()], label="a")
        self.deep = plain.Sequential(deep, plain.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(self.listed(self.outer(x, x.flip(0), times=0.5)))


class Inputs(ModelSpace):
    """Input choices of every number and reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = plain.ModuleList(plain.Linear(3, 3) for _ in range(3))
        self.one = InputChoice(3, label="one")
        self.two = InputChoice(3, n_chosen=2, reduction="sum", label="two")
        self.mean = InputChoice(3, n_chosen=2, reduction="mean", label="mean")
        self.any_sum = InputChoice(3, n_chosen=None, reduction="sum", label="any_sum")
        self.any_mean = InputChoice(3, n_chosen=None, reduction="mean", label="any_mean")

    def forward(self, x: Tensor) -> Tensor:
        xs = [branch(x) for branch in self.branches]
        return self.one(xs) + self.two(*xs) * self.mean(xs) + self.any_sum(xs) * self.any_mean(*xs)


class HardInputs(ModelSpace):
    """Input choices whose result has no fixed shape: concatenations and lists."""

    def __init__(self) -> None:
        super().__init__()
        self.concat = InputChoice(3, n_chosen=2, reduction="concat", label="concat")
        self.any_concat = InputChoice(3, n_chosen=None, reduction="concat", label="any_concat")
        self.listed = InputChoice(3, n_chosen=2, reduction="none", label="listed")
        self.head = plain.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        xs = [x, x.tanh(), x.square()]
        first, second = self.listed(xs)
        return self.head(self.concat(xs)) + (first * second).sum() + self.any_concat(xs).sum(1, keepdim=True)


class Depths(ModelSpace):
    """Depths from 0, of factories, lists, copies and nested repetitions, and one that is an expression."""

    def __init__(self) -> None:
        super().__init__()
        self.independent = Repeat(
            lambda i: LayerChoice([plain.Linear(3, 3), plain.Tanh()], label=f"block{i}"),
            (0, 2),
            label="depth",
        )
        self.shared = Repeat(
            LayerChoice([plain.Linear(3, 3), plain.ReLU()], label="kind"), (1, 2), label="copies"
        )
        half = value_choice([0, 1], label="half")
        self.even = Repeat(lambda i: plain.Linear(3, 3), half * 2)
        self.listed = Repeat([plain.Tanh(), lambda i: plain.Linear(3, 3)], (1, 2))
        self.nested = Repeat(
            lambda i: Repeat(lambda j: plain.Linear(3, 3), (0, 1), label=f"in{i}"), (1, 2), label="out"
        )
        self.fixed = Repeat(lambda i: LayerChoice([plain.Tanh(), plain.Identity()]), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fixed(self.nested(self.listed(self.even(self.shared(self.independent(x))))))


class Cells(ModelSpace):
    """Two DARTS-like cells that share their decisions; operations with beginnings in common."""

    def __init__(self, distinct_inputs: bool = False, nodes: int = 2) -> None:
        super().__init__()
        operations = {
            "conv3": conv(3),
            "max": pool(),
            "avg": pool(plain.AvgPool2d),
            "conv1": lambda node, slot, source: conv(1),
            "skip": plain.Identity(),
        }
        self.stem = plain.Conv2d(2, C, 1)
        self.cells = plain.ModuleList(
            Cell(
                operations,
                nodes,
                2,
                2,
                postprocessor=self.merge,
                label="cell",
                distinct_inputs=distinct_inputs,
            )
            for _ in range(2)
        )

    @staticmethod
    def merge(output: Tensor, inputs: list[Tensor]) -> Tensor:
        """Sum the nodes; keep the size of the inputs."""
        return output.unflatten(1, (-1, C)).sum(1) + inputs[1]

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return last


class Halves(plain.Module):
    """Preprocessor with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = plain.Conv2d(2, C, 1), plain.Conv2d(2, C, 1)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.left(inputs[0]), self.right(inputs[1])]


class LooseEnds(ModelSpace):
    """A cell whose output has as many channels as it has loose ends; everything built by factories."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            [lambda i, k, j: conv(3), lambda i, k, j: pool(), lambda i, k, j: plain.Identity()],
            num_nodes=3,
            num_ops_per_node=2,
            num_predecessors=2,
            merge_op="loose_end",
            preprocessor=Halves(),
            label="loose",
        )
        self.head = nn.Conv2d(self.cell.num_outputs * C, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell([x, x.flip(-1)]))


class SoftLooseEnds(ModelSpace):
    """A loose-end cell whose nodes are summed, so that mixtures can be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            {"linear": lambda i, k, j: plain.Linear(3, 3), "tanh": plain.Tanh()},
            num_nodes=3,
            merge_op="loose_end",
            postprocessor=lambda output, inputs: output.unflatten(-1, (-1, 3)).sum(-2),
            concat_dim=-1,
            label="ends",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


class Triples(ModelSpace):
    """Three operations a node on one or two inputs: the same one is often taken twice."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            [plain.Sequential(plain.ReLU(), plain.Linear(3, 3)), plain.Linear(3, 3)],
            2,
            3,
            concat_dim=-1,
            label="t",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


class NestedCell(ModelSpace):
    """Choices within the operations of a cell, some numbered, some shared; distinct inputs."""

    def __init__(self) -> None:
        super().__init__()

        def block(node: int, slot: int | None, source: int) -> plain.Module:
            return Repeat(lambda i: LayerChoice([plain.Linear(3, 3), plain.Tanh()]), (0, 1), label="depth")

        shared = LayerChoice([plain.Linear(3, 3), plain.ReLU()], label="shared")
        self.cell = Cell(
            {"block": block, "shared": shared, "linear": plain.Linear(3, 3)},
            2,
            2,
            2,
            concat_dim=-1,
            label="nest",
            distinct_inputs=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, x.flip(0))


class Values(ModelSpace):
    """Widths, kernels, a depthwise layer and arithmetic, by value choices."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        width = value_choice([4, 6], label="width")
        kernel = value_choice([1, 3, 5], label="kernel")
        hidden = maximum(width * value_choice([1, 2], label="ratio"), 6)
        self.features = plain.Sequential(
            nn.Conv2d(2, width, kernel, padding=kernel // 2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, hidden, 1, groups=value_choice([1, 2], label="groups")),
            nn.GroupNorm(2, hidden),
        )
        self.head = nn.Linear(hidden, classes, bias=value_choice([True, False], label="bias"))
        self.width = width
        self._half = to_int(width / 2)
        self.constrain((width < 6) | (kernel < 5), "kernel 5 is too large for width 6.")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Attention(ModelSpace):
    """Embedding, attention and norm of chosen sizes."""

    def __init__(self) -> None:
        super().__init__()
        dim = value_choice([4, 8], label="dim")
        self.embedding = nn.Embedding(7, dim)
        self.attention = nn.MultiheadAttention(dim, value_choice([1, 2, 4], label="heads"), batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.rnn = nn.GRU(dim, value_choice([2, 3], label="hidden"), batch_first=True)
        self.feed = Repeat(lambda i: nn.Linear(dim, dim), (0, 2), label="feed")

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = self.norm(self.feed(x + self.attention(x, x, x, need_weights=False)[0]))
        return x.sum(-1) + self.rnn(x)[0].sum(-1)


class Inner(ModelSpace):
    """Part of `Shared`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = value_choice([2, 4], label="hidden")
        self.layers = plain.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Shared(ModelSpace):
    """Shared labels, scopes, a space within a space that may be inactive, and a constraint across them."""

    def __init__(self) -> None:
        super().__init__()
        with label_scope("stage"):
            self.first = LayerChoice([plain.Linear(3, 3), plain.Tanh()], label="kind")
            self.second = LayerChoice([plain.Linear(3, 3), plain.Tanh()], label="kind", prior=None)
        self.third = LayerChoice(
            {"inner": lambda: Inner(3), "eager": Inner(3), "none": plain.Identity()}, label="x"
        )
        width = value_choice([3, 5], label="width")
        self.up, self.down = nn.Linear(3, width), nn.Linear(width, 3)
        self.constrain(width <= value_choice([2, 4], label="hidden") + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(self.third(self.second(self.first(x)))))


class Gate(Primitive):
    """A primitive of one's own: a layer that is applied, skipped, or skipped with a learned factor.

    >>> gate = Gate(plain.Linear(2, 2), label="gate")
    >>> gate.decisions()[0].candidates
    ('on', 'off')
    """

    def __init__(self, layer: plain.Module, *, label: str) -> None:
        super().__init__()
        self.layer = layer
        self.decision = Categorical(label, ["on", "off"])

    def decisions(self) -> tuple[Categorical, ...]:
        return (self.decision,)

    def freeze(self, arch: Mapping[str, Any]) -> plain.Module:
        return self.layer if arch[self.decision.label] == "on" else plain.Identity()

    def relax(self, builder: Any) -> plain.Module:
        return MixedGate(builder.group(self.decision), self.layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class MixedGate(Mixed):
    """`y = w_on layer(x) + w_off x`."""

    def __init__(self, group: Group, layer: plain.Module) -> None:
        super().__init__()
        self.group = group
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        terms = [self.group.weighted(0, k, x if k else self.layer(x)) for k in self.group.active[0]]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def freeze(self, arch: Mapping[str, Any]) -> plain.Module:
        return self.layer if arch[self.group.label] == "on" else plain.Identity()


class Custom(ModelSpace):
    """A user's own primitive, also within another choice and around one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(plain.Linear(3, 3), label="gate")
        self.around = Gate(LayerChoice([plain.Linear(3, 3), plain.Tanh()], label="within"), label="around")
        self.either = LayerChoice([Gate(plain.Linear(3, 3), label="inner"), plain.Tanh()], label="either")

    def forward(self, x: Tensor) -> Tensor:
        return self.either(self.around(self.gate(x)))


def _rows() -> tuple[Tensor, ...]:
    return (torch.randn(4, 3),)


def _images() -> tuple[Tensor, ...]:
    return (torch.randn(3, 2, 5, 5),)


def _features() -> tuple[Tensor, ...]:
    return (torch.randn(5, cells.C),)


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randint(7, (2, 5)),)


@dataclass(frozen=True)
class Case:
    """A toy space with an input for it.

    Args:
        make: constructor without arguments.
        inputs: makes example inputs.
        soft: every choice can compute a mixture.
    """

    make: Callable[[], ModelSpace]
    inputs: Callable[[], tuple[Tensor, ...]] = _rows
    soft: bool = True

    def space(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> ModelSpace:
        """The space with random weights."""
        torch.manual_seed(seed)
        space = self.make().to(dtype)
        with torch.no_grad():
            for parameter in space.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.5)
        return space

    def example(self, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, ...]:
        """Example inputs."""
        torch.manual_seed(seed)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in self.inputs())


def distinct_cells() -> ModelSpace:
    """`Cells` whose nodes read different inputs."""
    return Cells(distinct_inputs=True)


CASES: dict[str, Case] = {
    "layers": Case(Layers),
    "inputs": Case(Inputs),
    "hard inputs": Case(HardInputs, soft=False),
    "depths": Case(Depths),
    "cells": Case(Cells, _images),
    "distinct cells": Case(distinct_cells, _images),
    "loose ends": Case(LooseEnds, _images, soft=False),
    "soft loose ends": Case(SoftLooseEnds),
    "triples": Case(Triples),
    "nested cell": Case(NestedCell),
    "values": Case(Values, _images),
    "attention": Case(Attention, _tokens),
    "shared": Case(Shared),
    "custom": Case(Custom),
    "edges": Case(partial(cells.Edges, [1, 3, 2], distinct_inputs=True), _features),
    "graph": Case(cells.GraphNet, lambda: (torch.randn(3, 3), cells.TRIANGLE)),
    "recurrent": Case(partial(cells.Recurrent, norm=True), lambda: (*_features(), *_features())),
    "states": Case(partial(cells.States, dict), _features),
}
SOFT = {name: case for name, case in CASES.items() if case.soft}


def randomise_statistics(module: plain.Module, seed: int = 2) -> None:
    """Give every batch norm running statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def random_mixture(supernet: Supernet, seed: int) -> dict[str, Tensor]:
    """A random mixture of every group, as leaves that record gradients."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next((p.dtype for p in supernet.parameters()), torch.float64)
    return {
        label: torch.rand(group.shape, generator=generator, dtype=dtype).requires_grad_()
        for label, group in supernet.groups.items()
    }


def architectures(space: ModelSpace, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The default architecture and random ones."""
    rng = np.random.default_rng(seed)
    return [space.default(), *(space.sample(rng) for _ in range(count))]
