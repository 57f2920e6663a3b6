"""Bundles on a GPU, and with autocast anywhere: few large operators, whose derivatives PyTorch knows.

Chains of the same shapes run as one, however large they are: a GPU pays for launches. With autocast, feature
maps are of its type, while statistics and the weights of chains stay as exact as the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .bundle_torch.stacks import Stack, stacks
from .bundles import Bundle, RunningUpdate, channels_last, pooled


def compute(bundle: Bundle) -> tuple[tuple[Tensor, ...], Tensor]:
    """Compute a bundle; see `Engine`."""
    run = _Run(bundle)
    for stack in stacks(bundle.wiring, len(bundle.wiring.edge_of)):
        run.add(stack)
    run.add_features()
    return run.sums(), run.statistics()


class _Run:
    """A bundle, as its stacks and features add to the sums."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._relu = channels_last(F.relu(bundle.x))
        self._mix = bundle.mix.unbind()  # without indices, which would have to go to the GPU
        self._terms: list[list[Tensor]] = [[] for _ in range(bundle.wiring.edges)]  # each (N, H', W', C)
        self._statistics: dict[int, Tensor] = {}

    def add(self, stack: Stack) -> None:
        """Add the weighted outputs of chains."""
        wiring, count = self._bundle.wiring, len(stack.chains)
        by_sample = self._bundle.mix.shape[1] > 1
        y = torch.cat([self._relu] * count, 1)
        weights = torch.stack([self._mix[j] for j in stack.chains])  # (chains, 1 or N)
        for level in stack.levels:
            last = level is stack.levels[-1]
            kernel, dilation, stride = wiring.shapes[level[0]]
            depthwise, pointwise = (
                torch.cat([self._bundle.weights[2 * b + i] for b in level]) for i in (0, 1)
            )
            y = y if level is stack.levels[0] else F.relu(y)
            y = F.conv2d(y, depthwise, None, stride, dilation * (kernel // 2), dilation, y.shape[1])
            y = F.conv2d(y, pointwise, groups=count)
            y = y.detach() if last and wiring.silent[stack.chains[0]] else y
            y = self._normalised(level, y, None if by_sample or not last else weights)
        if by_sample:
            y = y.view(len(y), count, -1, *y.shape[2:]) * weights.T[:, :, None, None, None].to(y.dtype)
            y = y.flatten(1, 2)
        for j, part in zip(stack.chains, y.chunk(count, 1), strict=True):
            self._terms[wiring.edge_of[j]].append(part.permute(0, 2, 3, 1))

    def _normalised(self, level: Sequence[int], y: Tensor, weights: Tensor | None) -> Tensor:
        """Apply the batch norms of a level, and the weight of each chain, (chains, 1)."""
        bundle, eps = self._bundle, self._bundle.wiring.eps[level[0]]
        if weights is None:  # ones make PyTorch compute in their type
            weights = bundle.mix.new_ones(len(level), 1)
        # Contiguous: PyTorch's batch norm computes wrong gradients with an expanded weight.
        scale = weights.expand(-1, y.shape[1] // len(level)).flatten().contiguous()
        if not bundle.of_batch:
            mean, var = (torch.cat([bundle.running[2 * b + i] for b in level]) for i in (0, 1))
            return F.batch_norm(y, mean, var, scale, None, False, 0.0, eps)
        y, mean, inverse = torch.native_batch_norm(y, scale, None, None, None, True, 0.0, eps)
        with torch.no_grad():
            found = torch.stack([mean, inverse, inverse**-2 - eps]).view(3, len(level), -1)
        self._statistics.update(zip(level, found.unbind(1), strict=True))
        return y

    def add_features(self) -> None:
        """Add the weighted features."""
        bundle, wiring = self._bundle, self._bundle.wiring
        if not wiring.features:
            return
        maps = [pooled(bundle.x, *pool) for pool in wiring.pools]
        pools = [self._normalised([b], y, None) for b, y in enumerate(maps, len(wiring.shapes))]
        features = torch.stack([f.permute(0, 2, 3, 1) for f in (*pools, *bundle.given)])  # (F, N, H', W', C)
        rows = [self._mix[wiring.term(e, f)] for e in range(wiring.edges) for f in range(wiring.features)]
        mix = torch.stack(rows).view(wiring.edges, wiring.features, -1).expand(-1, -1, features.shape[1])
        sums = torch.einsum("efn,fnp->enp", mix, features.flatten(2))
        for terms, term in zip(self._terms, sums, strict=True):
            terms.append(term.view(features.shape[1:]).to(features.dtype))

    def sums(self) -> tuple[Tensor, ...]:
        """Return the sum of each edge, (N, C, H', W'), rounded once."""
        return tuple(torch.stack(terms).sum(0).permute(0, 3, 1, 2) for terms in self._terms)

    def statistics(self) -> Tensor:
        """Return mean, 1 / standard deviation and variance of each block; nothing without a batch's."""
        found = [self._statistics[b] for b in sorted(self._statistics)]
        return torch.stack(found) if found else self._bundle.x.new_empty(0)


@torch.no_grad()
def update_running(update: RunningUpdate) -> None:
    """Move running statistics; see `Engine`."""
    means, variances = update.unbiased
    for target, found in ((update.running[::2], means), (update.running[1::2], variances)):
        for momentum in set(update.momenta):
            chosen = [i for i, each in enumerate(update.momenta) if each == momentum]
            torch._foreach_lerp_([target[i] for i in chosen], [found[i] for i in chosen], momentum)
    torch._foreach_add_(list(update.counts), 1)
