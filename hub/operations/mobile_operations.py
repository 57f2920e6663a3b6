"""Operations of mobile networks: inverted residuals, squeeze-and-excite, shuffle blocks.

A size (`Size`) is a number or a value choice: widths, expansions and kernels may be searched. A convolution
before a batch norm has no bias. Sources: MobileNetV2, arXiv:1801.04381; MobileNetV3, arXiv:1905.02244;
ShuffleNetV2, arXiv:1807.11164; SPOS, arXiv:1904.00420.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spacelang import nn as space_nn
from spacelang.language import maximum, to_int

Size: TypeAlias = Any
"""An int, or a value choice between several."""


@dataclass(frozen=True)
class Style:
    """Activation, batch norm and depthwise convolution of a network's blocks.

    Args:
        activation: Makes an activation.
        eps: Epsilon of batch norms.
        momentum: Momentum of batch norms.
        affine: Whether batch norms have parameters.
        depthwise: Class of depthwise convolutions, called as `Conv2d` is.
    """

    activation: Callable[[], nn.Module]
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    depthwise: Callable[..., nn.Module] = space_nn.Conv2d

    def norm(self, channels: Size) -> nn.Module:
        """Build a batch norm of this network."""
        norm: nn.Module = space_nn.BatchNorm2d(
            channels, eps=self.eps, momentum=self.momentum, affine=self.affine
        )
        return norm


def make_divisible(size: Size, divisor: int = 8) -> Size:
    """Round to the nearest multiple, halves up; to the next multiple if that is under 90 % of `size`.

    60 becomes 64 and 18 becomes 24; the result is at least one multiple. Source: `_make_divisible` of
    MobileNetV2's reference code, written so that `size`, which may be a large expression, occurs only twice.
    """
    lowest = maximum(size - divisor / 2 + 1e-6, 0.9 * size)  # the result is the first multiple from here
    return maximum(divisor, to_int(-(-lowest // divisor)) * divisor)


def conv_norm(
    in_channels: Size,
    out_channels: Size,
    kernel: Size = 1,
    stride: int = 1,
    *,
    style: Style,
) -> list[nn.Module]:
    """Build convolution and batch norm: (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
    conv = space_nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, style.norm(out_channels)]


def conv_norm_act(
    in_channels: Size,
    out_channels: Size,
    kernel: Size = 1,
    stride: int = 1,
    *,
    style: Style,
) -> nn.Sequential:
    """Build `conv_norm` and the activation."""
    layers = conv_norm(in_channels, out_channels, kernel, stride, style=style)
    return nn.Sequential(*layers, style.activation())


class Residual(nn.Sequential):
    """Layers in a row, with their output added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x + layers(x)."""
        y = x
        for layer in self:
            y = layer(y)
        return x + y


class SqueezeExcite(nn.Module):
    """Scaling of every channel by a gate that reads all channels: y = x * hard_sigmoid(W2 relu(W1 mean(x))).

    The hidden size is a quarter of the channels, made divisible by 8. (B, C, H, W) -> (B, C, H, W).

    Source: arXiv:1709.01507, with the gate of MobileNetV3.
    """

    def __init__(self, channels: Size) -> None:
        super().__init__()
        hidden = make_divisible(channels * 0.25)
        self.conv_reduce = space_nn.Conv2d(channels, hidden, 1)
        self.activation = nn.ReLU(inplace=True)
        self.conv_expand = space_nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled, (B, C, H, W)."""
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        gate: Tensor = self.gate(self.conv_expand(self.activation(self.conv_reduce(mean))))
        return x * gate


def separable(
    in_channels: Size,
    out_channels: Size,
    *,
    kernel: Size,
    stride: int,
    residual: bool,
    style: Style,
    squeeze_excite: Callable[[Size], nn.Module] | None = None,
) -> nn.Sequential:
    """Build depthwise k x k, squeeze-and-excite if given, linear 1x1; added to the input if `residual`."""
    layers = _depthwise_project(in_channels, out_channels, kernel, stride, style, squeeze_excite)
    return Residual(*layers) if residual else nn.Sequential(*layers)


def inverted_residual(
    in_channels: Size,
    out_channels: Size,
    *,
    expand_ratio: Size,
    kernel: Size,
    stride: int,
    residual: bool,
    style: Style,
    squeeze_excite: Callable[[Size], nn.Module] | None = None,
) -> nn.Sequential:
    """Build an MBConv block: 1x1 to make_divisible(expand_ratio * C_in) channels, then like `separable`.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        expand_ratio: Widening of the depthwise part.
        kernel: Kernel size of the depthwise part.
        stride: Stride of the depthwise part.
        residual: Whether to add the input; needs equal channels and stride 1.
        style: Norms and activations.
        squeeze_excite: Makes the layer after the depthwise part from its channels.
    """
    hidden = make_divisible(in_channels * expand_ratio)
    layers = [
        *conv_norm_act(in_channels, hidden, style=style),
        *_depthwise_project(hidden, out_channels, kernel, stride, style, squeeze_excite),
    ]
    return Residual(*layers) if residual else nn.Sequential(*layers)


def _depthwise_project(
    channels: Size,
    out_channels: Size,
    kernel: Size,
    stride: int,
    style: Style,
    squeeze_excite: Callable[[Size], nn.Module] | None,
) -> list[nn.Module]:
    depthwise = style.depthwise(
        channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False
    )
    return [
        *(depthwise, style.norm(channels), style.activation()),
        *([] if squeeze_excite is None else [squeeze_excite(channels)]),
        *conv_norm(channels, out_channels, style=style),
    ]


class ShuffleBlock(nn.Module):
    """A block of two branches, side by side in channels.

    Without a projection (stride 1), the even channels pass unchanged and the odd ones go through `main`; with
    one (stride 2), all channels go through both. (B, C, H, W) -> (B, C_out, H / stride, W / stride).
    """

    def __init__(self, main: nn.Sequential, projection: nn.Sequential | None = None) -> None:
        super().__init__()
        self.branch_main = main
        self.branch_proj = projection

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches, `main` last."""
        if self.branch_proj is None:
            other, x = x[:, ::2], x[:, 1::2]
        else:
            other = self.branch_proj(x)
        return torch.cat([other, self.branch_main(x)], dim=1)


def shuffle_block(
    in_channels: int,
    out_channels: int,
    mid_channels: Size,
    *,
    kernel: int,
    stride: int,
    xception: bool = False,
    affine: bool = True,
) -> ShuffleBlock:
    """Build a block of the ShuffleNetV2 family.

    The main branch is 1x1, depthwise, 1x1, with `mid_channels` inside; with `xception` it is three times
    depthwise, 1x1. ReLU follows each 1x1.

    Args:
        in_channels: Channels of the block's input; half of them enter the main branch at stride 1.
        out_channels: Channels of the block's output, including the other branch.
        mid_channels: Channels inside the main branch.
        kernel: Kernel size of the depthwise convolutions.
        stride: 1 or 2.
        xception: Whether to use three depthwise convolutions in place of one.
        affine: Whether batch norms have parameters.
    """
    channels = in_channels if stride == 2 else in_channels // 2
    added = out_channels - channels

    def depthwise(size: Size, stride: int = 1) -> list[nn.Module]:
        conv = space_nn.Conv2d(size, size, kernel, stride, padding=kernel // 2, groups=size, bias=False)
        return [conv, space_nn.BatchNorm2d(size, affine=affine)]

    def pointwise(size: Size, out_size: Size) -> list[nn.Module]:
        conv = space_nn.Conv2d(size, out_size, 1, bias=False)
        return [conv, space_nn.BatchNorm2d(out_size, affine=affine), nn.ReLU(inplace=True)]

    if xception:
        main = [
            *(*depthwise(channels, stride), *pointwise(channels, mid_channels)),
            *(*depthwise(mid_channels), *pointwise(mid_channels, mid_channels)),
            *(*depthwise(mid_channels), *pointwise(mid_channels, added)),
        ]
    else:
        main = [
            *pointwise(channels, mid_channels),
            *depthwise(mid_channels, stride),
            *pointwise(mid_channels, added),
        ]
    if stride == 1:
        return ShuffleBlock(nn.Sequential(*main))
    projection = nn.Sequential(*depthwise(channels, stride), *pointwise(channels, channels))
    return ShuffleBlock(nn.Sequential(*main), projection)


def initialise(model: nn.Module) -> None:
    """Initialise a mobile network: convolutions He-normal by fan-out, linear layers N(0, 0.01^2)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
