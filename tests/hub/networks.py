"""What tests of several spaces share: costs counted with integers alone or read off a network, mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spacelang import Supernet


@dataclass
class Tally:
    """Costs of layers written down one after the other, for one image."""

    parameters: int = 0
    macs: int = 0

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: int,
        *,
        groups: int = 1,
        norm: bool = True,
        bias: bool = False,
    ) -> None:
        """Build a convolution whose output is size x size, its bias, and its batch norm with parameters."""
        weights = in_channels // groups * out_channels * kernel**2
        self.parameters += weights + 2 * out_channels * norm + out_channels * bias
        self.macs += weights * size**2

    def linear(self, inputs: int, outputs: int, *, rows: int = 1, bias: bool = True) -> None:
        """Build a linear layer applied to `rows` vectors."""
        self.parameters += inputs * outputs + outputs * bias
        self.macs += inputs * outputs * rows


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def n_macs(model: nn.Module, *image: int) -> int:
    """Count the multiply-accumulates of a network's convolutions and linear layers for one image."""
    weight = next(model.parameters())
    return n_macs_of(model, torch.zeros(1, *image, dtype=weight.dtype, device=weight.device))


def n_macs_of(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Count the multiply-accumulates of a network's convolutions and linear layers for these inputs."""
    total = 0

    def count(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        fan_in = layer.weight[0].numel()  # type: ignore[index, union-attr]
        total += output.numel() * fan_in

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return total


def use_statistics_of(model: nn.Module, *inputs: torch.Tensor) -> None:
    """Let batch norms have the statistics of these inputs, under which signals neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(*inputs)


def one_hot(supernet: Supernet, arch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a mixture with all weight on one architecture (on the first candidate where it has none)."""
    mixture = {}
    for label, group in supernet.groups.items():
        (decision,) = group.decisions
        chosen = decision.position(arch[label]) if label in arch else 0
        mixture[label] = torch.eye(len(group.columns), dtype=torch.float64)[[chosen]]
    return mixture
