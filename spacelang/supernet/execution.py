"""Executions of a plan: which kernels compute the bundles of a supernet."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import SpaceError, require_one_of
from . import joined
from .bundle_torch import grouped
from .bundles import ByKernels, Engine, Kernels

ExecutionName: TypeAlias = Literal["auto", "torch", "native", "plain"]
_NAMES = ("auto", "torch", "native", "plain")


@dataclass(frozen=True)
class Execution:
    """The way a supernet computes.

    Args:
        name: "plain" computes every operation on every edge by itself. "torch" computes once what the edges
            that leave a feature map share, and its separable convolutions together. "native" has compiled C++
            for these on a CPU, and CUDA graphs on a GPU. "auto" is native where that is possible, else torch.

    Raises:
        SpaceError: The name is unknown, or "native" is asked for and cannot be compiled here.
    """

    name: ExecutionName

    def __post_init__(self) -> None:
        require_one_of("execution", self.name, _NAMES)
        if self.name == "native" and not torch.cuda.is_available() and (reason := _reason()):
            raise SpaceError(f'execution="native" is not possible here: {reason}. Use execution="torch".')

    def resolved(self, layout: torch.memory_format) -> Resolved:
        """Return what the name stands for here; "auto" may compile, and warns where that fails.

        Args:
            layout: Layout of the supernet's feature maps.
        """
        if self.name in ("plain", "torch"):
            return Resolved(self.name, layout)
        kernels = _native()
        return Resolved("native" if kernels or torch.cuda.is_available() else "torch", layout, kernels)


@dataclass(frozen=True)
class Resolved:
    """An execution that is ready to compute.

    Args:
        name: "plain", "torch" or "native".
        layout: Layout of the supernet's feature maps, in which bundles return their sums.
        native: Native kernels, if it uses them.
    """

    name: ExecutionName
    layout: torch.memory_format
    native: Kernels | None = None

    @property
    def pools(self) -> bool:
        """Whether its bundles compute pools."""
        return (self.native or grouped).pools

    def engine(self, x: Any, *, is_path: bool) -> Engine | None:
        """Return what computes a bundle on this feature map; None to compute it edge by edge.

        Args:
            x: The feature map; one that is no tensor has no bundle.
            is_path: Whether a single path is computed. Only native kernels do that faster than its modules.
        """
        if not isinstance(x, Tensor):
            return None
        device = x.device.type
        if self.name == "plain" or device not in ("cpu", "cuda"):
            return None
        if device == "cuda" or torch.is_autocast_enabled(device):
            return None if is_path else joined
        if x.dtype not in (torch.float32, torch.float64):
            return None
        if is_path:
            return ByKernels(self.native) if self.native else None
        return ByKernels(self.native or grouped)


@functools.cache
def _native() -> Kernels | None:
    """Return the native kernels, compiled if need be; None, with a warning, where that cannot be done."""
    if reason := _reason():
        if torch.cuda.is_available():
            return None
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
    from .native.library import why_not  # late: the first call may compile for fifteen seconds

    return why_not()
