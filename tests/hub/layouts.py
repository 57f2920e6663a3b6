"""The evaluation network of the original DARTS, and of NNI's hub, written again from their published layouts.

Only names, order and arithmetic matter here: what a state dict of theirs is called, and what it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.hub import Genotype

CLASSES = 5


class Reduce(nn.Module):
    """Factorized reduction; both call the layers conv_1, conv_2 and bn."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(before, after // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(before, after // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


class Op(nn.Module):
    """The original's operations keep their layers in `op`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def relu_conv_bn(before: int, after: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)]


def depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]


def operation(name: str, channels: int, stride: int, block: Any) -> nn.Module:
    """One operation; `block` makes a module of layers, in the layout's way."""
    size = int(name[-1]) if name[-1].isdigit() else 0
    made: dict[str, Any] = {
        "skip_connect": lambda: nn.Identity() if stride == 1 else Reduce(channels, channels),
        "max_pool_3x3": lambda: nn.MaxPool2d(3, stride, 1),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
        "sep_conv": lambda: block(*depthwise(channels, size, stride), *depthwise(channels, size, 1)),
        "dil_conv": lambda: block(*depthwise(channels, size, stride, 2)),
    }
    return made[name if name in made else name[:8]]()


class Auxiliary(nn.Module):
    def __init__(self, channels: int, imagenet: bool, second_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, 2 if imagenet else 3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if second_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class DartsCell(nn.Module):
    def __init__(
        self, genotype: Genotype, pprev: int, prev: int, width: int, reduction: bool, after: bool
    ) -> None:
        super().__init__()
        self.preprocess0 = Reduce(pprev, width) if after else Op(*relu_conv_bn(pprev, width))
        self.preprocess1 = Op(*relu_conv_bn(prev, width))
        self.slots = genotype.reduce if reduction else genotype.normal
        self._ops = nn.ModuleList(
            operation(name, width, 2 if reduction and source < 2 else 1, Op) for name, source in self.slots
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        outputs = [(op, source) for op, (_, source) in zip(self._ops, self.slots, strict=True)]
        for first, second in zip(outputs[::2], outputs[1::2], strict=True):
            states.append(first[0](states[first[1]]) + second[0](states[second[1]]))
        return torch.cat(states[2:], 1)


class DrnasCell(DartsCell):
    """DrNAS trains with a batch norm after every pool."""

    def __init__(self, genotype: Genotype, pprev: int, prev: int, width: int, *kind: bool) -> None:
        super().__init__(genotype, pprev, prev, width, *kind)
        for k, (name, _) in enumerate(self.slots):
            if "pool" in name:
                self._ops[k] = Op(self._ops[k], nn.BatchNorm2d(width, affine=False))


class NniCell(nn.Module):
    def __init__(
        self, genotype: Genotype, pprev: int, prev: int, width: int, reduction: bool, after: bool
    ) -> None:
        super().__init__()
        self.preprocessor = nn.Module()
        self.preprocessor.pre0 = Reduce(pprev, width) if after else nn.Sequential(*relu_conv_bn(pprev, width))
        self.preprocessor.pre1 = nn.Sequential(*relu_conv_bn(prev, width))
        self.slots = genotype.reduce if reduction else genotype.normal
        made = [
            operation(name, width, 2 if reduction and source < 2 else 1, nn.Sequential)
            for name, source in self.slots
        ]
        if self.drop_path:
            made = [op if isinstance(op, nn.Identity) else nn.Sequential(op, nn.Identity()) for op in made]
        self.ops = nn.ModuleList(nn.ModuleList(made[i : i + 2]) for i in range(0, len(made), 2))

    drop_path = False

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocessor.pre0(s0), self.preprocessor.pre1(s1)]
        for node, ops in enumerate(self.ops):
            sources = [source for _, source in self.slots[2 * node : 2 * node + 2]]
            states.append(sum(op(states[source]) for op, source in zip(ops, sources, strict=True)))  # type: ignore[arg-type]
        return torch.cat(states[2:], 1)


class NniCellWithDropPath(NniCell):
    """With a drop-path rate, an operation is the first of two modules in a row."""

    drop_path = True


class Network(nn.Module):
    """Either network; `stages` says whether cells are numbered through or inside their stage."""

    def __init__(
        self,
        genotype: Genotype,
        cell: type[Any],
        width: int,
        num_cells: int,
        *,
        stages: bool,
        imagenet: bool = False,
        second_norm: bool = True,
    ) -> None:
        super().__init__()
        if imagenet:
            half = width // 2
            self.stem0 = nn.Sequential(
                nn.Conv2d(3, half, 3, 2, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                nn.Conv2d(half, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
            )
            pprev = prev = width
        else:
            pprev = prev = 3 * width
            self.stem = nn.Sequential(nn.Conv2d(3, prev, 3, padding=1, bias=False), nn.BatchNorm2d(prev))
        reductions = (num_cells // 3, 2 * num_cells // 3)
        made, after = [], imagenet
        for index in range(num_cells):
            reduction = index in reductions
            width *= 1 + reduction
            made.append(cell(genotype, pprev, prev, width, reduction, after))
            pprev, prev, after = prev, 4 * width, reduction
            if index == reductions[1]:
                self.auxiliary_head = Auxiliary(prev, imagenet, second_norm)
        if stages:
            bounds = (0, *reductions, num_cells)
            self.stages = nn.ModuleList(nn.Sequential(*made[bounds[s] : bounds[s + 1]]) for s in range(3))
        else:
            self.cells = nn.ModuleList(made)
        self.classifier = nn.Linear(prev, CLASSES)
        self.auxiliary_index = reductions[1]

    def in_order(self) -> Sequence[nn.Module]:
        if hasattr(self, "cells"):
            return list(self.cells)
        return [cell for stage in self.stages for cell in stage]  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits, auxiliary logits)."""
        s0 = self.stem0(x) if hasattr(self, "stem0") else self.stem(x)
        s1 = self.stem1(s0) if hasattr(self, "stem1") else s0
        auxiliary = x
        for index, cell in enumerate(self.in_order()):
            s0, s1 = s1, cell(s0, s1)
            if index == self.auxiliary_index:
                auxiliary = self.auxiliary_head(s1)
        return self.classifier(s1.mean((2, 3))), auxiliary
