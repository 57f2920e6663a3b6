"""The DenseNAS space: blocks of growing width, densely connected, of which a network follows one route."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from spacelang.errors import SpaceError, require_integer
from spacelang.graph import Wire, Wiring
from spacelang.language import AnyOf, Categorical, Choice, Condition, Decision, Is, Primitive, Relaxer
from spacelang.supernet import Group, Mixed, MixedLayer, add_weighted

from ..operations.held import Held
from ..operations.mobile_operations import (
    Style,
    conv_norm_act,
    initialise,
    inverted_residual,
    separable,
)
from ..published import PublishedSpace

OPERATIONS = {f"k{kernel}t{expand}": (kernel, expand) for kernel in (3, 5, 7) for expand in (3, 6)}
"""Candidates of a layer by name: (kernel size, expand ratio)."""


@dataclass(frozen=True)
class Block:
    """A block of the super-network.

    Args:
        stage: Number of the stage that the block belongs to.
        channels: Width.
        size: Height of its feature map; sizes count relative to each other.
        layers: Number of layers after the first, which changes width and size.
    """

    stage: int
    channels: int
    size: int
    layers: int = 0


MOBILE_BLOCKS = (
    Block(0, 16, 112),
    Block(1, 24, 56, 3),
    *(Block(2, channels, 28, 3) for channels in (32, 40, 48)),
    *(Block(3, channels, 14, 3) for channels in (56, 64, 72)),
    *(Block(4, channels, 14, 3) for channels in (96, 112, 128)),
    *(Block(5, channels, 7, 3) for channels in (160, 176, 192)),
    *(Block(6, channels, 7) for channels in (320, 352, 384)),
)
"""Blocks of the space of MobileNetV2's layers; the first is what the stem returns."""


class DenseNAS(PublishedSpace):
    """The space of DenseNAS: which blocks of a growing sequence to pass through, and the layers of each.

    Decisions: `block{i}/next`, the block that follows block i; `block{j}/head_{i}`, a key of `OPERATIONS`,
    the first layer of block j when it follows block i; and `block{j}/layer_{k}`, a further layer, which may
    be "skip". A block is followed by one of the next `connect` whose stage is the same or the next, and
    whose feature map is as large or half as large. The last number stands for the final convolution, which
    changes no size. With the published blocks there are 15,456 routes. Source: arXiv:1906.09607.

    Args:
        blocks: Blocks, or their fields (stage, channels, size, layers); the first is what the stem returns.
        num_classes: Number of classes.
        last_channels: Channels of the final convolution.
        connect: Largest number of blocks that may follow one.
        in_channels: Channels of the images.
        affine: Whether batch norms of searched layers have parameters; those of the authors' search have not.
        bn_eps: Epsilon of batch norms.
        bn_momentum: Momentum of batch norms.

    Raises:
        SpaceError: a block leads nowhere.
    """

    def __init__(
        self,
        blocks: Sequence[Block | Sequence[int]] = MOBILE_BLOCKS,
        num_classes: int = 1000,
        *,
        last_channels: int = 1984,
        connect: int = 4,
        in_channels: int = 3,
        affine: bool = True,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        require_integer("connect", connect, least=1)
        listed = tuple(block if isinstance(block, Block) else Block(*block) for block in blocks)
        routes = Routes(listed, connect)
        style = Style(partial(nn.ReLU6, inplace=True), bn_eps, bn_momentum)
        searched = Style(partial(nn.ReLU6, inplace=True), bn_eps, bn_momentum, affine)
        first = listed[0].channels
        self.stem = nn.Sequential(
            conv_norm_act(in_channels, first, 3, stride=2, style=style),
            separable(first, first, kernel=3, stride=1, residual=True, style=style),
        )
        self.blocks = DenseBlocks(routes, last_channels, searched, style)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last_channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, in_channels, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.blocks(self.stem(images))).flatten(1))
        return logits


_RULE = "a block follows one of its stage or of that before, whose feature map is as large or twice as large."


@dataclass(frozen=True)
class Layer:
    """A layer that is chosen.

    Args:
        block: Number of its block.
        number: Its number among those after the first; None for the first, the head.
        before: Number of the block that a head follows; that of its own block for others.
        condition: When a network has it.
    """

    block: int
    number: int | None
    before: int
    condition: Condition

    @property
    def is_head(self) -> bool:
        """Whether it is the first of its block."""
        return self.number is None

    @property
    def name(self) -> str:
        """Name of its module."""
        if self.number is None:
            return f"head_{self.before}_{self.block}"
        return f"layer_{self.block}_{self.number}"

    @property
    def label(self) -> str:
        """Label of its decision."""
        last = f"head_{self.before}" if self.number is None else f"layer_{self.number}"
        return f"block{self.block}/{last}"

    @property
    def decision(self) -> Categorical:
        """The decision on its operation."""
        return Categorical(self.label, (*OPERATIONS, *(() if self.is_head else ("skip",))))


@dataclass(frozen=True)
class Routes:
    """Blocks, and which of them may follow which.

    Args:
        blocks: The blocks; after the last stands the final convolution, whose number is `output`.
        connect: Largest number of blocks that may follow one.
    """

    blocks: tuple[Block, ...]
    connect: int

    def __post_init__(self) -> None:
        for i in range(self.output):
            if not self.followers(i):
                raise SpaceError(f"blocks: {self.blocks[i]} (number {i}) leads nowhere; {_RULE}")

    @property
    def output(self) -> int:
        """Number of the final convolution."""
        return len(self.blocks)

    def followers(self, i: int) -> tuple[int, ...]:
        """Return the numbers of what may follow block i, up to the first that may not."""
        last = self.blocks[-1]
        known = (*self.blocks, Block(last.stage + 1, 0, last.size))
        here = known[i]
        near = range(i + 1, min(i + self.connect, self.output) + 1)
        follows = (
            known[j].stage - here.stage <= 1
            and here.size in (known[j].size, 2 * known[j].size if j < self.output else 0)
            for j in near
        )
        return tuple(j for j, ok in zip(near, itertools.takewhile(bool, follows), strict=False) if ok)

    @cached_property
    def nexts(self) -> tuple[Categorical, ...]:
        """The decision on what follows each block."""
        return tuple(Categorical(f"block{i}/next", self.followers(i)) for i in range(self.output))

    def before(self, j: int) -> list[int]:
        """Return the numbers of the blocks that block j may follow."""
        return [i for i in range(j) if j in self.followers(i)]

    def follows(self, i: int, j: int) -> Condition:
        """Return the condition that a network passes from block i to block j."""
        return Is(Choice(self.nexts[i]), (j,))

    def passes(self, j: int) -> Condition:
        """Return the condition that a network passes through block j, which is not the first."""
        return AnyOf(tuple(self.follows(i, j) for i in self.before(j)))

    def layers(self) -> Iterator[Layer]:
        """Yield every layer that is chosen, block by block."""
        for j in range(1, self.output):
            for i in self.before(j):
                yield Layer(j, None, i, self.follows(i, j))
            for k in range(self.blocks[j].layers):
                yield Layer(j, k, j, self.passes(j))

    def layers_of(self, route: Sequence[int]) -> list[Layer]:
        """Return the layers on a route, in their order."""
        steps = dict(zip(route[1:], route, strict=False))  # the block before each
        return [
            layer
            for layer in self.layers()
            if layer.block in steps and (not layer.is_head or steps[layer.block] == layer.before)
        ]

    def conditional(self) -> Iterator[tuple[Condition, Decision]]:
        """Yield every decision but the first, with the condition under which it exists."""
        yield from ((self.passes(i), self.nexts[i]) for i in range(1, self.output))
        yield from ((layer.condition, layer.decision) for layer in self.layers())

    def route(self, arch: Mapping[str, Any]) -> list[int]:
        """Return the numbers of the blocks of an architecture, from 0 to `output`."""
        route = [0]
        while route[-1] < self.output:
            decision = self.nexts[route[-1]]
            route.append(decision.parse(arch[decision.label]))
        return route


class DenseBlocks(Primitive):
    """All blocks and the layers between them; a network has those of one route.

    Args:
        routes: The blocks.
        out_channels: Channels of the final convolution.
        style: Norms and activations of searched layers.
        last_style: Those of the final convolution.
        fresh: Whether to hold no weights, and freeze to newly initialised layers.
    """

    def __init__(
        self, routes: Routes, out_channels: int, style: Style, last_style: Style, *, fresh: bool = False
    ) -> None:
        super().__init__()
        self.routes = routes
        self.sizes = out_channels, style, last_style
        self.conditional = nn.ModuleList(Held(decision) for _, decision in routes.conditional())
        self.layers = nn.ModuleDict()
        if fresh:
            return
        for layer in routes.layers():
            names = layer.decision.candidates
            self.layers[layer.name] = nn.ModuleList(self._made(layer, name) for name in names)
        for i in routes.before(routes.output):
            self.layers[f"last_{i}"] = self._last(i)

    @classmethod
    def build(cls, context: Any, *args: Any, **kwargs: Any) -> nn.Module | None:
        return super().build(context, *args, **{**kwargs, "fresh": True})

    def decisions(self) -> tuple[Decision, ...]:
        return (self.routes.nexts[0],)

    def reads(self) -> tuple[Decision, ...]:
        return (self.routes.nexts[0], *(decision for _, decision in self.routes.conditional()))

    def branches(self) -> Iterable[tuple[Condition, str, nn.Module]]:
        yield from (branch for branch in super().branches() if branch[1] == "layers")
        for index, (condition, _) in enumerate(self.routes.conditional()):
            yield condition, f"conditional.{index}", self.conditional[index]

    def wiring(self) -> Wiring:
        """Return the graph of the blocks: a node for what enters each, and one after each of its layers."""
        place = {decision.label: k for k, (_, decision) in enumerate(self.routes.conditional())}
        entries, last = {0: 0}, 0
        for j in range(1, self.routes.output):
            entries[j] = last + 1
            last += 1 + self.routes.blocks[j].layers
        exits = {i: entry + self.routes.blocks[i].layers for i, entry in entries.items()}
        wires = [
            Wire(exits[i], last + 1, when=self.routes.follows(i, self.routes.output))
            for i in self.routes.before(self.routes.output)
        ]
        for layer in self.routes.layers():
            if layer.is_head:
                start, end = exits[layer.before], entries[layer.block]
            else:
                start = entries[layer.block] + (layer.number or 0)
                end = start + 1
            wires.append(Wire(start, end, f"conditional.{place[layer.label]}", layer.condition))
        return Wiring("blocks", 1, last, tuple(wires))

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        def layer(layer: Layer) -> nn.Module:
            name = layer.decision.parse(arch[layer.label])
            if not self.layers:
                return self._made(layer, name)
            candidates: Any = self.layers[layer.name]
            chosen: nn.Module = candidates[layer.decision.position(name)]
            return chosen

        route = self.routes.route(arch)
        last = self.layers[f"last_{route[-2]}"] if self.layers else self._last(route[-2])
        return nn.Sequential(*map(layer, self.routes.layers_of(route)), last)

    def relax(self, builder: Relaxer) -> nn.Module:
        groups = [builder.group(decision) for decision in self.routes.nexts]
        layers = nn.ModuleDict(dict(self.layers.items()))
        for layer in self.routes.layers():
            candidates: Any = self.layers[layer.name]
            layers[layer.name] = MixedLayer(builder.group(layer.decision), candidates)
        return MixedBlocks(groups, self.routes, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with the first candidates, the first of the blocks that may follow each among them."""
        first: Any = {decision.label: decision.candidates[0] for decision in self.reads()}
        y: Tensor = self.freeze(first)(x)
        return y

    def _made(self, layer: Layer, name: str) -> nn.Module:
        """Build a candidate of a layer."""
        if name == "skip":
            return nn.Identity()
        block = self.routes.blocks[layer.block]
        before = self.routes.blocks[layer.before] if layer.is_head else block
        kernel, expand = OPERATIONS[name]
        stride = before.size // block.size
        return inverted_residual(
            before.channels,
            block.channels,
            expand_ratio=expand,
            kernel=kernel,
            stride=stride,
            residual=stride == 1 and before.channels == block.channels,
            style=self.sizes[1],
        )

    def _last(self, i: int) -> nn.Module:
        """Build the final convolution after block i."""
        return conv_norm_act(self.routes.blocks[i].channels, self.sizes[0], style=self.sizes[2])


class MixedBlocks(Mixed):
    """`DenseBlocks` in a supernet.

    What enters a block is the sum of what its heads make of the blocks before it, each times the weight of
    the way from there: x_j = sum_i w_ij head_ij(x_i). A block that nothing enters is not computed.

    Args:
        groups: Table of each block, whose columns are what may follow it.
        routes: The blocks.
        layers: Mixed layers, and final convolutions, by name.
    """

    def __init__(self, groups: list[Group], routes: Routes, layers: nn.ModuleDict) -> None:
        super().__init__()
        self.groups = groups
        self.routes = routes
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        states: dict[int, Any] = {0: x}
        for j in range(1, self.routes.output):
            terms = self._terms(j, states, "head_{i}_{j}")
            if terms:
                state = add_weighted(terms, f"block {j}")
                for k in range(self.routes.blocks[j].layers):
                    state = self.layers[f"layer_{j}_{k}"](state)
                states[j] = state
        last = self._terms(self.routes.output, states, "last_{i}")
        y: Tensor = add_weighted(last, "the final convolution")
        return y

    def _terms(self, j: int, states: Mapping[int, Any], name: str) -> list[tuple[object, Any]]:
        """Return what the blocks computed before give to block j."""
        terms: list[tuple[object, Any]] = []
        for i in self.routes.before(j):
            group = self.groups[i]
            column = group.columns.index(j)
            if i in states and column in group.active[0]:
                output = self.layers[name.format(i=i, j=j)](states[i])
                terms.append((i, group.weighted(0, column, output)))
        return terms

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        route = self.routes.route(arch)
        steps = [self.layers[layer.name] for layer in self.routes.layers_of(route)]
        return nn.Sequential(*steps, self.layers[f"last_{route[-2]}"])
