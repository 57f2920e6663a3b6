"""Small networks to make spaces of, with state of which every number matters."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def randomised(model: M) -> M:
    """Return a model in evaluation mode and float64, every weight and statistic drawn anew."""
    generator = torch.Generator().manual_seed(0)
    model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                is_scale = "norm" in name or "running_var" in name
                tensor.copy_(
                    drawn.abs() / 2 + 0.5 if is_scale else drawn * (0.1 if tensor.dim() > 1 else 0.3)
                )
    return model


def size(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


class Squeeze(nn.Module):
    """A gate: scales channels by what it computes from their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """An inverted residual block with a depthwise convolution and a gate."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.expansion = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.gate = Squeeze(inner, 3)
        self.projection = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.projection(self.gate(self.depthwise(self.expansion(x))))


class Mobile(nn.Module):
    """Two inverted blocks of 6 channels with 8 inside, for images of 1 channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.blocks = nn.Sequential(Inverted(6, 8), Inverted(6, 8))
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean((2, 3)))
