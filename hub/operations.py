"""Operations of the DARTS family: candidates of a cell, its input convolutions, stems and auxiliary heads.

Every convolution block is an exact `nn.Sequential` that begins with `nn.ReLU()`, and a normalised pool is
`nn.Sequential(pool, BatchNorm2d(affine=False))`: a supernet may compute such a parameter-free beginning once
for all edges that leave a node. Convolutions have no bias. Source: DARTS, arXiv:1806.09055.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang.errors import SpaceError, closest, quoted

Builder = Callable[[int, int, bool], nn.Module]
"""(channels, stride, affine) -> operation, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""


class DropPath(nn.Module):
    """Drop the whole path of some samples: y = x / (1 - p) * mask, mask ~ Bernoulli(1 - p) per sample.

    Does nothing in evaluation mode or when p is 0. Holds no parameter or buffer; the mask is drawn from
    torch's generator of the input's device. Source: FractalNet, arXiv:1605.07648, in the form DARTS uses.

    Args:
        p: probability of dropping, 0 <= p < 1.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = check_probability(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with dropped samples set to zero and the others divided by 1 - p, (B, C, H, W)."""
        if not self.training or self.p == 0.0:
            return x
        keep = 1.0 - self.p
        mask = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep)  # (B, 1, 1, 1)
        return x.div(keep).mul(mask)

    def extra_repr(self) -> str:
        """Show the current probability in `print(model)`."""
        return f"p={self.p:g}"


class OffsetConvs(nn.Module):
    """Two 1x1 stride-2 convolutions, the second on the map shifted by one pixel, side by side in channels.

    (B, C_in, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2)); on odd sizes the shifted map is padded with
    zeros.

    Raises:
        SpaceError: `out_channels` is odd.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels % 2:
            raise SpaceError(f"a factorized reduction needs an even number of channels, got {out_channels}.")
        self.conv0 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return both halves, (B, C_out, ceil(H / 2), ceil(W / 2))."""
        odd_height, odd_width = x.shape[-2] % 2, x.shape[-1] % 2
        shifted = x[:, :, 1:, 1:]
        if odd_height or odd_width:
            shifted = F.pad(shifted, (0, odd_width, 0, odd_height))
        return torch.cat([self.conv0(x), self.conv1(shifted)], dim=1)


def check_probability(p: float) -> float:
    """Return p as a float; a drop-path probability outside 0 <= p < 1 is a `SpaceError`."""
    if isinstance(p, bool) or not isinstance(p, Real) or not 0.0 <= p < 1.0:
        raise SpaceError(f"drop-path probability must be a number with 0 <= p < 1, got {p!r}.")
    return float(p)


def relu_conv_bn(in_channels: int, out_channels: int, affine: bool) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


def factorized_reduce(in_channels: int, out_channels: int, affine: bool) -> nn.Sequential:
    """ReLU, `OffsetConvs`, batch norm: (B, C_in, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        nn.ReLU(), OffsetConvs(in_channels, out_channels), nn.BatchNorm2d(out_channels, affine=affine)
    )


def _depthwise_block(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise k x k, pointwise, batch norm; the map keeps its size divided by the stride."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def sep_conv(channels: int, stride: int, affine: bool, *, kernel: int) -> nn.Sequential:
    """Depthwise-separable block applied twice, the stride in the first: 2 (k^2 C + C^2 + 2C) parameters."""
    first = _depthwise_block(channels, kernel, stride, 1, affine)
    return nn.Sequential(*first, *_depthwise_block(channels, kernel, 1, 1, affine))


def dil_conv(channels: int, stride: int, affine: bool, *, kernel: int) -> nn.Sequential:
    """Depthwise-separable block with dilation 2, applied once: k^2 C + C^2 + 2C parameters."""
    return nn.Sequential(*_depthwise_block(channels, kernel, stride, 2, affine))


def max_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    """3x3 max pooling; followed by a batch norm without parameters in the search network (affine=False)."""
    return _pool(nn.MaxPool2d(3, stride, padding=1), channels, affine)


def avg_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    """3x3 average pooling that leaves the padding out; normalised like `max_pool` in the search network."""
    return _pool(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), channels, affine)


def _pool(pool: nn.Module, channels: int, affine: bool) -> nn.Module:
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    """Identity at stride 1, `factorized_reduce` at stride 2."""
    return nn.Identity() if stride == 1 else factorized_reduce(channels, channels, affine)


def _sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return sep_conv(channels, stride, affine, kernel=3)


def _sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return sep_conv(channels, stride, affine, kernel=5)


def _dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return dil_conv(channels, stride, affine, kernel=3)


def _dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return dil_conv(channels, stride, affine, kernel=5)


OPERATIONS: dict[str, Builder] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
    "skip_connect": skip_connect,
    "sep_conv_3x3": _sep_conv_3x3,
    "sep_conv_5x5": _sep_conv_5x5,
    "dil_conv_3x3": _dil_conv_3x3,
    "dil_conv_5x5": _dil_conv_5x5,
}
"""Candidate operations by their published names, in the paper's order."""

DARTS_OPERATIONS = tuple(OPERATIONS)
"""The seven operations of the DARTS cell (`none` is the supernet's own, never part of an architecture)."""


def make_operation(
    name: str, channels: int, stride: int, *, affine: bool, drop_path: float | None = None
) -> nn.Module:
    """Build one candidate operation of a cell, (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    Args:
        name: a key of `OPERATIONS`.
        channels: C, the same at input and output.
        stride: 1, or 2 on the edges from a reduction cell's inputs.
        affine: True for the evaluation network (batch norms with parameters, plain pools), False for the
            search network (batch norms without, pools followed by one).
        drop_path: initial probability of a `DropPath` at the end, None for no such module. The stride-1
            identity never has one.

    Raises:
        SpaceError: unknown name; names the closest one.
    """
    operation = _builder(name)(channels, stride, affine)
    if drop_path is None or isinstance(operation, nn.Identity):
        return operation
    layers = list(operation) if isinstance(operation, nn.Sequential) else [operation]
    return nn.Sequential(*layers, DropPath(drop_path))


def check_operations(names: object) -> tuple[str, ...]:
    """Return the names as a tuple; empty, repeated or unknown ones are a `SpaceError`."""
    if isinstance(names, str) or not isinstance(names, (list, tuple)) or not names:
        known = quoted(OPERATIONS)
        raise SpaceError(f"operations must be a tuple of names, got {names!r}; known names are {known}.")
    for name in names:
        _builder(name)
    if len(set(names)) < len(names):
        raise SpaceError(f"operations must not repeat a name, got {names!r}.")
    return tuple(names)


def _builder(name: object) -> Builder:
    if not isinstance(name, str) or name not in OPERATIONS:
        raise SpaceError(
            f"unknown operation {name!r}; known names are {quoted(OPERATIONS)}.{closest(name, OPERATIONS)}"
        )
    return OPERATIONS[name]


def cifar_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution and batch norm, always affine: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
    )


def imagenet_stems(in_channels: int, width: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Two affine stems in a row, (B, C_in, H, W) -> (B, width, H / 4, W / 4) -> (B, width, H / 8, W / 8).

    Raises:
        SpaceError: `width` is odd.
    """
    if width % 2:
        raise SpaceError(f"the ImageNet stem needs an even width, got width={width}.")
    half = width // 2
    first = nn.Sequential(
        nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Conv2d(half, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )
    second = nn.Sequential(
        nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
    )
    return first, second


def cifar_auxiliary_head(channels: int, num_classes: int, size: int, affine: bool) -> nn.Sequential:
    """Auxiliary classifier: (B, C, size, size) -> (B, num_classes).

    The paper's pool (5, stride 3) where the map is 8x8; for any other size an adaptive pool to the same 2x2.
    """
    pool = nn.AvgPool2d(5, stride=3, count_include_pad=False) if size == 8 else nn.AdaptiveAvgPool2d(2)
    normalised: list[nn.Module] = [nn.BatchNorm2d(768, affine=affine)]
    return _auxiliary_head(channels, num_classes, pool, normalised, affine)


def imagenet_auxiliary_head(channels: int, num_classes: int, affine: bool) -> nn.Sequential:
    """Auxiliary classifier, (B, C, 7, 7) -> (B, num_classes); as published, without the second batch norm."""
    pool = nn.AvgPool2d(5, stride=2, count_include_pad=False)
    return _auxiliary_head(channels, num_classes, pool, [], affine)


def _auxiliary_head(
    channels: int, num_classes: int, pool: nn.Module, last_norm: list[nn.Module], affine: bool
) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        pool,  # (B, C, 2, 2)
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128, affine=affine),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),  # (B, 768, 1, 1)
        *last_norm,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )
