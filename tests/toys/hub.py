"""A small space of every kind in the hub, with its number of architectures; and of what was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from math import ceil, comb, factorial, prod
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import ModelSpace, hub, model_context
from spacelang.hub import (
    DARTS,
    ENAS,
    GPT,
    MLP,
    PNAS,
    SNAS,
    VGG,
    AmoebaNet,
    AutoFormer,
    DenseNAS,
    DigitsCells,
    ENASMacro,
    FairDARTS,
    FairDARTSEdges,
    GraphCells,
    HierarchicalCells,
    MobileNetV3Space,
    NASBench101,
    NASBench201,
    NASNet,
    OnceForAll,
    PlainCNN,
    ProxylessNAS,
    RecurrentLM,
    RNNCell,
    ShuffleNetSpace,
    StagedCells,
)
from spacelang.hub.cells import CellSpace
from spacelang.hub.mobile import MOBILE_BLOCKS
from spacelang.hub.published import Entry


@dataclass(frozen=True)
class Small:
    """A space by class and arguments, its number of architectures, and its inputs.

    These are images (channels, size, size), or what `given` makes of a number of samples.
    """

    kind: type[ModelSpace]
    arguments: Mapping[str, Any]
    size: int | None = None
    image: tuple[int, int, int] = (1, 8, 8)
    given: Callable[[int], tuple[Tensor, ...]] | None = None

    def make(self) -> ModelSpace:
        """The space, in float64, with the same first weights every time."""
        torch.manual_seed(0)
        return self.kind(**self.arguments).double()

    def build(self, arch: Mapping[str, Any], space: ModelSpace) -> nn.Module:
        """A network of `space` by its constructor, in float64: of cell spaces the search network."""
        search = {"affine": False} if issubclass(self.kind, CellSpace) else {}
        search |= {"norm": True} if issubclass(self.kind, RNNCell | RecurrentLM) else {}
        with model_context(dict(arch)):
            return space.rebuild(**search).double()

    def inputs(self, count: int = 3) -> tuple[Tensor, ...]:
        """Random inputs, always the same."""
        if self.given is not None:
            return self.given(count)
        return (normal(count, *self.image),)


def normal(*shape: int) -> Tensor:
    """Random numbers, always the same."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens(count: int) -> tuple[Tensor]:
    """Rows of five of seven words, at least two."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(7, (max(2, count), 5), generator=generator),)


def pairs(operations: int, nodes: int, *, distinct: bool = False) -> int:
    """Cells whose nodes have two slots in no order, an operation on an input each; two inputs if distinct."""
    if distinct:
        return prod(operations**2 * comb(inputs, 2) for inputs in range(2, 2 + nodes))
    return prod(comb(operations * inputs + 1, 2) for inputs in range(2, 2 + nodes))


def sparse(nodes: int) -> int:
    """Cells of up to two of seven operations a node; the first node has one or two."""
    return prod(1 - (n == 2) + 7 * n + 49 * comb(n, 2) for n in range(2, 2 + nodes))


def depths(options: int, most: int, least: int = 1) -> int:
    """Stages of `least` to `most` blocks, each with so many options."""
    return sum(options**depth for depth in range(least, most + 1))


TINY: dict[str, Any] = {"dataset": (1, 8, 3), "width": 2}
CELLS = {**TINY, "num_cells": 3, "num_nodes": 2}
MOBILE: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "dropout_rate": 0.0}
WIDTHS = (8, 8, 8, 16, 16, 24, 24, 32, 40)
SHUFFLE = {**MOBILE, "stages": ((20, 1), (30, 2), (40, 1))}


def graph(count: int) -> tuple[Tensor, Tensor]:
    """Features of six nodes, and edges: a ring, two chords, and a node without any that comes in."""
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (3, 1), (5, 0)]
    return normal(6, 3), torch.tensor(ring).T.contiguous()


LANGUAGE: dict[str, Any] = {
    "vocabulary": 7,
    "width": 4,
    **dict.fromkeys([f"{part}_dropout" for part in ("embedding", "input", "cell", "hidden", "output")], 0.0),
}

SMALL: dict[str, Small] = {
    "DARTS": Small(DARTS, CELLS, pairs(7, 2, distinct=True) ** 2),
    "DARTS-sizes": Small(
        DARTS,
        {
            **TINY,
            "width": [2, 4],
            "num_cells": [4, 5],
            "num_nodes": 1,
            "operations": ["sep_conv_3x3", "skip_connect"],
        },
        2 * 2 * pairs(2, 1, distinct=True) ** 2,
    ),
    "NASNet": Small(NASNet, CELLS, pairs(13, 2) ** 2),
    "ENAS": Small(ENAS, CELLS, pairs(5, 2) ** 2),
    "ENAS-sizes": Small(ENAS, {**CELLS, "width": [4, 2], "num_cells": [4, 6]}, 2 * 2 * pairs(5, 2) ** 2),
    "AmoebaNet": Small(AmoebaNet, CELLS, pairs(8, 2) ** 2),
    "PNAS": Small(PNAS, CELLS, pairs(8, 2) ** 2),
    "FairDARTS": Small(FairDARTS, CELLS, sparse(2) ** 2),
    # Two operations of five edges, of which the first two have one at least.
    "FairDARTSEdges": Small(
        FairDARTSEdges,
        {**CELLS, "operations": ["skip_connect", "sep_conv_3x3", "none"]},
        ((4**2 - 1) * 4**3) ** 2,
    ),
    "SNAS": Small(SNAS, CELLS, ((8**2 - 1) * 8**3) ** 2),  # the first node has an input
    "FairDARTS-width": Small(FairDARTS, {**CELLS, "width": [2, 4]}, 2 * sparse(2) ** 2),
    # 2 to 5 vertices are wired in 1, 2, 10 and 121 ways: each but the last is read, by at most 9 edges.
    "NASBench101": Small(
        NASBench101,
        {**TINY, "width": 4, "num_cells": 1, "num_stacks": 2, "max_vertices": 5},
        1 + 2 * 3 + 10 * 3**2 + 121 * 3**3,
    ),
    "NASBench201": Small(NASBench201, {**TINY, "num_cells": 1}, 5**6),
    # Three stages of one or two cells; a cell has a kernel where an edge is the convolution.
    "StagedCells": Small(StagedCells, {**TINY, "num_cells": 2}, (2 * (3 * (5**6 - 4**6) + 4**6)) ** 3),
    "DigitsCells": Small(DigitsCells, {"width": 2}, comb(5 + 1, 2) * comb(5 * 2 + 1, 2)),
    # Two motifs of three nodes, which count whether or not the cell uses them.
    "HierarchicalCells": Small(
        HierarchicalCells, {**TINY, "motifs": ((2, 3),), "num_nodes": 3}, 7 ** (2 * 3) * 3**3
    ),
    "ENASMacro": Small(ENASMacro, {**TINY, "num_layers": 4}, 6**4 * 2 ** (3 + 2 + 1)),
    "ProxylessNAS": Small(
        ProxylessNAS, {**MOBILE, "base_widths": WIDTHS}, depths(6, 4) ** 5 * 6, image=(1, 32, 32)
    ),
    # Routes 0 1 3, 0 1 2 3 and 0 2 3; a block with one further layer has 6 * 7 ways to be entered and passed.
    "DenseNAS": Small(
        DenseNAS,
        {
            "blocks": ((0, 8, 16), (1, 8, 8, 1), (1, 16, 8, 1)),
            "num_classes": 3,
            "last_channels": 16,
            "in_channels": 1,
        },
        42 + 42 * 42 + 42,
        image=(1, 32, 32),
    ),
    "MobileNetV3Space": Small(
        MobileNetV3Space,
        {
            **MOBILE,
            "base_widths": WIDTHS,
            "width_multipliers": (0.5, 2.0),
            "expand_ratios": (1.0, 2.5),
            "squeeze_excite": ("optional", "none", "optional", "force", "optional", "none"),
            "depth_range": [[1, 2], [1, 3], [2, 2], [1, 2], [1, 2]],
        },
        # Widths; kernels of the stem and of the first block, and its squeeze-and-excite; then the stages.
        2**8 * 2 * 3 * 2 * depths(6, 2) * depths(12, 3) * depths(6, 2, 2) * depths(12, 2) * depths(6, 2),
        image=(1, 32, 32),
    ),
    "MobileNetV3Space-fixed": Small(
        MobileNetV3Space,
        {
            **MOBILE,
            "base_widths": (8, 8, 16, 16, 16, 24, 32, 40),
            "width_multipliers": 1.0,
            "squeeze_excite": ("force", "none", "optional", "force", "none"),
            # Stages 2 and 3 keep width and size: they add their input from the first block on.
            "stride": (2, 1, 2, 1, 1, 2, 1, 1),
            "activation": ("swish",) * 8,
            "depth_range": (1, 2),
        },
        2 * 3 * depths(18, 2) ** 3 * depths(36, 2),
        image=(1, 32, 32),
    ),
    "OnceForAll": Small(
        OnceForAll,
        {
            **MOBILE,
            "width_multiplier": 0.1,
            "kernel_sizes": (3, 5),
            "expand_ratios": (1, 2),
            "depths": (1, 2),
        },
        depths(4, 2) ** 5,
        image=(1, 32, 32),
    ),
    "VGG": Small(
        VGG,
        {
            "dataset": (1, 8, 3),
            "widths": (8, 16),
            "width_multipliers": (0.5, 1.0, 2.0),
            "depths": (1, 2),
            "hidden": 8,
            "dropout": 0.0,
        },
        (3 * 2) ** 2,
    ),
    "VGG-bn": Small(
        VGG,
        {
            "dataset": (1, 8, 3),
            "widths": (8, 16),
            "width_multipliers": 1.0,
            "depths": (1, 3),
            "batch_norm": True,
            "hidden": 8,
            "pooled": 2,
            "dropout": 0.0,
        },
        2**2,
    ),
    "ShuffleNetSpace": Small(ShuffleNetSpace, SHUFFLE, 4**4, image=(1, 32, 32)),
    "ShuffleNetSpace-channels": Small(
        ShuffleNetSpace, {**SHUFFLE, "channel_search": True, "affine": False}, 32**4, image=(1, 32, 32)
    ),
    "AutoFormer": Small(
        AutoFormer,
        {
            "search_embed_dim": (8, 12),
            "search_mlp_ratio": (1.0, 2.0),
            "search_num_heads": (1, 2, 3),
            "search_depth": (1, 2),
            "num_classes": 3,
            "image_size": 8,
            "patch_size": 4,
            "in_channels": 1,
            "head_dim": 4,
        },
        2 * depths(6, 2),
    ),
    # Each node has an activation and one of the states before it.
    "RNNCell": Small(
        RNNCell,
        {"input_size": 3, "hidden_size": 4, "num_nodes": 3},
        4**3 * factorial(3),
        given=lambda count: (normal(max(2, count), 3), normal(max(2, count), 4)),
    ),
    "RecurrentLM": Small(
        RecurrentLM,
        {**LANGUAGE, "num_nodes": 3, "merge_op": "loose_end", "activations": ["tanh", "relu"]},
        2**3 * factorial(3),
        given=tokens,
    ),
    "GPT": Small(
        GPT,
        {
            "vocabulary": 7,
            "length": 5,
            "embed_dim": (8, 12),
            "num_heads": (1, 2, 3),
            "mlp_ratio": (1.0, 2.0),
            "depth": (1, 2),
            "head_dim": 4,
        },
        2 * depths(6, 2),
        given=tokens,
    ),
    # Blocks of one or two convolutions, 2 * 2 kinds each; one or two linear layers of two widths.
    "PlainCNN": Small(
        PlainCNN,
        {
            "dataset": (1, 8, 3),
            "num_blocks": 2,
            "max_layers": 2,
            "widths": (2, 4),
            "kernel_sizes": (1, 3),
            "max_hidden_layers": 2,
            "hidden": (3, 6),
        },
        depths(2 * 2, 2) ** 2 * depths(2, 2),
    ),
    "MLP": Small(
        MLP,
        {
            "inputs": 5,
            "outputs": 2,
            "width": (4, 6),
            "hidden": (3, 8),
            "depth": (1, 2),
            "activations": ["relu", "tanh"],
        },
        2 * depths(2 * 3 * 2 * 2, 2),
        given=lambda count: (normal(max(2, count), 5),),
    ),
    "GraphCells": Small(
        GraphCells,
        {"width": 2, "num_cells": 2, "in_features": 3, "num_classes": 2},
        pairs(9, 3, distinct=True),
        given=graph,
    ),
    "GraphCells-points": Small(
        GraphCells,
        {"width": 2, "num_cells": 2, "form": "points", "num_classes": 2, "neighbours": 3, "dropout": 0.0},
        pairs(9, 3, distinct=True),
        given=lambda count: (normal(count, 3, 8),),
    ),
}


@cache
def small_space(name: str) -> ModelSpace:
    """A space of the table, made once."""
    return SMALL[name].make()


def narrowed(entry: Entry) -> Small:
    """The space of a published architecture, as small as the architecture allows."""
    kind = getattr(hub, entry.space)
    if issubclass(kind, GraphCells):
        form = entry.arguments.get("form", "graph")
        return SMALL["GraphCells-points" if form == "points" else "GraphCells"]
    if issubclass(kind, RecurrentLM):
        return Small(kind, {**entry.arguments, **LANGUAGE}, given=tokens)
    if issubclass(kind, MobileNetV3Space | ProxylessNAS):
        widths = entry.arguments.get("base_widths", signature(kind).parameters["base_widths"].default)
        smaller = {**MOBILE, "base_widths": [8 * ceil(width / 128) for width in widths]}
    elif kind is DenseNAS:
        blocks = [(b.stage, 8 * ceil(b.channels / 128), b.size, b.layers) for b in MOBILE_BLOCKS]
        smaller = {"blocks": blocks, "num_classes": 3, "last_channels": 16, "in_channels": 1}
    elif kind is OnceForAll:
        smaller = {**MOBILE, "width_multiplier": 0.1}
    elif kind is VGG:
        smaller = {"dataset": (1, 32, 3), "widths": (8, 8, 8, 16, 16), "hidden": 8, "dropout": 0.0}
        return Small(kind, {**entry.arguments, **smaller}, image=(1, 32, 32))
    elif kind is ShuffleNetSpace:
        smaller = {**MOBILE, "stages": ((20, 4), (40, 4), (60, 8), (80, 4))}
    elif kind is AutoFormer:
        smaller = {"num_classes": 3, "in_channels": 1, "image_size": 16, "patch_size": 8, "head_dim": 4}
    else:
        smaller = TINY | ({"num_cells": 3} if "num_cells" in signature(kind).parameters else {})
    image = (1, smaller.get("image_size", 32 if "num_classes" in smaller else 8))
    return Small(kind, {**entry.arguments, **smaller}, image=(*image, image[1]))
