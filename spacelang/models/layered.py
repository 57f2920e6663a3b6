"""Networks that are blocks of layers in a row, and how one of them grows into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..language import Architecture


@dataclass(frozen=True)
class Layer:
    """A layer of a network, as its architecture says it.

    Args:
        width: Number of its channels or features.
        kernel: Size of its kernel; None for a linear layer.
    """

    width: int
    kernel: int | None = None


Blocks: TypeAlias = tuple[tuple[Layer, ...], ...]
"""The layers of a network, block by block."""


@dataclass(frozen=True)
class BlockOptions:
    """Options of the layers of a block.

    Args:
        widths: Widths, increasing.
        kernels: Kernel sizes; (None,) for linear layers.
        most: Largest number of layers.
    """

    widths: tuple[int, ...]
    kernels: tuple[int | None, ...]
    most: int


@runtime_checkable
class LayeredSpace(Protocol):
    """A space whose networks are blocks of layers in a row, each block with at least one."""

    @property
    def options(self) -> Sequence[BlockOptions]:
        """Options of each block, in order."""
        ...

    def blocks_of(self, arch: Mapping[str, Any]) -> Blocks:
        """Return the layers of an architecture."""
        ...

    def architecture_with(self, blocks: Blocks) -> Architecture:
        """Return the architecture that has these layers."""
        ...


def kept_layers(small: Sequence[Layer], large: Sequence[Layer]) -> tuple[int, ...] | None:
    """Return which layers of a block come from the layers of a smaller one by Net2Net, in order.

    A layer may have become wider. The others were inserted as identities, each as wide as the layer before
    it. Of several ways the first is returned; None where there is none.

    >>> kept_layers([Layer(4, 3), Layer(4, 3)], [Layer(8, 3), Layer(8, 5), Layer(4, 3)])
    (0, 2)
    """
    for kept in combinations(range(len(large)), len(small)):
        grows = all(
            large[k].width >= layer.width and large[k].kernel == layer.kernel
            for k, layer in zip(kept, small, strict=True)
        )
        inserted = (k for k in range(len(large)) if k not in kept)
        if grows and all(k > 0 and large[k].width == large[k - 1].width for k in inserted):
            return kept
    return None
