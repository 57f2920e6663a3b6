"""Counting the floating-point operations of modules and of frozen models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import SpaceError
from ..graph.flop_mode import META, Known, Operations
from ..graph.tensors import map_tensors, tensors_in, without_data
from ..language import Space
from ..language.base import frozen_space
from .prices import Measure


def count_flops(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, Any]:
    """Count the operations of one evaluation-mode pass of a frozen network, and its output.

    Raises:
        SpaceError: the forward pass fails.
    """
    try:
        return _count_on(META, copy.deepcopy(model), inputs, Known())
    except Exception:  # any network code may run here; the real pass below says what is wrong
        pass
    try:
        return _count_on(torch.device("cpu"), copy.deepcopy(model), inputs, Known())
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        raise SpaceError(
            f"cannot profile {type(model).__name__}: its forward pass fails for an input of shape {shapes}: "
            f"{error}"
        ) from error


def frozen_flops(space: Space, inputs: Sequence[Any], known: Known | None = None) -> Measure:
    """Count the operations of the frozen model.

    Args:
        space: left untouched.
        inputs: positional arguments of its forward.
        known: Results found before.
    """
    results = known or Known()
    no_data = {id(t): without_data(t) for t in (*space.parameters(), *space.buffers())}

    def measure(arch: Mapping[str, Any]) -> int:
        try:
            return _count_on(META, frozen_space(space, arch, no_data), tuple(inputs), results)[0]
        except Exception:  # any network code may run here; with weights it may run, or say what is wrong
            return count_flops(space.freeze(arch), tuple(inputs))[0]

    return measure


def _count_on(
    device: torch.device, replica: nn.Module, inputs: tuple[Any, ...], known: Known
) -> tuple[int, Any]:
    """Run a network that nobody else uses on a device."""
    given = map_tensors(lambda tensor: tensor.to(device), inputs)
    with device:  # what it makes itself, too
        return counted(replica.to(device).eval(), given, {}, known)


def counted(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], known: Known
) -> tuple[int, Any]:
    """Return the operations of a pass without gradients, and its output."""
    with torch.no_grad(), Operations(known) as counter:
        output = module(*args, **kwargs)
    return counter.total, output
