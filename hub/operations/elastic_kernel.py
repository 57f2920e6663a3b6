"""Convolutions whose smaller kernels are learned functions of the largest, as in once-for-all networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import nn as space_nn
from spacelang.language import Value


class TransformedKernels(space_nn.LayerSpec):
    """A convolution of chosen square kernel size, whose smaller kernels are transformed parts of larger ones.

    From one size to the next, K' = M centre(K), where the centre of a kernel is one vector of K'^2 numbers
    and M is a learned matrix that all filters share: 7 -> 5 -> 3 has a 25 x 25 and a 9 x 9 matrix. With
    identities, which it begins with, a smaller kernel is the centre of the largest.

    Source: once-for-all, arXiv:1908.09791, section 3.2.
    """

    nested = False

    @property
    def kernel_sizes(self) -> list[int]:
        """Possible kernel sizes, largest first."""
        size = self.arguments["kernel_size"]
        return sorted(set(size.possible()), reverse=True) if isinstance(size, Value) else [size]

    def build_largest(self) -> nn.Module:
        """Construct the layer with the largest kernel, and with the matrices as further parameters."""
        largest = super().build_largest()
        for larger, smaller in pairwise(self.kernel_sizes):
            largest.register_parameter(_name(larger, smaller), nn.Parameter(torch.eye(smaller**2)))
        return largest

    def slices(self, largest: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of `layer`, its kernel computed from the largest one."""
        cuts = super().slices(largest, layer)
        filters, channels, size, _ = layer.weight.shape  # type: ignore[misc]
        weight: Any = largest.weight
        cuts["weight"] = self._transformed(largest, weight[:filters, :channels], size)
        return cuts

    def _transformed(self, largest: nn.Module, weight: Tensor, size: int) -> Tensor:
        """Return smaller kernels from the largest, (C_out, C_in, K, K) -> (C_out, C_in, size, size)."""
        if weight.is_meta:  # a run that counts operations would count those of the matrices, too
            return weight.new_empty((*weight.shape[:2], size, size))
        for larger, smaller in self._steps_to(size):
            rim = (larger - smaller) // 2
            centre = weight[..., rim : rim + smaller, rim : rim + smaller]
            matrix = largest.get_parameter(_name(larger, smaller))
            weight = (centre.flatten(2) @ matrix.T).view(centre.shape)
        return weight

    def _steps_to(self, size: int) -> Iterator[tuple[int, int]]:
        return ((larger, smaller) for larger, smaller in pairwise(self.kernel_sizes) if smaller >= size)


class TransformedConv2d(space_nn.ValueLayer):
    """`Conv2d` whose smaller kernels are transformed parts of larger ones; see `TransformedKernels`."""

    layer_type = nn.Conv2d
    spec_type = TransformedKernels


def _name(larger: int, smaller: int) -> str:
    return f"transform_{larger}_to_{smaller}"
