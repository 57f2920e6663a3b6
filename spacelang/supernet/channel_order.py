"""Channels of a supernet in the order of their importance, so that narrow slices get the best of them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

from ..language import Value
from .elastic import ElasticLayer
from .supernet import Supernet

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def channel_order(importance: Tensor, bands: Iterable[int] = ()) -> Tensor:
    """Return channels from the most to the least important, each within its band; of equal ones the first.

    Args:
        importance: Importance of each channel, (C,).
        bands: Numbers of channels that are in use already: the first n stay the first n, in another order.

    Returns:
        Indices, (C,).
    """
    limits = sorted({0, len(importance), *bands})
    parts = [
        start + importance[start:end].sort(descending=True, stable=True).indices
        for start, end in itertools.pairwise(limits)
    ]
    return torch.cat(parts)


def entry_norms(weight: Tensor, dim: int) -> Tensor:
    """Return the L1 norm of the weights of each entry of a dimension, (entries,)."""
    return weight.detach().abs().movedim(dim, 0).flatten(1).sum(1)


@torch.no_grad()
def sort_channels(
    supernet: Supernet, labels: Collection[str], used: Mapping[str, Collection[Any]] | None = None
) -> list[str]:
    """Sort the channels whose number depends on some labels, without changing what the network computes.

    The importance of a channel is the sum of the absolute weights with which it is read by the last
    convolution that reads it: in an inverted residual the projection. Networks whose sizes are the largest or
    among those `used` compute what they did before.

    Numbers of channels that anything else than convolutions (depthwise ones, or without groups) and batch
    norms has as a size are left alone. Between these layers the network must treat all channels alike, as
    activations, pooling and sums do; shuffled or split channels must not have a chosen number.

    Args:
        supernet: Network whose weights are permuted in place. Moments of optimisers are not.
        labels: Decisions whose channels are sorted.
        used: Candidates by label that networks have been trained with; of labels left out the largest.

    Returns:
        The sorted sizes, as expressions of labels.

    Source: once-for-all, arXiv:1908.09791, section 3.2.
    """
    done = []
    for name, channels in _channels(supernet).items():
        size, last = channels.size, channels.last_reader
        if last is None or not channels.sortable or not {d.label for d in size.decisions()} & set(labels):
            continue
        weight: Any = last.largest.weight  # (C_out, C_in, ...)
        order = channel_order(entry_norms(weight, 1), _used_sizes(size, used or {}))
        for layer, tensor, dim in channels.tensors:
            whole: Any = getattr(layer.largest, tensor)
            whole.copy_(whole.index_select(dim, order.to(whole.device)))
        done.append(name)
    return done


@dataclass
class _Channels:
    """Tensors with a dimension of one size.

    Args:
        size: The size.
        tensors: `(layer, name, dimension)` of each tensor.
        last_reader: Last convolution whose input alone has the size.
        sortable: Whether all its layers treat channels alike.
    """

    size: Value
    tensors: list[tuple[ElasticLayer, str, int]] = field(default_factory=list)
    last_reader: ElasticLayer | None = None
    sortable: bool = True


def _channels(supernet: Supernet) -> dict[str, _Channels]:
    """Return the tensors of every chosen size, by its expression."""
    found: dict[str, _Channels] = {}
    for layer in supernet.network.modules():
        if not isinstance(layer, ElasticLayer):
            continue
        for size in _values(layer.spec.arguments.values()):
            channels = found.setdefault(str(size), _Channels(size))
            uses = list(_uses(layer, str(size)))
            channels.tensors += [(layer, tensor, dim) for tensor, dim in uses]
            if uses == [("weight", 1)]:
                channels.last_reader = layer
            channels.sortable &= bool(uses)
    return found


def _values(arguments: Iterable[Any]) -> list[Value]:
    """Return the different values among arguments."""
    return list({str(value): value for value in arguments if isinstance(value, Value)}.values())


def _uses(layer: ElasticLayer, size: str) -> Iterator[tuple[str, int]]:
    """Yield `(tensor, dimension)` of a layer's tensors that have a size; nothing if it cannot be sorted."""
    largest, given = layer.largest, {name: str(value) for name, value in layer.spec.arguments.items()}
    if isinstance(largest, batchnorm._BatchNorm) and given["num_features"] == size:
        vectors = (*largest.named_parameters(), *largest.named_buffers())
        yield from ((name, 0) for name, tensor in vectors if tensor.dim())
    if not isinstance(largest, _PLAIN):
        return
    reads, returns = given["in_channels"] == size, given["out_channels"] == size
    depthwise = reads and returns and given.get("groups") == size
    if not depthwise and given.get("groups", "1") != "1":
        return
    if returns:
        yield "weight", 0
        if largest.bias is not None:
            yield "bias", 0
    if reads and not depthwise:
        yield "weight", 1


def _used_sizes(size: Value, used: Mapping[str, Collection[Any]]) -> set[int]:
    """Return the values of a size under the used candidates of its decisions."""
    labels = [decision.label for decision in size.decisions()]
    values = [used.get(decision.label, [max(decision.values())]) for decision in size.decisions()]
    return {int(size.evaluate(dict(zip(labels, v, strict=True)))) for v in itertools.product(*values)}
