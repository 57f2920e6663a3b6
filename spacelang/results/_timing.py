"""Measuring how long something takes, and where."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from spacelang.errors import SpaceError

if TYPE_CHECKING:
    import torch
    from torch import nn


def median_milliseconds(run: Callable[[], object], device: torch.device, repeats: int, warmup: int) -> float:
    """Median time of `repeats` runs after `warmup` runs, each waiting until the device is done.

    Raises:
        SpaceError: `repeats` is less than 1, or `warmup` less than 0.
    """
    if repeats < 1 or warmup < 0:
        raise SpaceError(f"repeats={repeats} must be at least 1, and warmup={warmup} at least 0.")
    wait = _waiting(device)
    times = []
    for index in range(-warmup, repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        if index >= 0:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _waiting(device: torch.device) -> Callable[[], object]:
    """What waits for everything queued on a device."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def forked_rng(device: torch.device) -> AbstractContextManager[None]:
    """Leave the global generators of the CPU and of a device as they were."""
    import torch

    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    import torch

    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
