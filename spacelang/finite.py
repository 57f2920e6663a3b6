"""Search for numbers that are infinite or not a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def largest(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest magnitude, a scalar; NaN where there is a NaN. It asks no device for a number."""
    return torch.nn.utils.get_total_norm([tensor.detach() for tensor in tensors], inf)


def not_finite(tensors: Mapping[str, Tensor], *, infinite: bool = True) -> list[str]:
    """Return the names of tensors that hold a NaN or an infinite number.

    Args:
        tensors: Tensors by name; those without data or without fractions are left out.
        infinite: Whether infinite numbers count; buffers such as attention masks hold them on purpose.
    """
    known = {name: t for name, t in tensors.items() if _has_fractions(t)}
    if not known or torch.isfinite(largest(known.values())):
        return []
    bad = [torch.isnan(t) if not infinite else torch.isfinite(t).logical_not() for t in known.values()]
    return [name for name, where in zip(known, bad, strict=True) if where.any()]


def _has_fractions(tensor: Tensor) -> bool:
    has_data = not (is_lazy(tensor) or tensor.is_meta) and tensor.numel() > 0
    return has_data and (tensor.is_floating_point() or tensor.is_complex())
