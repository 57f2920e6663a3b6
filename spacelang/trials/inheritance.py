"""Weights that a trial inherits from the trial of its parent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Heir(Protocol):
    """A model that knows how to begin where a parent of another architecture ended.

    A `ModelSpace` with such a method does; other models inherit by `inherit_weights`.
    """

    def inherit(self, parent: nn.Module) -> None:
        """Take over the weights of a model of the same space."""
        ...


@torch.no_grad()
def inherit_weights(model: nn.Module, parent: nn.Module) -> None:
    """Copy the weights of a parent wherever both models have the same kind of layer in the same place.

    The same place is the same path of modules of the same classes. Where sizes differ, what they have in
    common is copied: the first channels, of kernels the centre. The rest stays as it is.
    """
    theirs = dict(_tensors(parent))
    for place, mine in _tensors(model):
        other = theirs.get(place)
        if other is not None and other.dim() == mine.dim():
            common = tuple(map(min, mine.shape, other.shape))
            _part(mine, common).copy_(_part(other, common))


def _tensors(model: nn.Module) -> Iterator[tuple[tuple[object, ...], Tensor]]:
    """Yield parameters and buffers with their places: names and classes of the modules around them."""
    kinds = {path: type(module) for path, module in model.named_modules()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        parts = name.split(".")
        around = [kinds[".".join(parts[:depth])] for depth in range(1, len(parts))]
        yield (name, *around), tensor


def _part(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the part of a tensor that has a shape: the first entries, of kernels the centre."""
    for dim, (whole, size) in enumerate(zip(tensor.shape, shape, strict=True)):
        start = (whole - size) // 2 if dim >= 2 else 0
        tensor = tensor.narrow(dim, start, size)
    return tensor
