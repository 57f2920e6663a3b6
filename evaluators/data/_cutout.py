"""Cutout, the augmentation of the DARTS retraining recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.errors import SpaceError


@dataclass(frozen=True)
class Cutout:
    """Set one square of an image to zero; use it after the normalisation, where zero is the mean.

    The centre is uniform over all pixels and the square is clipped at the border. Draws two numbers
    from torch's global generator.

    Args:
        length: side of the square in pixels.

    Source: DeVries and Taylor, arXiv:1708.04552.
    """

    length: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise SpaceError(f"Cutout length is {self.length!r}; expected a whole number of pixels from 1")

    def __call__(self, image: Tensor) -> Tensor:
        """Return a copy of `image` (C, H, W) with the square at zero."""
        height, width = image.shape[-2:]
        top, bottom = self._range(height)
        left, right = self._range(width)
        cut = image.clone()
        cut[..., top:bottom, left:right] = 0.0
        return cut

    def _range(self, size: int) -> tuple[int, int]:
        start = int(torch.randint(size, ())) - self.length // 2
        return max(start, 0), min(start + self.length, size)
