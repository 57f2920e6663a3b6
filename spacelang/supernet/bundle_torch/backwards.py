"""A bundle backwards: what the batch norms read is kept, what is cheap is computed again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bundles import Bundle, Wanted, channels_last
from .depthwise import convolved, input_gradient, weight_gradient
from .maps import flat, pixels, product
from .stacks import Run, Stack


class Backward(Run):
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

    def add(self, stack: Stack) -> None:
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

    def _output(self, stack: Stack, depth: int) -> Tensor:
        """Return the output of the batch norms of a level again."""
        mean, _, var = self._statistics[stack.first + depth]
        y, eps = self.kept[stack.first + depth], self.wiring.eps[stack.levels[depth][0]]
        output: Tensor = torch.native_batch_norm(y, None, None, mean, var, False, 0.0, eps)[0]
        return output

    def _norm(
        self, stack: Stack, depth: int, grad: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of what the batch norms of a level read, and of their weights, (chains C,)."""
        mean, inverse, var = self._statistics[stack.first + depth]
        y, eps = self.kept[stack.first + depth], self.wiring.eps[stack.levels[depth][0]]
        mask = [True, weight is not None and self.wanted.mix, False]
        settings = mean, var, mean, inverse, self.bundle.of_batch, eps, mask
        grad, of_weight, _ = torch.ops.aten.native_batch_norm_backward(grad, y, weight, *settings)
        return grad, of_weight if mask[1] else None

    def _convolutions(self, stack: Stack, depth: int, grad: Tensor) -> Tensor:
        """Return the gradient of what a level reads, behind its ReLU if there is a level before."""
        level = stack.levels[depth]
        shape, weight, pointwise = self.wiring.shapes[level[0]], self.depthwise(level), self.pointwise(level)
        read = self._output(stack, depth - 1).relu_() if depth else self.read(stack)
        grad_d = product(grad, pointwise.mT)
        if self.wanted.weights:
            y = convolved(read, weight, shape)  # again: it need not be kept
            of_pointwise = torch.bmm(pixels(grad, len(level)).mT, pixels(y, len(level)))
            # The first levels of one dilation read the same.
            of_depthwise = weight_gradient(grad_d, read, weight, shape, None if depth else self._phases)
            for b, one, two in zip(level, of_depthwise.chunk(len(level)), of_pointwise, strict=True):
                self.grad_weights[2 * b], self.grad_weights[2 * b + 1] = one, two[:, :, None, None]
        grad_read = input_gradient(grad_d, read, weight, shape)
        if not depth:
            return grad_read
        passed: Tensor = torch.ops.aten.threshold_backward(grad_read, read, 0)
        return passed

    def add_features(self) -> list[Tensor]:
        """Return the gradients of the features; add those of their weights."""
        wiring, given = self.wiring, []
        grads = [channels_last(grad) for grad in self.grad.chunk(wiring.edges, 1)]
        for f, feature in enumerate(self.bundle.given):
            total = torch.zeros_like(feature) if self.wanted.given else feature
            for edge, grad in enumerate(grads):
                term = wiring.term(edge, f)
                if self.wanted.mix:
                    products = torch.linalg.vecdot(flat(grad), flat(feature))  # (N,)
                    self.grad_mix[term] = products.sum_to_size(self.grad_mix[term].shape)
                if self.wanted.given:
                    total.addcmul_(grad, self.bundle.mix[term].view(-1, 1, 1, 1))
            given += [total] if self.wanted.given else []
        return given
