"""Operations of cell spaces: candidates of a cell, its input convolutions, stems and auxiliary heads.

Every convolution block is an `nn.Sequential` (not a subclass) that begins with `nn.ReLU()`, and a normalised
pool is `nn.Sequential(pool, BatchNorm2d(affine=False))`. A supernet may compute such a parameter-free
beginning once for all edges that leave a node. Convolutions have no bias. Numbers of channels may be value
choices, and the input channels also a `Concat`. Sources: DARTS, arXiv:1806.09055; NASNet, arXiv:1707.07012;
all candidates together, arXiv:1905.13214.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang import nn as space_nn
from spacelang.errors import SpaceError, quoted, require_number, require_one_of
from spacelang.language import Value

from .concat import Concat, conv2d

Channels: TypeAlias = int | Value

Builder = Callable[[Channels, int, bool], nn.Module]
"""(channels, stride, affine) -> operation, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""


class DropPath(nn.Module):
    """Dropout of a whole path for some samples: y = x / (1 - p) * mask, mask ~ Bernoulli(1 - p) per sample.

    Does nothing in evaluation mode or when p is 0. Holds no parameter or buffer; the mask is drawn from
    torch's generator of the input's device. Source: FractalNet, arXiv:1605.07648, in the form of DARTS.

    Args:
        p: Probability of dropping, 0 <= p < 1.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        require_number("p", p, least=0, below=1)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x with dropped samples set to zero and the others divided by 1 - p, (B, C, H, W)."""
        mask = self.mask(x)
        return x if mask is None else x.div(1.0 - self.p).mul(mask)

    def sample_factors(self, x: Tensor) -> Tensor | None:
        """Return the number that each sample is multiplied by, (B, 1, 1, 1); None for one everywhere."""
        mask = self.mask(x)
        return None if mask is None else mask.div(1.0 - self.p)

    def mask(self, x: Tensor) -> Tensor | None:
        """Return 0 for samples to drop and 1 for the others, (B, 1, 1, 1); None if none is dropped."""
        if not self.training or self.p == 0.0:
            return None
        return x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1.0 - self.p)

    def extra_repr(self) -> str:
        """Show the current probability in `print(model)`."""
        return f"p={self.p:g}"


@torch.fx.wrap  # its branch depends on sizes, which torch.fx does not know
def _shifted(x: Tensor) -> Tensor:
    """Return a map without its first row and column, with zeros at the end where its size is odd."""
    odd_height, odd_width = x.shape[-2] % 2, x.shape[-1] % 2
    shifted = x[:, :, 1:, 1:]
    if odd_height or odd_width:
        shifted = F.pad(shifted, (0, odd_width, 0, odd_height))
    return shifted


class OffsetConvs(nn.Module):
    """Two 1x1 stride-2 convolutions, the second on the map shifted by one pixel, side by side in channels.

    (B, C_in, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2)); on odd sizes the shifted map is padded with
    zeros.

    Raises:
        SpaceError: `out_channels` is odd.
    """

    def __init__(self, in_channels: Channels | Concat, out_channels: Channels) -> None:
        super().__init__()
        half = _half(out_channels, "a factorized reduction needs an even number of channels, got {}.")
        self.conv0 = conv2d(in_channels, half, 1, stride=2, bias=False)
        self.conv1 = conv2d(in_channels, half, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return both halves, (B, C_out, ceil(H / 2), ceil(W / 2))."""
        return torch.cat([self.conv0(x), self.conv1(_shifted(x))], dim=1)

    def partial(self, k: int) -> OffsetConvs:
        """Return the same layer on 1/k of the channels, for partial channels; `conv1` has the odd one.

        Raises:
            SpaceError: k does not divide the channels, or leaves fewer than two.
        """
        given, made = self.conv0.in_channels, self.conv0.out_channels + self.conv1.out_channels
        if given % k or made % k or made // k < 2:
            raise SpaceError(
                f"turns {given} channels into {made}; 1/{k} of both must be whole, and at least 2."
            )
        halves = OffsetConvs(given // k, made // k + made // k % 2)
        if made // k % 2:
            halves.conv0 = nn.Conv2d(given // k, made // k // 2, 1, stride=2, bias=False)
        return halves


def _half(channels: Channels, message: str) -> Any:
    """Return half of the channels; raise a `SpaceError` if they may be odd."""
    for possible in channels.possible() if isinstance(channels, Value) else (channels,):
        if possible % 2:
            raise SpaceError(message.format(possible))
    return channels // 2


def relu_conv_bn(
    in_channels: Channels | Concat, out_channels: Channels, affine: bool, *, kernel: int = 1, stride: int = 1
) -> nn.Sequential:
    """Build ReLU, convolution, norm: (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""
    return nn.Sequential(
        nn.ReLU(),
        conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        space_nn.BatchNorm2d(out_channels, affine=affine),
    )


def factorized_reduce(in_channels: Channels | Concat, out_channels: Channels, affine: bool) -> nn.Sequential:
    """Build ReLU, `OffsetConvs`, batch norm: (B, C_in, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        nn.ReLU(), OffsetConvs(in_channels, out_channels), space_nn.BatchNorm2d(out_channels, affine=affine)
    )


def _depthwise_block(
    channels: Channels, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    """Build ReLU, depthwise k x k, pointwise, batch norm; the map's size is divided by the stride."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        space_nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        space_nn.Conv2d(channels, channels, 1, bias=False),
        space_nn.BatchNorm2d(channels, affine=affine),
    ]


def sep_conv(
    channels: Channels, stride: int, affine: bool, *, kernel: int, dilation: int = 1
) -> nn.Sequential:
    """Build two depthwise-separable blocks, the stride in the first: 2 (k^2 C + C^2 + 2C) parameters."""
    first = _depthwise_block(channels, kernel, stride, dilation, affine)
    return nn.Sequential(*first, *_depthwise_block(channels, kernel, 1, dilation, affine))


def dil_conv(channels: Channels, stride: int, affine: bool, *, kernel: int) -> nn.Sequential:
    """Build one depthwise-separable block with dilation 2: k^2 C + C^2 + 2C parameters."""
    return nn.Sequential(*_depthwise_block(channels, kernel, stride, 2, affine))


def conv(channels: Channels, stride: int, affine: bool, *, kernel: int) -> nn.Sequential:
    """Build ReLU, k x k convolution, batch norm: k^2 C^2 + 2C parameters."""
    return relu_conv_bn(channels, channels, affine, kernel=kernel, stride=stride)


def row_column_conv(channels: Channels, stride: int, affine: bool, *, kernel: int) -> nn.Sequential:
    """Build 1 x k and k x 1 convolutions, each with the stride along its length: 2k C^2 + 2C parameters."""
    half = kernel // 2
    return nn.Sequential(
        nn.ReLU(),
        space_nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, half), bias=False),
        space_nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (half, 0), bias=False),
        space_nn.BatchNorm2d(channels, affine=affine),
    )


def max_pool(channels: Channels, stride: int, affine: bool, *, kernel: int = 3) -> nn.Module:
    """Build max pooling, in the search network (affine=False) with a batch norm without parameters."""
    return _pool(nn.MaxPool2d(kernel, stride, padding=kernel // 2), channels, affine)


def avg_pool(channels: Channels, stride: int, affine: bool, *, kernel: int = 3) -> nn.Module:
    """Build average pooling that does not count the padding; normalised like `max_pool`."""
    pool = nn.AvgPool2d(kernel, stride, padding=kernel // 2, count_include_pad=False)
    return _pool(pool, channels, affine)


def _pool(pool: nn.Module, channels: Channels, affine: bool) -> nn.Module:
    return pool if affine else nn.Sequential(pool, space_nn.BatchNorm2d(channels, affine=False))


def skip_connect(channels: Channels, stride: int, affine: bool) -> nn.Module:
    """Build an identity at stride 1, `factorized_reduce` at stride 2."""
    return nn.Identity() if stride == 1 else factorized_reduce(channels, channels, affine)


class Zero(nn.Module):
    """No connection: zeros, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the operation's output shape."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class Noise(nn.Module):
    """Noise in place of its input: N(0, 1), drawn again in each call; (B, C, H, W) as `Zero`.

    Drawn from torch's generator of the input's device. Source: space S4 of arXiv:1909.09656.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return noise of the operation's output shape."""
        shape = x[:, :, :: self.stride, :: self.stride].shape
        return torch.randn(shape, dtype=x.dtype, device=x.device)  # the same numbers in every memory format

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


def noise(channels: Channels, stride: int, affine: bool) -> nn.Module:
    """Build `Noise`."""
    return Noise(stride)


def none(channels: Channels, stride: int, affine: bool) -> nn.Module:
    """Build `Zero`."""
    return Zero(stride)


OPERATIONS: dict[str, Builder] = {
    "none": none,
    "noise": noise,
    "skip_connect": skip_connect,
    "conv_1x1": partial(conv, kernel=1),
    "conv_3x3": partial(conv, kernel=3),
    "conv_5x5": partial(conv, kernel=5),
    "conv_3x1_1x3": partial(row_column_conv, kernel=3),
    "conv_7x1_1x7": partial(row_column_conv, kernel=7),
    "sep_conv_3x3": partial(sep_conv, kernel=3),
    "sep_conv_5x5": partial(sep_conv, kernel=5),
    "sep_conv_7x7": partial(sep_conv, kernel=7),
    "dil_conv_3x3": partial(dil_conv, kernel=3),
    "dil_conv_5x5": partial(dil_conv, kernel=5),
    "dil_sep_conv_3x3": partial(sep_conv, kernel=3, dilation=2),
    "avg_pool_3x3": avg_pool,
    "max_pool_3x3": max_pool,
    "max_pool_5x5": partial(max_pool, kernel=5),
    "max_pool_7x7": partial(max_pool, kernel=7),
}
"""Candidate operations by their published names."""

POOLS = tuple(name for name in OPERATIONS if "pool" in name)
"""Operations that have no weights; a batch norm may follow them."""

DARTS_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The seven operations of the DARTS cell, in the paper's order; its eighth, `none`, is never chosen."""


def make_operation(
    name: str, channels: Channels, stride: int, *, affine: bool, drop_path: float | None = None
) -> nn.Module:
    """Build one candidate operation of a cell, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    Args:
        name: A key of `OPERATIONS`.
        channels: C, the same at input and output.
        stride: 1, or 2 on the edges from a reduction cell's inputs.
        affine: True for the evaluation network (batch norms with parameters, plain pools), False for the
            search network (batch norms without, pools followed by one).
        drop_path: Initial probability of a `DropPath` at the end; None for no such module. The stride-1
            identity and `none` never have one.

    Raises:
        SpaceError: the name is unknown; names the closest one.
    """
    require_one_of("operation", name, OPERATIONS)
    operation = OPERATIONS[name](channels, stride, affine)
    if drop_path is None or isinstance(operation, nn.Identity | Zero):
        return operation
    layers = list(operation) if isinstance(operation, nn.Sequential) else [operation]
    return nn.Sequential(*layers, DropPath(drop_path))


def check_operations(names: object) -> tuple[str, ...]:
    """Return the names as a tuple; raise a `SpaceError` if there are none, or repeated or unknown ones."""
    if isinstance(names, str) or not isinstance(names, (list, tuple)) or not names:
        raise SpaceError(f"operations={names!r} must be a tuple of names out of {quoted(OPERATIONS)}.")
    for name in names:
        require_one_of("operation", name, OPERATIONS)
    if len(set(names)) < len(names):
        raise SpaceError(f"operations={names!r} must not repeat a name.")
    return tuple(names)


def cifar_stem(in_channels: int, out_channels: Channels) -> nn.Sequential:
    """Build a 3x3 convolution and a batch norm, always affine: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        space_nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        space_nn.BatchNorm2d(out_channels),
    )


def imagenet_stems(in_channels: int, width: Channels) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two affine stems, (B, C_in, H, W) -> (B, width, H / 4, W / 4) -> (B, width, H / 8, W / 8).

    Raises:
        SpaceError: `width` is odd.
    """
    half = _half(width, "the ImageNet stem needs an even width, got width={}.")
    first = nn.Sequential(
        space_nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
        space_nn.BatchNorm2d(half),
        nn.ReLU(),
        space_nn.Conv2d(half, width, 3, stride=2, padding=1, bias=False),
        space_nn.BatchNorm2d(width),
    )
    second = nn.Sequential(
        nn.ReLU(),
        space_nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        space_nn.BatchNorm2d(width),
    )
    return first, second


def cifar_auxiliary_head(
    channels: Channels | Concat, num_classes: int, size: int, affine: bool
) -> nn.Sequential:
    """Build an auxiliary classifier: (B, C, size, size) -> (B, num_classes).

    A map of 8x8 has the paper's pool (5, stride 3); any other size has an adaptive pool to the same 2x2.
    """
    pool = nn.AvgPool2d(5, stride=3, count_include_pad=False) if size == 8 else nn.AdaptiveAvgPool2d(2)
    normalised: list[nn.Module] = [nn.BatchNorm2d(768, affine=affine)]
    return _auxiliary_head(channels, num_classes, pool, normalised, affine)


def imagenet_auxiliary_head(channels: Channels | Concat, num_classes: int, affine: bool) -> nn.Sequential:
    """Build an auxiliary classifier, (B, C, 7, 7) -> (B, num_classes); as published, with one batch norm."""
    pool = nn.AvgPool2d(5, stride=2, count_include_pad=False)
    return _auxiliary_head(channels, num_classes, pool, [], affine)


def _auxiliary_head(
    channels: Channels | Concat, num_classes: int, pool: nn.Module, last_norm: list[nn.Module], affine: bool
) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        pool,  # (B, C, 2, 2)
        conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128, affine=affine),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),  # (B, 768, 1, 1)
        *last_norm,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )
