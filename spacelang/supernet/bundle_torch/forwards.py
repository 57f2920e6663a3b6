"""A bundle forwards: stack by stack, then the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bundles import Bundle, channels_last
from .depthwise import convolved
from .maps import product
from .stacks import Run, Stack


class Forward(Run):
    """A bundle, as its stacks and features add to the sums."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        size = len(bundle.x), self.wiring.edges * self.channels, *self.wiring.output_size(bundle.x)
        self.total = channels_last(bundle.x.new_zeros(size))
        self.kept: list[Tensor] = []
        self._means: list[Tensor] = []
        self._inverses: list[Tensor] = []

    def add(self, stack: Stack) -> None:
        """Add the weighted outputs of chains."""
        y, weights = self.read(stack), self.weights(stack)
        for level in stack.levels:
            last = level is stack.levels[-1]
            y = convolved(y, self.depthwise(level), self.wiring.shapes[level[0]])
            self.kept.append(product(y, self.pointwise(level)))
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
