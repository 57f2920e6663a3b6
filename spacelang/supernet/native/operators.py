"""The native bundle: all separable convolutions that leave one feature map, as one operator of PyTorch.

`torch.ops.spacelang.bundle` is what `grouped_bundle` computes, in C++. PyTorch knows its shapes and its
gradient, so autograd, `torch.compile` and export see one operator. Its second derivative is that of
`grouped_bundle`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..grouped import Wiring, grouped_bundle
from .library import native_library

_NUMBERS = (
    *("N", "H", "W", "C", "out_H", "out_W", "edges", "chains", "features", "threads"),
    *("batch_statistics", "mix_columns"),
)
_POINTERS = (
    *("chain_edge", "chain_start", "shapes", "eps", "depthwise", "pointwise", "running_mean", "running_var"),
    *("x", "given", "mix", "normalised", "statistics", "out"),
    *("grad_out", "grad_x", "grad_given", "grad_mix", "grad_depthwise", "grad_pointwise"),
)


class _Call(ctypes.Structure):
    """Arguments of the C++ functions: the fields of `Call` in bundle.cpp, in its order."""

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


def _numbers(x: Tensor, given: Sequence[Tensor], mix: Tensor, wiring: Wiring, of_batch: bool) -> list[int]:
    n, c, h, w = x.shape
    chains = len(wiring.edge_of)
    threads = max(1, min(torch.get_num_threads(), chains))
    size = wiring.output_size(x)
    return [n, h, w, c, *size, wiring.edges, chains, len(given), threads, of_batch, mix.shape[1]]


def _shared_pointers(
    wiring: Wiring,
    x: Tensor,
    given: Sequence[Tensor],
    mix: Tensor,
    weights: Sequence[Tensor],
    state: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    """Return the pointers of both directions; `state` is what `_empty_state` returns, filled or not."""
    return {
        "chain_edge": wiring.edge_of,
        "chain_start": wiring.starts,
        "shapes": [number for shape in wiring.shapes for number in shape],
        "depthwise": weights[::2],
        "pointwise": weights[1::2],
        "x": x,
        "given": given,
        "mix": mix.contiguous(),
        "normalised": state[0],
        "statistics": state[1],
    }


def _in_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return feature maps as (N, H, W, C) in memory, and weights as (C, k, k), where both layouts are one."""
    last = torch.channels_last
    return [t if t.is_contiguous(memory_format=last) else t.contiguous(memory_format=last) for t in tensors]


def _empty_maps(x: Tensor, wiring: Wiring, count: int) -> list[Tensor]:
    size = (*x.shape[:2], *wiring.output_size(x))
    last = torch.channels_last
    return [torch.empty(size, dtype=x.dtype, device=x.device, memory_format=last) for _ in range(count)]


def _empty_state(x: Tensor, wiring: Wiring) -> tuple[Tensor, Tensor]:
    """Return the inputs of the batch norms, and their mean, 1 / standard deviation, variance; not filled."""
    lanes = native_library().vector_bytes() // x.element_size()
    padded = -(-x.shape[1] // lanes) * lanes
    blocks = len(wiring.shapes)
    maps = x.new_empty(blocks, x.shape[0], *wiring.output_size(x), padded)
    return maps, x.new_empty(blocks, 3, padded)


# -- forwards ------------------------------------------------------------------------------------------------


torch.library.define(
    "spacelang::bundle",
    "(Tensor x, Tensor[] given, Tensor mix, Tensor[] weights, Tensor[] running, int[] table, float[] eps, "
    "bool of_batch) -> (Tensor[], Tensor, Tensor)",
)


def _bundle(
    x: Tensor,
    given: list[Tensor],
    mix: Tensor,
    weights: list[Tensor],
    running: list[Tensor],
    table: list[int],
    eps: list[float],
    of_batch: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Compute a bundle; arguments as of `grouped_bundle`, the wiring as `Wiring.table`.

    Returns:
        The sum of each edge, (N, C, H', W'); inputs of the batch norms, (blocks, N, H', W', P); their mean,
        1 / standard deviation and variance, (blocks, 3, P). P is C padded to whole vectors.
    """
    wiring = Wiring.of(table)
    (x, *given), weights = _in_order([x, *given]), _in_order(weights)
    outs, state = _empty_maps(x, wiring, wiring.edges), _empty_state(x, wiring)
    _run(
        "forward",
        x.dtype,
        _numbers(x, given, mix, wiring, of_batch),
        **_shared_pointers(wiring, x, given, mix, weights, state),
        eps=eps,
        running_mean=running[::2],
        running_var=running[1::2],
        out=outs,
    )
    return outs, *state


torch.library.impl("spacelang::bundle", "CPU", _bundle)


def _bundle_shapes(
    x: Tensor, given: Any, mix: Any, weights: Any, running: Any, table: Any, eps: Any, of_batch: Any
) -> Any:
    wiring = Wiring.of(table)
    return _empty_maps(x, wiring, wiring.edges), *_empty_state(x, wiring)


torch.library.register_fake("spacelang::bundle", _bundle_shapes)


# -- backwards -----------------------------------------------------------------------------------------------


torch.library.define(
    "spacelang::bundle_backward",
    "(Tensor[] grads, Tensor x, Tensor[] given, Tensor mix, Tensor[] weights, Tensor normalised, "
    "Tensor statistics, int[] table, bool of_batch, bool[] wanted) -> (Tensor, Tensor[], Tensor, Tensor[])",
)


def _bundle_backward(
    grads: list[Tensor],
    x: Tensor,
    given: list[Tensor],
    mix: Tensor,
    weights: list[Tensor],
    normalised: Tensor,
    statistics: Tensor,
    table: list[int],
    of_batch: bool,
    wanted: list[bool],
) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Return the gradients of x, of the features, of the mixture and of the weights.

    Args:
        grads: Gradient of each sum.
        x: Argument of `bundle`; so are `given`, `mix`, `weights`, `table` and `of_batch`.
        normalised: Second result of `bundle`.
        statistics: Third result of `bundle`.
        wanted: Whether the gradients of features, mixture and weights are wanted; one that is not is empty.
    """
    wiring, (features, mixture, parameters) = Wiring.of(table), wanted
    (x, *given), weights, grads = _in_order([x, *given]), _in_order(weights), _in_order(grads)
    empty = _empty_gradients(x, given, mix, weights, wanted)
    grad_x, grad_given, grad_mix, grad_weights = empty
    pointers: dict[str, Any] = {"grad_given": grad_given} if features else {}
    if mixture:
        pointers["grad_mix"] = grad_mix
    if parameters:
        pointers |= {"grad_depthwise": grad_weights[::2], "grad_pointwise": grad_weights[1::2]}
    _run(
        "backward",
        x.dtype,
        _numbers(x, given, mix, wiring, of_batch),
        **_shared_pointers(wiring, x, given, mix, weights, (normalised, statistics)),
        grad_out=grads,
        grad_x=grad_x,
        **pointers,
    )
    return grad_x, grad_given, grad_mix, grad_weights


def _empty_gradients(
    x: Tensor, given: list[Tensor], mix: Tensor, weights: list[Tensor], wanted: list[bool]
) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    last = torch.channels_last
    grad_given = [torch.empty_like(t, memory_format=last) for t in given] if wanted[0] else []
    grad_mix = mix.new_empty(mix.shape[0] if wanted[1] else 0, x.shape[0])  # by sample, whatever the mixture
    grad_weights = (
        [torch.empty_like(w, memory_format=torch.preserve_format) for w in weights] if wanted[2] else []
    )
    return torch.empty_like(x, memory_format=last), grad_given, grad_mix, grad_weights


torch.library.impl("spacelang::bundle_backward", "CPU", _bundle_backward)


def _backward_shapes(
    grads: Any,
    x: Any,
    given: Any,
    mix: Any,
    weights: Any,
    normalised: Any,
    statistics: Any,
    table: Any,
    of_batch: Any,
    wanted: Any,
) -> Any:
    return _empty_gradients(x, given, mix, weights, wanted)


torch.library.register_fake("spacelang::bundle_backward", _backward_shapes)


class _Bundle(torch.autograd.Function):
    """The bundle with its gradient.

    Lists of tensors are flattened into `tensors`: features, weights, running statistics.
    """

    @staticmethod
    def forward(
        ctx: Any,
        wiring: Wiring,
        eps: Sequence[float],
        of_batch: bool,
        features: int,
        x: Tensor,
        mix: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        parted = _parted(tensors, features, 2 * len(wiring.shapes))
        outs, normalised, statistics = _op("bundle")(
            x, parted[0], mix, *parted[1:], wiring.table, eps, of_batch
        )
        ctx.save_for_backward(x, mix, normalised, statistics, *tensors)
        ctx.settings = wiring, eps, of_batch, features
        ctx.mark_non_differentiable(statistics)
        return (*outs, statistics)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        wiring, eps, of_batch, features = ctx.settings
        x, mix, normalised, statistics, *tensors = ctx.saved_tensors
        given, weights, running = _parted(tensors, features, 2 * len(wiring.shapes))
        wants = ctx.needs_input_grad[6:]
        wanted = [any(wants[:features]), ctx.needs_input_grad[5], any(wants[features:])]
        gradients = list(grads[:-1])
        if torch.is_grad_enabled():  # create_graph=True: by what PyTorch can differentiate again
            # Views, since a feature may be computed from x: its gradient must not count as one of x too.
            inputs = [tensor.view_as(tensor) for tensor in (x, mix, *given, *weights)]
            parts = inputs[2 : 2 + features], inputs[1], inputs[2 + features :]
            outs, _ = grouped_bundle(inputs[0], *parts, running, wiring, eps, of_batch)
            needed = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter(torch.autograd.grad(outs, needed, gradients, create_graph=True, allow_unused=True))
            each = [next(found) if tensor.requires_grad else None for tensor in inputs]
            return (None, None, None, None, *each, *[None] * len(running))
        grad_x, grad_given, grad_mix, grad_weights = _op("bundle_backward")(
            gradients, x, given, mix, weights, normalised, statistics, wiring.table, of_batch, wanted
        )
        return (
            *(None, None, None, None, grad_x),
            grad_mix.sum_to_size(mix.shape) if wanted[1] else None,
            *(grad_given if wanted[0] else [None] * features),
            *(grad_weights if wanted[2] else [None] * len(weights)),
            *[None] * len(running),
        )


def _parted(tensors: Sequence[Tensor], features: int, weights: int) -> tuple[list[Tensor], ...]:
    listed = list(tensors)
    return listed[:features], listed[features : features + weights], listed[features + weights :]


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


_FUNCTIONS = {"bundle": _bundle, "bundle_backward": _bundle_backward, "update_running": _update}


def _op(name: str) -> Any:
    """Return an operator; outside `torch.compile` its function, since PyTorch's way to it costs 0.2 ms."""
    return getattr(torch.ops.spacelang, name) if torch.compiler.is_compiling() else _FUNCTIONS[name]


# -- as the supernet calls them ------------------------------------------------------------------------------


def bundle(
    x: Tensor,
    given: Sequence[Tensor],
    mix: Tensor,
    weights: Sequence[Tensor],
    running: Sequence[Tensor],
    wiring: Wiring,
    eps: Sequence[float],
    of_batch: bool,
) -> tuple[list[Tensor], Tensor]:
    """Compute what `grouped_bundle` does; the statistics are only for `update_running`."""
    known = () if of_batch else running
    *outs, statistics = _Bundle.apply(wiring, eps, of_batch, len(given), x, mix, *given, *weights, *known)
    return outs, statistics


def update_running(
    running: Sequence[Tensor], counts: Sequence[Tensor], momenta: Sequence[float], found: Tensor, count: int
) -> None:
    """Move running statistics towards those of a batch; see `grouped.update_running`."""
    _op("update_running")(running, counts, momenta, found, count)
