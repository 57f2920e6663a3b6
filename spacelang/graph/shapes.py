"""Outputs of common operations on tensors without data, found here and not by torch.

Torch loads its compiler to answer for these (1.3 s), which would be most of the time of a first trace. Where
a rule is not sure (strides out of order, mixed types, sizes that do not fit), torch is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def output_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the output of an operation on meta tensors; None where no rule knows it."""
    rule = _RULES.get(func)
    return None if rule is None else rule(*args, **kwargs)


def _elementwise(*args: Any, **kwargs: Any) -> Tensor | None:
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    x = tensors[0]
    if not x.is_floating_point() or any(tensor.dtype != x.dtype for tensor in tensors):
        return None
    return _broadcast(tensors)


def _arithmetic(*args: Any, **kwargs: Any) -> Tensor | None:
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    others = [argument for argument in (*args, *kwargs.values()) if not isinstance(argument, Tensor)]
    if all(tensor.dtype == torch.int64 for tensor in tensors) and all(type(x) is int for x in others):
        return _broadcast(tensors)
    return _elementwise(*args)


def _broadcast(tensors: Sequence[Tensor]) -> Tensor | None:
    x = tensors[0]
    if all(tensor.shape == x.shape and tensor.stride() == x.stride() for tensor in tensors):
        return torch.empty_like(x)
    try:
        shape: torch.Size = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None
    # Of the output's shape, the first operand alone says in which order its elements lie.
    is_first = x.shape == shape and _are_contiguous([x])
    return x.new_empty(shape) if is_first or _are_contiguous(tensors) else None


def _in_place(x: Tensor, *args: Any) -> Tensor | None:
    return x if x.is_meta and x.is_floating_point() else None


def _batch_norm(x: Tensor, *args: Any) -> tuple[Tensor, ...] | None:
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    fits = x.dim() > 1 and all(tensor.shape == x.shape[1:2] for tensor in tensors)
    if not fits or not x.is_floating_point() or any(tensor.dtype != x.dtype for tensor in tensors):
        return None
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _layer_norm(x: Tensor, shape: Sequence[int], *args: Any) -> tuple[Tensor, ...] | None:
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    kept = x.dim() - len(shape)
    fits = list(x.shape[kept:]) == list(shape) and all(
        list(tensor.shape) == list(shape) for tensor in tensors
    )
    if not fits or not _are_contiguous([x]) or any(tensor.dtype != x.dtype for tensor in (x, *tensors)):
        return None
    statistics = (*x.shape[:kept], *(1 for _ in shape))
    return torch.empty_like(x), x.new_empty(statistics), x.new_empty(statistics)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    order_matters = first.dim() in (4, 5)  # with other numbers of dimensions there is no channels-last format
    same = all(t.dim() == first.dim() and t.dtype == first.dtype and t.numel() for t in tensors)
    in_range = -first.dim() <= dim < first.dim()
    if not same or not in_range or (order_matters and not _are_contiguous(tensors)):
        return None
    shapes = [list(tensor.shape) for tensor in tensors]
    size = sum(shape.pop(dim) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        raise RuntimeError(f"sizes of tensors must match except in dimension {dim}; the others are {shapes}")
    shapes[0].insert(dim % first.dim(), size)
    return first.new_empty(shapes[0])


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if kwargs or not dims or not x.is_floating_point() or not _are_contiguous([x]):
        return None
    if not all(-x.dim() <= dim < x.dim() for dim in dims):
        return None
    gone = {dim % x.dim() for dim in dims}
    sizes = [1 if dim in gone else size for dim, size in enumerate(x.shape) if keepdim or dim not in gone]
    return x.new_empty(sizes)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor | None:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    same = a.is_floating_point() and a.dtype == b.dtype == bias.dtype
    return a.new_empty(a.shape[0], b.shape[1]) if fits and same and not kwargs else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    dims = x.dim() - 2
    sizes = (stride, padding, dilation)
    given = [tensor for tensor in (x, weight, bias) if tensor is not None]
    if transposed or dims < 1 or weight.dim() != x.dim() or any(len(size) != dims for size in sizes):
        return None
    fits = x.shape[1] == weight.shape[1] * groups and (bias is None or bias.shape == weight.shape[:1])
    if not fits or not _are_contiguous(given) or any(tensor.dtype != x.dtype for tensor in given):
        return None
    image = [
        (size + 2 * p - d * (kernel - 1) - 1) // s + 1
        for size, kernel, s, p, d in zip(x.shape[2:], weight.shape[2:], *sizes, strict=True)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *image) if min(image) > 0 else None


def _are_contiguous(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.is_contiguous() and math.prod(tensor.shape) for tensor in tensors)


_RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor), _arithmetic),
    **dict.fromkeys(
        (
            *(aten.relu.default, aten.gelu.default, aten.silu.default, aten.sigmoid.default),
            *(aten.tanh.default, aten.hardsigmoid.default, aten.div.Tensor),
        ),
        _elementwise,
    ),
    **dict.fromkeys(
        (aten.relu_.default, aten.hardtanh_.default, aten.hardswish_.default, aten.silu_.default), _in_place
    ),
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
    aten.addmm.default: _addmm,
    aten.convolution.default: _convolution,
}
