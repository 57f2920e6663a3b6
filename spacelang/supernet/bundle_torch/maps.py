"""Feature maps as matrices and as phases."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def flat(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H W C); a view if it is so in memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def pixels(x: Tensor, parts: int) -> Tensor:
    """Return (N, parts C, H, W) as (parts, N H W, C); a view if it is (N, H, W, parts, C) in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, parts, x.shape[1] // parts).transpose(0, 1)


def product(x: Tensor, weights: Tensor) -> Tensor:
    """Return 1x1 convolutions, (N, parts C, H, W), of weights (parts, C out, C in)."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    # Each straight to its place: one call for all would leave them apart, to be copied.
    for a, b, out in zip(pixels(x, len(weights)), weights.mT, pixels(y, len(weights)), strict=True):
        torch.mm(a, b, out=out)
    return y


def phases(x: Tensor, step: int) -> Tensor:
    """Return every step-th pixel of every phase as an image by itself, (step^2 N, C, H / step, W / step)."""
    n, c, h, w = x.shape
    x = F.pad(x, (0, -w % step, 0, -h % step)).permute(0, 2, 3, 1)
    x = x.reshape(n, -(-h // step), step, -(-w // step), step, c).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(step * step * n, *x.shape[3:]).permute(0, 3, 1, 2)
