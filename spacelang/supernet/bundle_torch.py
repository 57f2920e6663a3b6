"""Bundles in PyTorch: first derivatives by hand, out of the operators that are fast on a CPU.

What makes the difference, on one core with AVX2 in float32:

- The gradient of a depthwise convolution's input is a convolution with the flipped kernel. PyTorch's own is
  as fast for dilation 1, and six times slower for dilation 2, for which oneDNN has no depthwise kernel.
- A dilated kernel sees the pixels of each phase of the image by themselves. So the gradient of its weights is
  that of a kernel without dilation on smaller images: four times faster.
- oneDNN has a kernel for the gradient of depthwise weights that are at most three columns wide and not higher
  than the image. Two calls for 3 of 5 columns each are twice as fast as its kernel for any convolution.
- A 1x1 convolution is a product of matrices. PyTorch copies its input first when a batch is small.
- A batch norm multiplies by a weight anyway: that of the mixture.
- Chains of the same shapes run as one on all their channels, as long as these fit into the cache.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .bundles import Bundle, Computed, Gradients, Wanted, Wiring, channels_last

Shape = tuple[int, int, int]

_JOINED_BYTES = 2**21  # of the feature maps of chains that run as one; larger ones leave the cache


def forward(bundle: Bundle) -> Computed:
    """Compute a bundle; see `Kernels`."""
    run = _Forward(bundle.channels_last())
    for stack in run.stacks:
        run.add(stack)
    run.add_features()
    return Computed(run.total.chunk(run.wiring.edges, 1), run.kept, run.statistics())


def backward(
    bundle: Bundle, kept: Sequence[Tensor], statistics: Tensor, grads: Sequence[Tensor], wanted: Wanted
) -> Gradients:
    """Return gradients; see `Kernels`."""
    run = _Backward(
        bundle.channels_last(), kept, statistics, channels_last(torch.cat(list(grads), 1)), wanted
    )
    for stack in run.stacks:
        run.add(stack)
    given = run.add_features()
    return Gradients(run.grad_x(), run.grad_mix if wanted.mix else None, given, run.grad_weights)


@torch.no_grad()
def update_running(
    running: Sequence[Tensor],
    counts: Sequence[Tensor],
    momenta: Sequence[float],
    statistics: Tensor,
    count: int,
) -> None:
    """Move running statistics; see `Kernels`."""
    means, _, variances = statistics.unbind(1)
    found = zip(means.unbind(), (variances * (count / (count - 1))).unbind(), strict=True)
    for i, (mean, var) in enumerate(found):
        running[2 * i].lerp_(mean, momenta[i])
        running[2 * i + 1].lerp_(var, momenta[i])
        counts[i].add_(1)


# -- stacks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stack:
    """Chains of the same shapes, which run as one on all their channels.

    Args:
        chains: The chains.
        levels: First block of each chain, second block of each, and so on.
        first: Number of levels that run before.
    """

    chains: list[int]
    levels: list[list[int]]
    first: int


@cache
def _stacks(wiring: Wiring, most: int) -> list[_Stack]:
    """Return all chains in stacks of at most `most`."""
    alike: dict[object, list[int]] = defaultdict(list)
    for j, silent in enumerate(wiring.silent):
        alike[silent, *((wiring.shapes[b], wiring.eps[b]) for b in wiring.blocks(j))].append(j)
    stacks, first = [], 0
    for all_chains in alike.values():
        for start in range(0, len(all_chains), most):
            chains = all_chains[start : start + most]
            levels = [list(level) for level in zip(*map(wiring.blocks, chains), strict=True)]
            stacks.append(_Stack(chains, levels, first))
            first += len(levels)
    return stacks


class _Run:
    """A bundle in stacks, and what both directions ask of it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.wiring = bundle.wiring
        self.channels = bundle.x.shape[1]
        self.by_sample = bundle.mix.shape[1] > 1
        self.stacks = _stacks(
            self.wiring, max(1, _JOINED_BYTES // (bundle.x.numel() * bundle.x.element_size()))
        )
        self.relu = F.relu(bundle.x)
        self._repeated = {1: self.relu}

    def order(self) -> Tensor:
        """Return the blocks in the order in which they run, (blocks,)."""
        return torch.tensor([b for stack in self.stacks for level in stack.levels for b in level])

    def read(self, stack: _Stack) -> Tensor:
        """Return what the chains of a stack read, (N, chains C, H, W)."""
        count = len(stack.chains)
        if count not in self._repeated:
            self._repeated[count] = channels_last(self.relu.repeat(1, count, 1, 1))
        return self._repeated[count]

    def depthwise(self, level: Sequence[int]) -> Tensor:
        """Return the depthwise weights of a level, (chains C, 1, k, k)."""
        return torch.cat([self.bundle.weights[2 * b] for b in level])

    def pointwise(self, level: Sequence[int]) -> Tensor:
        """Return the 1x1 weights of a level, (chains, C out, C in)."""
        return torch.stack([self.bundle.weights[2 * b + 1].flatten(1) for b in level])

    def weights(self, stack: _Stack) -> Tensor:
        """Return the weights of chains for each of their channels, (chains C,), or (N, chains C, 1, 1)."""
        weights = self.bundle.mix[stack.chains].repeat_interleave(self.channels, 0)
        return weights.T[:, :, None, None] if self.by_sample else weights[:, 0].contiguous()

    def places(self, stack: _Stack) -> list[slice]:
        """Return the channels of the edge of each chain among those of all; one slice if they are all."""
        edges = [self.wiring.edge_of[j] for j in stack.chains]
        if edges == list(range(self.wiring.edges)):
            return [slice(None)]
        return [slice(e * self.channels, (e + 1) * self.channels) for e in edges]


# -- forwards --------------------------------------------------------------------------------------------


class _Forward(_Run):
    """A bundle, as its stacks and features add to the sums."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        size = len(bundle.x), self.wiring.edges * self.channels, *self.wiring.output_size(bundle.x)
        self.total = channels_last(bundle.x.new_zeros(size))
        self.kept: list[Tensor] = []
        self._means: list[Tensor] = []
        self._inverses: list[Tensor] = []

    def add(self, stack: _Stack) -> None:
        """Add the weighted outputs of chains."""
        y, weights = self.read(stack), self.weights(stack)
        for level in stack.levels:
            last = level is stack.levels[-1]
            convolved = _depthwise(y, self.depthwise(level), self.wiring.shapes[level[0]])
            self.kept.append(_product(convolved, self.pointwise(level)))
            y = self._norm(level, self.kept[-1], weights if last and not self.by_sample else None)
            y = y if last else y.relu_()
        y = y.mul_(weights) if self.by_sample else y
        places = self.places(stack)
        for place, part in zip(places, y.chunk(len(places), 1), strict=True):
            self.total[:, place] += part

    def _norm(self, level: Sequence[int], y: Tensor, weight: Tensor | None) -> Tensor:
        """Apply the batch norms of a level, with a weight for each channel or without."""
        eps = self.wiring.eps[level[0]]
        if self.bundle.of_batch:
            y, mean, inverse = torch.native_batch_norm(y, weight, None, None, None, True, 0.0, eps)
        else:
            mean, var = (torch.cat([self.bundle.running[2 * b + i] for b in level]) for i in (0, 1))
            inverse = (var + eps).rsqrt()
            y = torch.native_batch_norm(y, weight, None, mean, var, False, 0.0, eps)[0]
        self._means.append(mean)
        self._inverses.append(inverse)
        return y

    def add_features(self) -> None:
        """Add the weighted features."""
        for edge, total in enumerate(self.total.chunk(self.wiring.edges, 1)):
            for f, feature in enumerate(self.bundle.given):
                total.addcmul_(feature, self.bundle.mix[self.wiring.term(edge, f)].view(-1, 1, 1, 1))

    def statistics(self) -> Tensor:
        """Return mean, 1 / standard deviation and variance of each block, (blocks, 3, C)."""
        means, inverses = (torch.cat(each).view(-1, self.channels) for each in (self._means, self._inverses))
        eps = means.new_tensor(self.wiring.eps)[self.order(), None]
        found = torch.stack([means, inverses, inverses**-2 - eps], dim=1)
        return found[self.order().argsort()]


# -- backwards -------------------------------------------------------------------------------------------


class _Backward(_Run):
    """Gradients of a bundle, as its stacks and features add to them."""

    def __init__(
        self, bundle: Bundle, kept: Sequence[Tensor], statistics: Tensor, grad: Tensor, wanted: Wanted
    ) -> None:
        super().__init__(bundle)
        self.kept, self.wanted, self.grad = kept, wanted, grad  # grad: (N, edges C, H', W')
        self._centred = self._without_mean(grad)
        self.grad_mix = torch.zeros_like(bundle.mix)
        self.grad_weights: list[Tensor] = [torch.empty(0)] * (len(bundle.weights) if wanted.weights else 0)
        self._grads_relu: dict[int, Tensor] = {}
        self._phases: dict[object, Tensor] = {}
        sizes = [len(level) for stack in self.stacks for level in stack.levels]
        self._statistics = [
            s.transpose(0, 1).flatten(1) for s in statistics[self.order()].split_with_sizes(sizes)
        ]

    def grad_x(self) -> Tensor:
        """Return the gradient of x from all that was added, (N, C, H, W)."""
        parts = [
            grad.view(len(grad), count, -1, *grad.shape[2:]).sum(1)
            for count, grad in self._grads_relu.items()
        ]
        total = torch.stack(parts).sum(0) if parts else torch.zeros_like(self.relu)
        found: Tensor = torch.ops.aten.threshold_backward(total, self.relu, 0)
        return found

    def add(self, stack: _Stack) -> None:
        """Add the gradients of chains."""
        grads = self.grad if self.by_sample else self._centred
        grad = torch.cat([grads[:, place] for place in self.places(stack)], 1)
        weights, last = self.weights(stack), len(stack.levels) - 1
        if self.by_sample and self.wanted.mix:
            products = (grad * self._output(stack, last)).sum((2, 3)).view(len(grad), -1, self.channels)
            self.grad_mix[stack.chains] = products.sum(2).T
        grad = self._without_mean(grad * weights) if self.by_sample else grad
        for depth in range(last, -1, -1):
            scaled = depth == last and not self.by_sample
            grad, of_weight = self._norm(stack, depth, grad, weights if scaled else None)
            if of_weight is not None:
                self.grad_mix[stack.chains, 0] = of_weight.view(-1, self.channels).sum(1)
            if self.wiring.silent[stack.chains[0]]:
                return
            grad = self._convolutions(stack, depth, grad)
        count = len(stack.chains)
        if count in self._grads_relu:
            self._grads_relu[count] += grad
        else:
            self._grads_relu[count] = grad

    def _without_mean(self, grad: Tensor) -> Tensor:
        """Return a gradient less its mean, which a batch norm takes back; PyTorch rounds before it does."""
        return grad - grad.mean((0, 2, 3), keepdim=True) if self.bundle.of_batch else grad

    def _output(self, stack: _Stack, depth: int) -> Tensor:
        """Return the output of the batch norms of a level again."""
        mean, _, var = self._statistics[stack.first + depth]
        y, eps = self.kept[stack.first + depth], self.wiring.eps[stack.levels[depth][0]]
        output: Tensor = torch.native_batch_norm(y, None, None, mean, var, False, 0.0, eps)[0]
        return output

    def _norm(
        self, stack: _Stack, depth: int, grad: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of what the batch norms of a level read, and of their weights, (chains C,)."""
        mean, inverse, var = self._statistics[stack.first + depth]
        y, eps = self.kept[stack.first + depth], self.wiring.eps[stack.levels[depth][0]]
        mask = [True, weight is not None and self.wanted.mix, False]
        settings = mean, var, mean, inverse, self.bundle.of_batch, eps, mask
        grad, of_weight, _ = torch.ops.aten.native_batch_norm_backward(grad, y, weight, *settings)
        return grad, of_weight if mask[1] else None

    def _convolutions(self, stack: _Stack, depth: int, grad: Tensor) -> Tensor:
        """Return the gradient of what a level reads, behind its ReLU if there is a level before."""
        level = stack.levels[depth]
        shape, depthwise, pointwise = (
            self.wiring.shapes[level[0]],
            self.depthwise(level),
            self.pointwise(level),
        )
        read = self._output(stack, depth - 1).relu_() if depth else self.read(stack)
        grad_d = _product(grad, pointwise.mT)
        if self.wanted.weights:
            convolved = _depthwise(read, depthwise, shape)  # again: it need not be kept
            of_pointwise = torch.bmm(_pixels(grad, len(level)).mT, _pixels(convolved, len(level)))
            of_depthwise = self._depthwise_weight(read, depthwise, shape, grad_d, is_first=depth == 0)
            for b, one, two in zip(level, of_depthwise.chunk(len(level)), of_pointwise, strict=True):
                self.grad_weights[2 * b], self.grad_weights[2 * b + 1] = one, two[:, :, None, None]
        grad_read = _depthwise_input(read, depthwise, shape, grad_d)
        if not depth:
            return grad_read
        passed: Tensor = torch.ops.aten.threshold_backward(grad_read, read, 0)
        return passed

    def _depthwise_weight(
        self, x: Tensor, weight: Tensor, shape: Shape, grad: Tensor, *, is_first: bool
    ) -> Tensor:
        x, (kernel, dilation, stride) = _seen(x, shape)
        if stride > 1:
            return _convolution_backward(grad, x, weight, (kernel, dilation, stride), of_weight=True)
        if dilation == 1:
            return _weight_gradient(grad, x, weight)
        key = x.shape, shape[1:]  # first levels of one dilation read the same
        parts = self._phases.get(key) if is_first else None
        if parts is None:
            parts = _phases(x, dilation)
        if is_first:
            self._phases[key] = parts
        return _weight_gradient(_phases(grad, dilation), parts, weight)

    def add_features(self) -> list[Tensor]:
        """Return the gradients of the features; add those of their weights."""
        wiring, given = self.wiring, []
        grads = [channels_last(grad) for grad in self.grad.chunk(wiring.edges, 1)]
        for f, feature in enumerate(self.bundle.given):
            total = torch.zeros_like(feature) if self.wanted.given else feature
            for edge, grad in enumerate(grads):
                term = wiring.term(edge, f)
                if self.wanted.mix:
                    products = torch.linalg.vecdot(_flat(grad), _flat(feature))  # (N,)
                    self.grad_mix[term] = products.sum_to_size(self.grad_mix[term].shape)
                if self.wanted.given:
                    total.addcmul_(grad, self.bundle.mix[term].view(-1, 1, 1, 1))
            given += [total] if self.wanted.given else []
        return given


# -- feature maps ----------------------------------------------------------------------------------------


def _flat(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H W C); a view if it is so in memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _pixels(x: Tensor, parts: int) -> Tensor:
    """Return (N, parts C, H, W) as (parts, N H W, C); a view if it is (N, H, W, parts, C) in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, parts, x.shape[1] // parts).transpose(0, 1)


def _product(x: Tensor, weights: Tensor) -> Tensor:
    """Return 1x1 convolutions, (N, parts C, H, W), of weights (parts, C out, C in)."""
    n, channels, h, w = x.shape
    y = torch.bmm(_pixels(x, len(weights)), weights.mT)  # (parts, N H W, C)
    return y.transpose(0, 1).reshape(n, h, w, channels).permute(0, 3, 1, 2)


def _phases(x: Tensor, step: int) -> Tensor:
    """Return every step-th pixel of every phase as an image by itself, (step^2 N, C, H / step, W / step)."""
    n, c, h, w = x.shape
    x = F.pad(x, (0, -w % step, 0, -h % step)).permute(0, 2, 3, 1)
    x = x.reshape(n, -(-h // step), step, -(-w // step), step, c).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(step * step * n, *x.shape[3:]).permute(0, 3, 1, 2)


# -- depthwise convolutions ------------------------------------------------------------------------------


def _seen(x: Tensor, shape: Shape) -> tuple[Tensor, Shape]:
    """Return the pixels that a kernel sees, where its stride and dilation leave some out, and its shape."""
    kernel, dilation, stride = shape
    step = math.gcd(dilation, stride)
    if step == 1:
        return x, shape
    return channels_last(x[:, :, ::step, ::step]), (kernel, dilation // step, stride // step)


def _depthwise(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    x, (kernel, dilation, stride) = _seen(x, shape)
    return F.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation, x.shape[1])


def _depthwise_input(x: Tensor, weight: Tensor, shape: Shape, grad: Tensor) -> Tensor:
    seen, (kernel, dilation, stride) = _seen(x, shape)
    if stride == 1:
        found = F.conv2d(grad, weight.flip(2, 3), None, 1, dilation * (kernel // 2), dilation, x.shape[1])
    else:
        found = _convolution_backward(grad, seen, weight, (kernel, dilation, stride), of_weight=False)
    if seen is x:
        return found
    step, whole = math.gcd(shape[1], shape[2]), torch.zeros_like(x)
    whole[:, :, ::step, ::step] = found
    return whole


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weights of a kernel without stride and dilation, three columns at a time."""
    (rows, width), (kernel, channels) = x.shape[2:], (weight.shape[2], x.shape[1])
    if kernel <= 3:
        return _convolution_backward(grad, x, weight, (kernel, 1, 1), of_weight=True)
    half, missing = kernel // 2, max(0, kernel - rows)
    x, grad = F.pad(x, (half, half, 0, missing)), F.pad(grad, (0, 0, 0, missing))
    found = torch.empty_like(weight)
    for first in (*range(0, kernel - 3, 3), kernel - 3):
        part, columns = channels_last(x[..., first : first + width + 2]), weight[..., :3]
        settings = [1, 1], [half, 0], [1, 1], False, [0, 0], channels, [False, True, False]
        gradients = torch.ops.aten.convolution_backward(grad, part, columns, None, *settings)
        found[..., first : first + 3] = gradients[1]
    return found


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, shape: Shape, *, of_weight: bool
) -> Tensor:
    kernel, dilation, stride = shape
    padding, channels, mask = dilation * (kernel // 2), x.shape[1], [not of_weight, of_weight, False]
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], channels, mask
    )
    found: Tensor = gradients[int(of_weight)]
    return found
