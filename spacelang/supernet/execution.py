"""Executions of a plan: which kernels compute the bundles of a supernet."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import SpaceError, require_one_of
from . import bundle_torch
from .bundles import Kernels

ExecutionName: TypeAlias = Literal["auto", "torch", "native", "plain"]
_CHANNELS = 16  # numbers of a vector of AVX-512, in float32
_NAMES = ("auto", "torch", "native", "plain")


@dataclass(frozen=True)
class Execution:
    """The way a supernet computes.

    Args:
        name: "plain" computes every operation on every edge by itself. "torch" computes once what the edges
            that leave a feature map share, and on a CPU its separable convolutions together. "native" has
            compiled C++ for these. "auto" is native where the C++ can be compiled, else torch.

    Raises:
        SpaceError: The name is unknown, or "native" is asked for and cannot be compiled here.
    """

    name: ExecutionName

    def __post_init__(self) -> None:
        require_one_of("execution", self.name, _NAMES)
        if self.name == "native" and (reason := _reason()):
            raise SpaceError(f'execution="native" is not possible here: {reason}. Use execution="torch".')

    def resolved(self, layout: torch.memory_format = torch.channels_last) -> Resolved:
        """Return what the name stands for here; "auto" may compile, and warns where that fails.

        Args:
            layout: Layout of the feature maps that native kernels return.
        """
        kernels = _native() if self.name in ("auto", "native") else None
        name: ExecutionName = "plain" if self.name == "plain" else "native" if kernels else "torch"
        return Resolved(name, kernels, layout)


@dataclass(frozen=True)
class Resolved:
    """An execution that is ready to compute.

    Args:
        name: "plain", "torch" or "native".
        native: Native kernels, if it uses them.
        layout: Layout of the feature maps that native kernels return.
    """

    name: ExecutionName
    native: Kernels | None = None
    layout: torch.memory_format = torch.channels_last

    def kernels(self, x: Tensor) -> Kernels | None:
        """Return what computes a bundle on this feature map; None to compute it edge by edge."""
        if self.name == "plain" or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        if self.native is not None:
            return self.native if x.dtype in (torch.float32, torch.float64) else None
        # oneDNN, which computes in float32, corrupts memory where channels are two, not whole vectors.
        whole = x.dim() == 4 and x.shape[1] % _CHANNELS == 0
        return bundle_torch if x.dtype == torch.float64 or (x.dtype == torch.float32 and whole) else None


@functools.cache
def _native() -> Kernels | None:
    """Return the native kernels, compiled if need be; None, with a warning, where that cannot be done."""
    if reason := _reason():
        warnings.warn(
            f"the supernet runs with PyTorch alone, more slowly, since native kernels are not available: "
            f'{reason}. execution="torch" does the same without this warning.',
            stacklevel=2,
        )
        return None
    from .native import operators  # late: registers operators that only this execution needs

    return operators


def _reason() -> str:
    """Return why there are no native kernels, or an empty text."""
    from .native.library import why_not  # late: the first call may compile for ten seconds

    return why_not()
