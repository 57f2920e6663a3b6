"""Depthwise convolutions and their gradients, out of the operators that are fast on a CPU.

On one core with AVX2 in float32:

- The gradient of a depthwise convolution's input is a convolution with the flipped kernel. PyTorch's own is
  as fast for dilation 1, and six times slower for dilation 2, for which oneDNN has no depthwise kernel.
- A dilated kernel sees the pixels of each phase of the image by themselves. So the gradient of its weights is
  that of a kernel without dilation on smaller images: four times faster.
- oneDNN has a kernel for the gradient of depthwise weights that are at most three columns wide and not higher
  than the image. Two calls for 3 of 5 columns each are twice as fast as its kernel for any convolution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..bundles import channels_last
from .maps import phases

Shape = tuple[int, int, int]
"""Kernel, dilation, stride."""


def _seen(x: Tensor, shape: Shape) -> tuple[Tensor, Shape]:
    """Return the pixels that a kernel sees, where its stride and dilation leave some out, and its shape."""
    kernel, dilation, stride = shape
    step = math.gcd(dilation, stride)
    if step == 1:
        return x, shape
    return channels_last(x[:, :, ::step, ::step]), (kernel, dilation // step, stride // step)


def convolved(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """Return the depthwise convolution of x, (N, C, H, W), with weights (C, 1, k, k)."""
    x, (kernel, dilation, stride) = _seen(x, shape)
    return F.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation, x.shape[1])


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """Return the gradient of x, (N, C, H, W), for that of the output, (N, C, H', W')."""
    seen, (kernel, dilation, stride) = _seen(x, shape)
    if stride == 1:
        found = F.conv2d(grad, weight.flip(2, 3), None, 1, dilation * (kernel // 2), dilation, x.shape[1])
    else:
        found = _gradient(grad, seen, weight, (kernel, dilation, stride), of_weight=False)
    if seen is x:
        return found
    step, whole = math.gcd(shape[1], shape[2]), torch.zeros_like(x)
    whole[:, :, ::step, ::step] = found
    return whole


def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, shape: Shape, known: dict[object, Tensor] | None = None
) -> Tensor:
    """Return the gradient of the weights, (C, 1, k, k).

    Args:
        grad: Gradient of the output, (N, C, H', W').
        x: Feature map that was convolved, (N, C, H, W).
        weight: The weights.
        shape: Kernel, dilation, stride.
        known: Phases of x that were found before, and are added to; None to keep none.
    """
    x, (kernel, dilation, stride) = _seen(x, shape)
    if stride > 1:
        return _gradient(grad, x, weight, (kernel, dilation, stride), of_weight=True)
    if dilation == 1:
        return _dense_weight_gradient(grad, x, weight)
    known, key = {} if known is None else known, (x.shape, dilation)
    if key not in known:
        known[key] = phases(x, dilation)
    return _dense_weight_gradient(phases(grad, dilation), known[key], weight)


def _dense_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weights of a kernel without stride and dilation, three columns at a time."""
    (rows, width), (kernel, channels) = x.shape[2:], (weight.shape[2], x.shape[1])
    if kernel <= 3:
        return _gradient(grad, x, weight, (kernel, 1, 1), of_weight=True)
    half, missing = kernel // 2, max(0, kernel - rows)
    x, grad = F.pad(x, (half, half, 0, missing)), F.pad(grad, (0, 0, 0, missing))
    found = torch.empty_like(weight)
    for first in (*range(0, kernel - 3, 3), kernel - 3):
        part, columns = channels_last(x[..., first : first + width + 2]), weight[..., :3]
        settings = [1, 1], [half, 0], [1, 1], False, [0, 0], channels, [False, True, False]
        gradients = torch.ops.aten.convolution_backward(grad, part, columns, None, *settings)
        found[..., first : first + 3] = gradients[1]
    return found


def _gradient(grad: Tensor, x: Tensor, weight: Tensor, shape: Shape, *, of_weight: bool) -> Tensor:
    kernel, dilation, stride = shape
    padding, channels, mask = dilation * (kernel // 2), x.shape[1], [not of_weight, of_weight, False]
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], channels, mask
    )
    found: Tensor = gradients[int(of_weight)]
    return found
