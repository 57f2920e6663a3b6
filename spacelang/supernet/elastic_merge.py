"""The plan of an elastic layer: combinations that one call computes are put together.

Convolutions and linear layers are linear in their weights, so a weighted sum of slices does what the weighted
sum of their outputs does, and all slices are of one tensor: it is multiplied by a mask, entry by entry. Batch
and instance norm treat every channel by itself, so a mask over channels does. Embeddings likewise.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv

from ..nn import LayerSpec, Sizes
from .elastic_plan import Call, Combination, Mask, Plan, make_mask

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Subclasses may compute anything.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def make_plan(
    where: str,
    spec: LayerSpec,
    largest: nn.Module,
    sizes: Sizes,
    combinations: Sequence[Combination],
    positions: Sequence[int],
    joint: Tensor,
) -> Plan:
    """Plan a mixture.

    Args:
        where, spec, largest, sizes: See `Plan`.
        combinations: Different combinations.
        positions: Position of each joint choice's combination.
        joint: Weights of the joint choices, for their device and dtype.
    """
    merging = None
    if len(combinations) < len(positions):
        merging = torch.zeros(len(combinations), len(positions))
        merging[list(positions), range(len(positions))] = 1
        merging = merging.to(joint)
    needs: dict[str, dict[int, int]] = {}
    for combination in combinations:
        for tensor, dimensions in combination.reads(sizes).items():
            largest_sizes = needs.setdefault(tensor, {})
            for dim, size in dimensions.items():
                largest_sizes[dim] = max(size, largest_sizes.get(dim, 0))
    names = tuple(combination.name for combination in combinations)
    calls = _calls(spec, largest, sizes, combinations, joint)
    updating = max(calls, key=lambda call: sum(buffer.numel() for buffer in call.layer.buffers()))
    return Plan(where, spec, largest, sizes, names, merging, calls, updating, needs)


def _calls(
    spec: LayerSpec, largest: nn.Module, sizes: Sizes, combinations: Sequence[Combination], like: Tensor
) -> list[Call]:
    """Return few calls that together compute every combination; `like` has the weights' dtype."""
    buckets: dict[Hashable, list[int]] = {}
    for position, combination in enumerate(combinations):
        key = _key(combination.layer, largest) if spec.nested else None
        buckets.setdefault(position if key is None else key, []).append(position)
    calls = []
    for key, members in buckets.items():
        if isinstance(key, int):
            combination = combinations[key]
            calls.append(Call(key, combination.layer, combination.reads(sizes), {}))
        else:
            calls.append(_merged_call(spec, largest, sizes, combinations, members, like))
    return calls


def _merged_call(
    spec: LayerSpec,
    largest: nn.Module,
    sizes: Sizes,
    combinations: Sequence[Combination],
    members: Sequence[int],
    like: Tensor,
) -> Call:
    layers = [combinations[m].layer for m in members]
    with torch.device("meta"):
        layer = _holding(layers)
    reads = Combination("", {}, layer).reads(sizes)
    position = dict(zip(members, layers, strict=True))
    aligned = [position.get(i) for i in range(len(combinations))]
    if isinstance(layer, nn.Embedding) or not any(True for _ in layer.parameters()):
        ((dim, size),) = sizes.returns[0].items()
        boxes = [None if other is None else [(0, int(getattr(other, size)))] for other in aligned]
        return Call(members[0], layer, reads, {}, (dim, make_mask(boxes, [getattr(layer, size)], like)))
    masks = {name: _mask(spec, largest, name, p, aligned, like) for name, p in layer.named_parameters()}
    return Call(members[0], layer, reads, masks)


def _mask(
    spec: LayerSpec,
    largest: nn.Module,
    name: str,
    whole: Tensor,
    layers: Sequence[nn.Module | None],
    like: Tensor,
) -> Mask:
    """Return the mask of parameter `name`, `whole` in the layer that holds all `layers`."""
    room = largest.get_parameter(name).shape

    def box(layer: nn.Module | None) -> list[tuple[int, int]] | None:
        part = None if layer is None else getattr(layer, name)
        if part is None:
            return None
        return [
            (spec.first(d, room[d] - size) - spec.first(d, room[d] - whole.shape[d]), size)
            for d, size in enumerate(part.shape)
        ]

    return make_mask([box(layer) for layer in layers], whole.shape, like)


def _key(layer: nn.Module, largest: nn.Module) -> Hashable | None:
    """Return a key that layers of one call have in common; None for a layer that is called by itself."""
    kind = type(layer)
    if isinstance(layer, conv._ConvNd) and isinstance(largest, conv._ConvNd) and kind in _CONVOLUTIONS:
        return _convolution_key(layer, largest)
    if kind is nn.Linear:
        return (kind,)
    if isinstance(layer, batchnorm._NormBase) and kind in _NORMS:
        return kind, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
    if isinstance(layer, nn.Embedding) and kind is nn.Embedding and layer.max_norm is None:
        return kind, layer.padding_idx, layer.scale_grad_by_freq, layer.sparse
    return None


def _convolution_key(layer: conv._ConvNd, largest: conv._ConvNd) -> Hashable | None:
    before, after = paddings(layer)
    if before != after:  # an even kernel with padding "same"
        return None
    offsets = [(most - k) // 2 for most, k in zip(largest.kernel_size, layer.kernel_size, strict=True)]
    # Where the largest kernel's first entry would lie; equal ones see the same input through each entry.
    anchors = tuple(p + d * o for p, d, o in zip(before, layer.dilation, offsets, strict=True))
    growth = tuple(
        2 * p - d * (k - 1) for p, d, k in zip(before, layer.dilation, layer.kernel_size, strict=True)
    )
    grouping = (layer.in_channels // layer.groups, layer.out_channels // layer.groups)
    return (
        type(layer),
        layer.stride,
        layer.dilation,
        layer.padding_mode,
        layer.output_padding,
        anchors,
        growth,
        None if layer.groups == 1 else grouping,  # more groups of one shape hold fewer
    )


def paddings(layer: conv._ConvNd) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding of a convolution before and after, per dimension."""
    if layer.padding == "valid":
        return ((0,) * len(layer.kernel_size),) * 2
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    assert isinstance(layer.padding, tuple)
    return layer.padding, layer.padding


def _holding(layers: Sequence[Any]) -> nn.Module:
    """Return the smallest layer of which all of these, equal in `_key`, are slices."""
    first = layers[0]

    def most(name: str) -> Any:
        return max(getattr(layer, name) for layer in layers)

    if isinstance(first, batchnorm._NormBase):
        return max(layers, key=lambda layer: layer.num_features)  # type: ignore[no-any-return]
    if isinstance(first, nn.Embedding):
        options = {x: getattr(first, x) for x in ("padding_idx", "scale_grad_by_freq", "sparse")}
        return nn.Embedding(most("num_embeddings"), most("embedding_dim"), **options)
    has_bias = any(layer.bias is not None for layer in layers)
    if isinstance(first, nn.Linear):
        return nn.Linear(most("in_features"), most("out_features"), has_bias)
    kernel = tuple(map(max, zip(*(layer.kernel_size for layer in layers), strict=True)))
    # The widest kernel of each dimension has its padding too, for all are aligned.
    padding = tuple(map(max, zip(*(paddings(layer)[0] for layer in layers), strict=True)))
    options = {x: getattr(first, x) for x in ("stride", "dilation", "padding_mode")}
    if isinstance(first, _TRANSPOSED):
        options["output_padding"] = first.output_padding
    return type(first)(  # type: ignore[no-any-return]
        most("in_channels"),
        most("out_channels"),
        kernel,
        padding=padding,
        groups=most("groups"),
        bias=has_bias,
        **options,
    )
