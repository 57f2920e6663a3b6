"""Bundles: the separable convolutions and pools that leave one feature map, computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Wiring:
    """Which chains a bundle has, and which edge each belongs to.

    A chain is one block or several of ReLU, depthwise convolution, 1x1 convolution and batch norm without
    parameters. The first blocks of all chains and the pools have one stride, the other blocks have none.

    Args:
        edges: Number of edges.
        features: Number of feature maps that every edge adds: pools of x, normalised, then given ones.
        edge_of: Edge of each chain.
        silent: Whether each chain is computed only for the gradient of its weight.
        starts: First block of each chain, and the number of blocks.
        shapes: Kernel, dilation and stride of each block.
        pools: Kernel, stride, and whether it is the maximum or the average, of each pool.
        eps: Number that the batch norm of each block, and then of each pool, adds to the variance.
    """

    edges: int
    features: int
    edge_of: tuple[int, ...]
    silent: tuple[bool, ...]
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, int, int], ...]
    pools: tuple[tuple[int, int, bool], ...]
    eps: tuple[float, ...]

    @cached_property
    def table(self) -> list[int]:
        """All but `eps` as one list of numbers, which an operator of PyTorch can have as an argument."""
        numbers = [n for shape in (*self.pools, *self.shapes) for n in shape]
        return [
            self.edges,
            self.features,
            len(self.pools),
            len(self.edge_of),
            *self.edge_of,
            *self.silent,
            *self.starts,
            *numbers,
        ]

    @classmethod
    def of(cls, table: Sequence[int], eps: Sequence[float]) -> Wiring:
        """Return the wiring that has this table."""
        return _wiring(tuple(table), tuple(eps))

    @cached_property
    def heard(self) -> list[bool]:
        """Whether each weight has a gradient, two of them a block."""
        return [not silent for j, silent in enumerate(self.silent) for _ in self.blocks(j) for _ in range(2)]

    def blocks(self, chain: int) -> range:
        """Return the blocks of a chain."""
        return range(self.starts[chain], self.starts[chain + 1])

    def term(self, edge: int, feature: int) -> int:
        """Return the row of the mixture with a feature's weight on an edge."""
        return len(self.edge_of) + edge * self.features + feature

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Return H' and W' for x, (N, C, H, W)."""
        stride = self.shapes[0][2]
        return -(-x.shape[2] // stride), -(-x.shape[3] // stride)


@cache
def _wiring(table: tuple[int, ...], eps: tuple[float, ...]) -> Wiring:
    edges, features, pools, chains, *rest = table
    edge_of, silent = tuple(rest[:chains]), tuple(map(bool, rest[chains : 2 * chains]))
    starts, numbers = tuple(rest[2 * chains : 3 * chains + 1]), rest[3 * chains + 1 :]
    shapes = tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    pooled = tuple((kernel, stride, bool(is_max)) for kernel, stride, is_max in shapes[:pools])
    return Wiring(edges, features, edge_of, silent, starts, shapes[pools:], pooled, eps)


@dataclass(frozen=True)
class Bundle:
    """One call: the weighted sum of the chains and features of each edge.

        out[e] = sum_{chain j of e} mix[j] chain_j(x) + sum_f mix[chains + e F + f] feature_f

    Args:
        wiring: Chains and edges.
        of_batch: Whether to normalise with the statistics of the batch.
        x: Feature map that all chains read, (N, C, H, W).
        mix: Weights, (chains + edges F, 1), or (chains + edges F, N) for weights by sample.
        given: The features behind the pools, each (N, C, H', W').
        weights: Depthwise (C, 1, k, k) and 1x1 (C, C, 1, 1) weights of each block, in turn.
        running: Running mean and variance of each block and pool, in turn, each (C,); may be empty if
            `of_batch`.
    """

    wiring: Wiring
    of_batch: bool
    x: Tensor
    mix: Tensor
    given: Sequence[Tensor]
    weights: Sequence[Tensor]
    running: Sequence[Tensor] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in the order of the fields."""
        return self.x, self.mix, *self.given, *self.weights, *self.running

    @classmethod
    def of(cls, wiring: Wiring, of_batch: bool, tensors: Sequence[Tensor]) -> Bundle:
        """Return the bundle that has these tensors."""
        x, mix, *others = tensors
        first = wiring.features - len(wiring.pools)
        last = first + 2 * len(wiring.shapes)
        return cls(wiring, of_batch, x, mix, others[:first], others[first:last], others[last:])

    def channels_last(self) -> Bundle:
        """Return the same with feature maps and weights as (N, H, W, C) in memory."""
        return replace(
            self,
            x=channels_last(self.x),
            given=[channels_last(tensor) for tensor in self.given],
            weights=[channels_last(tensor) for tensor in self.weights],
        )


def channels_last(tensor: Tensor) -> Tensor:
    """Return a tensor as (N, H, W, C) in memory; itself where it is so in both layouts."""
    return tensor.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Computed:
    """Results of a bundle.

    Args:
        sums: Sum of each edge, (N, C, H', W').
        kept: Tensors that the execution needs to go backwards.
        statistics: Mean, 1 / standard deviation and variance of each block, then of each pool,
            (blocks + pools, 3, C or more).
    """

    sums: Sequence[Tensor]
    kept: Sequence[Tensor]
    statistics: Tensor


@dataclass(frozen=True)
class Wanted:
    """Gradients to compute; the one of x always is.

    Args:
        mix: Whether the mixture's is wanted.
        given: Whether those of the features are.
        weights: Whether those of the weights are.
    """

    mix: bool
    given: bool
    weights: bool


@dataclass(frozen=True)
class Gradients:
    """Gradients of the tensors of a bundle; those not wanted are None or empty.

    Args:
        x: Gradient of x, (N, C, H, W).
        mix: Gradient of the mixture, of its size, or by sample, (chains + edges F, N).
        given: Gradients of the features.
        weights: Gradients of the weights; anything for those of silent chains, which have none.
    """

    x: Tensor
    mix: Tensor | None
    given: Sequence[Tensor]
    weights: Sequence[Tensor]


@dataclass(frozen=True)
class RunningUpdate:
    """Running statistics, and those of a batch that they move towards.

    Args:
        running: Running mean and variance of each batch norm, in turn, (C,).
        counts: Number of batches that each has seen.
        momenta: Momentum of each.
        statistics: See `Computed`.
        count: Number of values of each channel.
    """

    running: Sequence[Tensor]
    counts: Sequence[Tensor]
    momenta: Sequence[float]
    statistics: Tensor
    count: int

    @property
    def unbiased(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch, each (norms, C or more), corrected for their number of values."""
        means, _, variances = self.statistics.unbind(1)
        return means, variances * (self.count / (self.count - 1))


class Engine(Protocol):
    """An execution of bundles, with all derivatives."""

    def compute(self, bundle: Bundle) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the sum of each edge, differentiable as often as one likes, and `Computed.statistics`."""

    def update_running(self, update: RunningUpdate) -> None:
        """Move running statistics towards those of a batch, as `nn.BatchNorm2d` does."""


class Kernels(Protocol):
    """Functions that compute bundles and their first derivatives, from which `ByKernels` makes an engine.

    Attributes:
        pools: Whether bundles may have pools.
    """

    pools: bool

    def forward(self, bundle: Bundle) -> Computed:
        """Compute a bundle, as `reference` does."""

    def backward(
        self,
        bundle: Bundle,
        kept: Sequence[Tensor],
        statistics: Tensor,
        grads: Sequence[Tensor],
        wanted: Wanted,
    ) -> Gradients:
        """Return the gradients for those of the sums."""

    def update_running(self, update: RunningUpdate) -> None:
        """Move running statistics; see `Engine`."""


@dataclass(frozen=True)
class ByKernels:
    """An engine whose first derivatives are computed by kernels.

    Args:
        kernels: The kernels.
    """

    kernels: Kernels

    def compute(self, bundle: Bundle) -> tuple[tuple[Tensor, ...], Tensor]:
        """See `Engine`."""
        return compute(bundle, self.kernels)

    def update_running(self, update: RunningUpdate) -> None:
        """See `Engine`."""
        self.kernels.update_running(update)


def compute(bundle: Bundle, kernels: Kernels) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the sum of each edge, differentiable as often as one likes, and the statistics of `Computed`."""
    *sums, statistics = _Compute.apply(kernels, bundle.wiring, bundle.of_batch, *bundle.tensors)
    return tuple(sums), statistics


class _Compute(torch.autograd.Function):
    """A bundle with the gradient that its execution computes."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, wiring: Wiring, of_batch: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        found = kernels.forward(Bundle.of(wiring, of_batch, tensors))
        ctx.save_for_backward(found.statistics, *tensors, *found.kept)
        ctx.settings = kernels, wiring, of_batch, len(tensors)
        ctx.mark_non_differentiable(found.statistics)
        return (*found.sums, found.statistics)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        kernels, wiring, of_batch, count = ctx.settings
        statistics, *saved = ctx.saved_tensors
        bundle = Bundle.of(wiring, of_batch, saved[:count])
        if torch.is_grad_enabled():  # create_graph=True: by what PyTorch can differentiate again
            return (None, None, None, *_gradients_of_reference(bundle, grads[:-1]))
        needs = ctx.needs_input_grad[3:]
        first = 2 + len(bundle.given)
        last = first + len(bundle.weights)
        wanted = Wanted(needs[1], any(needs[2:first]), any(needs[first:last]))
        found = kernels.backward(bundle, saved[count:], statistics, grads[:-1], wanted)
        return (
            *(None, None, None, found.x),
            found.mix.sum_to_size(bundle.mix.shape) if found.mix is not None else None,
            *(found.given if wanted.given else [None] * len(bundle.given)),
            *(found.weights[i] if wanted.weights and heard else None for i, heard in enumerate(wiring.heard)),
            *[None] * len(bundle.running),
        )


def _gradients_of_reference(bundle: Bundle, grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Return gradients that can be differentiated again, in the order of `Bundle.tensors`."""
    # Views, since a feature may be computed from x: its gradient must not count as one of x too.
    inputs = [tensor.view_as(tensor) for tensor in bundle.tensors]
    sums = reference(Bundle.of(bundle.wiring, bundle.of_batch, inputs))
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(sums, needed, grads, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def reference(bundle: Bundle) -> list[Tensor]:
    """Return the sum of each edge, computed chain by chain with PyTorch's own operators."""
    wiring, mix = bundle.wiring, bundle.mix

    def normalised(y: Tensor, norm: int) -> Tensor:
        mean, var = (None, None) if bundle.of_batch else bundle.running[2 * norm : 2 * norm + 2]
        return F.batch_norm(y, mean, var, None, None, bundle.of_batch, 0.0, wiring.eps[norm])

    terms: list[list[Tensor]] = [[] for _ in range(wiring.edges)]
    relu = F.relu(bundle.x)
    for j, edge in enumerate(wiring.edge_of):
        y = relu
        for b in wiring.blocks(j):
            kernel, dilation, stride = wiring.shapes[b]
            y = y if b == wiring.starts[j] else F.relu(y)
            depthwise, pointwise = bundle.weights[2 * b : 2 * b + 2]
            y = F.conv2d(y, depthwise, None, stride, dilation * (kernel // 2), dilation, y.shape[1])
            y = normalised(F.conv2d(y, pointwise), b)
        terms[edge].append(mix[j].view(-1, 1, 1, 1) * (y.detach() if wiring.silent[j] else y))
    pools = [normalised(pooled(bundle.x, *p), n) for n, p in enumerate(wiring.pools, len(wiring.shapes))]
    for edge in range(wiring.edges):
        for f, feature in enumerate([*pools, *bundle.given]):
            terms[edge].append(mix[wiring.term(edge, f)].view(-1, 1, 1, 1) * feature)
    return [torch.stack(each).sum(0) if len(each) > 1 else each[0] for each in terms]


def pooled(x: Tensor, kernel: int, stride: int, is_max: bool) -> Tensor:
    """Return a feature map after a pool."""
    if is_max:
        return F.max_pool2d(x, kernel, stride, kernel // 2)
    return F.avg_pool2d(x, kernel, stride, kernel // 2, count_include_pad=False)
