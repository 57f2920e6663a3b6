"""A space without weights to speak of and evaluators that take no time; importable by worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, Repeat, SpaceError, value_choice
from spacelang.trials import Ledger, Trial


class Scale(nn.Module):
    """Multiply by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Chain(ModelSpace):
    """x times a factor of each layer: 3 ** layers architectures."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LayerChoice({"one": Scale(1), "two": Scale(2), "three": Scale(3)}, label=f"layer{i}")
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Conditional(ModelSpace):
    """A depth from 0 to 2 whose blocks have a choice of their own, and a number: 4 * (1 + 2 + 4) = 28."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Repeat(
            lambda i: LayerChoice({"one": Scale(1), "two": Scale(2)}, label=f"block{i}"),
            (0, 2),
            label="depth",
        )
        self.bias = value_choice([0, 1, 2, 3], label="bias")

    @staticmethod
    def _block(index: int) -> nn.Module:
        return LayerChoice({"one": Scale(1), "two": Scale(2)}, label=f"block{index}")

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) + self.bias


def product(model: nn.Module) -> float:
    """What the model makes of one."""
    return float(model(torch.ones(())))


def noisy(model: nn.Module) -> dict[str, float]:
    """The product, and a draw from the trial's seed."""
    return {"default": product(model), "draw": float(torch.rand(()))}


def curve(model: nn.Module, report: Callable[[dict[str, float], int], None]) -> dict[str, float]:
    """Ten epochs whose value rises to the product."""
    for epoch in range(10):
        report({"default": product(model) * (epoch + 1) / 10}, epoch)
    return {"default": product(model)}


def dies_on_two(model: nn.Module) -> float:
    """Kills its process for a product of two."""
    if product(model) == 2:
        os._exit(7)
    return product(model)


def hangs_on_two(model: nn.Module) -> float:
    """Never returns for a product of two."""
    while product(model) == 2:
        time.sleep(1)
    return product(model)


def fills_memory_on_two(model: nn.Module) -> float:
    """Starts a process that takes a gigabyte and keeps it, for a product of two."""
    if product(model) == 2:
        program = "data = bytearray(2**30)\nfor i in range(0, 2**30, 4096): data[i] = 1\ninput()"
        subprocess.run([sys.executable, "-c", program], stdin=subprocess.PIPE, check=True)
    return product(model)


def kills_its_parent_on_two(model: nn.Module) -> float:
    """Kills the process that started its own, for a product of two."""
    if product(model) == 2:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return product(model)


def raises_on_two(model: nn.Module) -> float:
    """Raises for a product of two, NaN for three."""
    value = product(model)
    if value == 2:
        raise ValueError("two is not allowed")
    return float("nan") if value == 3 else value


class Interrupting:
    """Raises KeyboardInterrupt at its nth model."""

    def __init__(self, at: int, function: Callable[[nn.Module], dict[str, float]] = noisy) -> None:
        self.left = at
        self.function = function

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.function(model)


def slow(model: nn.Module) -> dict[str, float]:
    """Takes 20 ms."""
    time.sleep(0.02)
    return noisy(model)


def lasts_a_second(model: nn.Module) -> float:
    """Takes a second."""
    time.sleep(1)
    return product(model)


def trials_of(experiment: Any) -> list[tuple[Any, ...]]:
    """What must be equal in two runs of one search."""
    return [(t.number, t.arch, t.seed, t.state, dict(t.metrics)) for t in experiment.history]


def recorded(ledger: Path) -> list[Trial]:
    """The trials of a search in another process, which may not have begun."""
    try:
        return Ledger(ledger).trials()
    except SpaceError:
        return []
