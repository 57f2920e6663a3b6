"""Bundles in C++, as operators whose shapes PyTorch knows, so that `torch.compile` takes them as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..bundles import Bundle, Computed, Gradients, RunningUpdate, Wanted, Wiring, channels_last
from .library import native_library

pools = True

_NUMBERS = (
    *("N", "H", "W", "C", "out_H", "out_W", "edges", "chains", "features", "pools", "threads"),
    *("batch_statistics", "mix_columns"),
)
_POINTERS = (
    *("chain_edge", "chain_silent", "chain_start", "shapes", "pool_shapes", "eps"),
    *("depthwise", "pointwise", "running_mean", "running_var"),
    *("x", "given", "mix", "normalised", "statistics", "out"),
    *("grad_out", "grad_x", "grad_given", "grad_mix", "grad_depthwise", "grad_pointwise"),
)


class _Call(ctypes.Structure):
    """Arguments of the C++ functions: the fields of `Call` in call.hpp, in its order."""

    _fields_ = [(n, ctypes.c_int64) for n in _NUMBERS] + [(n, ctypes.c_void_p) for n in _POINTERS]


def _run(direction: str, dtype: torch.dtype, numbers: Sequence[int], **pointers: Any) -> None:
    """Call a C++ function; a tensor, a list of tensors and a list of numbers become pointers."""
    arrays = {name: _array(value) for name, value in pointers.items()}  # alive until the function returns
    values = {n: ctypes.addressof(a) if isinstance(a, ctypes.Array) else a for n, a in arrays.items()}
    function = getattr(native_library(), f"{direction}_{str(dtype).removeprefix('torch.')}")
    if function(ctypes.byref(_Call(*numbers, **values))):
        raise MemoryError("there is no memory for the native kernels; use smaller batches.")


def _array(value: Tensor | Sequence[Any]) -> Any:
    if isinstance(value, Tensor):
        return value.data_ptr()
    first = value[0] if value else 0
    if isinstance(first, Tensor):
        return (ctypes.c_void_p * len(value))(*[tensor.data_ptr() for tensor in value])
    return ((ctypes.c_double if isinstance(first, float) else ctypes.c_int32) * len(value))(*value)


def _numbers(bundle: Bundle) -> list[int]:
    (n, c, h, w), wiring = bundle.x.shape, bundle.wiring
    chains = len(wiring.edge_of)
    threads = max(1, min(torch.get_num_threads(), chains))
    size = wiring.output_size(bundle.x)
    given = wiring.edges, chains, wiring.features, len(wiring.pools)
    return [n, h, w, c, *size, *given, threads, bundle.of_batch, bundle.mix.shape[1]]


def _shared_pointers(bundle: Bundle, normalised: Tensor, statistics: Tensor) -> dict[str, Any]:
    """Return the pointers of both directions; the last arguments are results of `_forward`, filled or not."""
    wiring = bundle.wiring
    return {
        "chain_edge": wiring.edge_of,
        "chain_silent": wiring.silent,
        "chain_start": wiring.starts,
        "shapes": [number for shape in wiring.shapes for number in shape],
        "pool_shapes": [int(number) for shape in wiring.pools for number in shape],
        "depthwise": bundle.weights[::2],
        "pointwise": bundle.weights[1::2],
        "x": bundle.x,
        "given": bundle.given,
        "mix": bundle.mix.contiguous(),
        "normalised": normalised,
        "statistics": statistics,
    }


# -- forwards ------------------------------------------------------------------------------------------------


torch.library.define(
    "spacelang::bundle",
    "(Tensor[] tensors, int[] table, float[] eps, bool of_batch) -> (Tensor[], Tensor, Tensor)",
)


def _forward(
    tensors: Sequence[Tensor], table: list[int], eps: Sequence[float], of_batch: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Compute a bundle.

    Args:
        tensors: See `Bundle.tensors`.
        table: See `Wiring.table`.
        eps: See `Wiring`.
        of_batch: See `Bundle`.

    Returns:
        The sum of each edge, (N, C, H', W'); inputs of the batch norms, (blocks + pools, N, H', W', P); their
        mean, 1 / standard deviation and variance, (blocks + pools, 3, P). P is C padded to whole vectors.
    """
    bundle = Bundle.of(Wiring.of(table, eps), of_batch, tensors).channels_last()
    sums, normalised, statistics = _forward_shapes(tensors, table, eps, of_batch)
    _run(
        "forward",
        bundle.x.dtype,
        _numbers(bundle),
        **_shared_pointers(bundle, normalised, statistics),
        eps=bundle.wiring.eps,
        running_mean=bundle.running[::2],
        running_var=bundle.running[1::2],
        out=sums,
    )
    return sums, normalised, statistics


def _forward_shapes(
    tensors: Sequence[Tensor], table: list[int], eps: Sequence[float], of_batch: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return what `_forward` returns, not filled."""
    x, wiring = tensors[0], Wiring.of(table, eps)
    size, channels = wiring.output_size(x), x.shape[1]
    sums = [_empty_map(x, (len(x), channels, *size)) for _ in range(wiring.edges)]
    lanes = native_library().vector_bytes() // x.element_size()
    padded = -(-channels // lanes) * lanes
    norms = len(wiring.eps)
    return sums, x.new_empty(norms, len(x), *size, padded), x.new_empty(norms, 3, padded)


def _empty_map(x: Tensor, size: Sequence[int]) -> Tensor:
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


torch.library.impl("spacelang::bundle", "CPU", _forward)
torch.library.register_fake("spacelang::bundle", _forward_shapes)


# -- backwards -----------------------------------------------------------------------------------------------


torch.library.define(
    "spacelang::bundle_backward",
    "(Tensor[] grads, Tensor[] tensors, Tensor normalised, Tensor statistics, int[] table, float[] eps, "
    "bool of_batch, bool[] wanted) -> (Tensor, Tensor, Tensor[], Tensor[])",
)


def _backward(
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    normalised: Tensor,
    statistics: Tensor,
    table: list[int],
    eps: Sequence[float],
    of_batch: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Return the gradients of x, of the mixture (by sample), of the features and of the weights.

    Args:
        grads: Gradient of each sum.
        tensors, table, eps, of_batch: Arguments of `_forward`.
        normalised, statistics: Second and third result of `_forward`.
        wanted: Whether the gradients of mixture, features and weights are wanted; one that is not is empty.
    """
    bundle = Bundle.of(Wiring.of(table, eps), of_batch, tensors).channels_last()
    found = _backward_shapes(grads, tensors, normalised, statistics, table, eps, of_batch, wanted)
    grad_x, grad_mix, grad_given, grad_weights = found
    pointers: dict[str, Any] = {"grad_mix": grad_mix} if wanted[0] else {}
    pointers |= {"grad_given": grad_given} if wanted[1] else {}
    if wanted[2]:
        pointers |= {"grad_depthwise": grad_weights[::2], "grad_pointwise": grad_weights[1::2]}
    _run(
        "backward",
        bundle.x.dtype,
        _numbers(bundle),
        **_shared_pointers(bundle, normalised, statistics),
        grad_out=[channels_last(grad) for grad in grads],
        grad_x=grad_x,
        **pointers,
    )
    return found


def _backward_shapes(
    grads: Any,
    tensors: Sequence[Tensor],
    normalised: Any,
    statistics: Any,
    table: list[int],
    eps: Sequence[float],
    of_batch: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Return what `_backward` returns, not filled."""
    bundle = Bundle.of(Wiring.of(table, eps), of_batch, tensors)
    x, mix = bundle.x, bundle.mix
    grad_mix = mix.new_empty(len(mix) if wanted[0] else 0, len(x))
    grad_given = [_empty_map(x, t.shape) for t in bundle.given] if wanted[1] else []
    grad_weights = [_empty_map(x, w.shape) for w in bundle.weights] if wanted[2] else []
    return _empty_map(x, x.shape), grad_mix, grad_given, grad_weights


torch.library.impl("spacelang::bundle_backward", "CPU", _backward)
torch.library.register_fake("spacelang::bundle_backward", _backward_shapes)


# -- running statistics --------------------------------------------------------------------------------------


torch.library.define(
    "spacelang::update_running",
    "(Tensor(a!)[] running, Tensor(b!)[] counts, float[] momenta, Tensor found, int count) -> ()",
)


def _update(
    running: list[Tensor], counts: list[Tensor], momenta: list[float], found: Tensor, count: int
) -> None:
    function = getattr(native_library(), f"update_{str(found.dtype).removeprefix('torch.')}")
    pointers = [_array(values) for values in (running, counts, momenta)]
    function(len(counts), running[0].numel(), found.data_ptr(), *pointers, count)


torch.library.impl("spacelang::update_running", "CPU", _update)


def _no_shapes(running: Any, counts: Any, momenta: Any, found: Any, count: Any) -> None:
    return None


torch.library.register_fake("spacelang::update_running", _no_shapes)


_FUNCTIONS = {"bundle": _forward, "bundle_backward": _backward, "update_running": _update}


def _op(name: str) -> Any:
    """Return an operator; outside `torch.compile` its function, since PyTorch's way to it costs 0.2 ms."""
    return getattr(torch.ops.spacelang, name) if torch.compiler.is_compiling() else _FUNCTIONS[name]


# -- as the supernet calls them ------------------------------------------------------------------------------


def forward(bundle: Bundle) -> Computed:
    """Compute a bundle; see `Kernels`."""
    wiring = bundle.wiring
    sums, normalised, statistics = _op("bundle")(bundle.tensors, wiring.table, wiring.eps, bundle.of_batch)
    return Computed(sums, [normalised], statistics)


def backward(
    bundle: Bundle, kept: Sequence[Tensor], statistics: Tensor, grads: Sequence[Tensor], wanted: Wanted
) -> Gradients:
    """Return gradients; see `Kernels`."""
    wiring, wants = bundle.wiring, [wanted.mix, wanted.given, wanted.weights]
    x, mix, given, weights = _op("bundle_backward")(
        grads, bundle.tensors, *kept, statistics, wiring.table, wiring.eps, bundle.of_batch, wants
    )
    return Gradients(x, mix if wanted.mix else None, given, weights)


def update_running(update: RunningUpdate) -> None:
    """Move running statistics; see `Kernels`."""
    _op("update_running")(update.running, update.counts, update.momenta, update.statistics, update.count)
