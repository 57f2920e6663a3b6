"""Architecture updates: how batches become gradients of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from spacelang import SpaceError


@dataclass(frozen=True)
class Step:
    """What an update may use.

    Args:
        logits: the architecture parameters, one tensor a group.
        train_loss: L_train on the coming training batch, at the present weights and logits.
        val_loss: L_val on a new validation batch.
        module: whose parameters are the weights.
        optimizers: the user's.
    """

    logits: Sequence[Tensor]
    train_loss: Callable[[], Tensor]
    val_loss: Callable[[], Tensor]
    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]


class Update(Protocol):
    """Computes the gradient of the logits."""

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """One gradient for each of `step.logits`; None where the loss does not depend on it."""
        ...


@dataclass(frozen=True)
class FirstOrder:
    """g = grad_alpha L_val(w, alpha): DARTS with xi = 0."""

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """See `Update`."""
        return torch.autograd.grad(step.val_loss(), step.logits, allow_unused=True)


@dataclass(frozen=True)
class SecondOrder:
    """g = grad_alpha L_val(w', alpha) - xi d^2 L_train(w, alpha) / (d alpha d w) . grad_w' L_val(w', alpha).

    w' = w - xi (mu b + grad_w L_train(w, alpha) + lambda w) is the coming step of the user's SGD, with its
    momentum mu, buffer b, weight decay lambda and present learning rate xi. All four losses use the
    same training batch. Weights, buffers of the module and global generators are restored bit for bit.

    Args:
        hvp: "finite" for the paper's central difference with eps = 0.01 / ||v||; "exact" differentiates
            the gradient once more. Across the kinks of ReLU and max-pooling the two differ much.

    Source: DARTS, arXiv:1806.09055, eq. 7 and 8.
    """

    hvp: Literal["finite", "exact"] = "finite"

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """See `Update`.

        Raises:
            SpaceError: the optimiser is not plain SGD.
        """
        rates = sgd_settings(step.optimizers)
        weights = [weight for weight in rates if weight.requires_grad]
        with restored(step.module, weights) as start:
            descent = torch.autograd.grad(step.train_loss(), weights, allow_unused=True)
            with torch.no_grad():
                for weight, gradient in zip(weights, descent, strict=True):
                    weight.sub_(rates[weight].displacement(weight, gradient))
            found = torch.autograd.grad(step.val_loss(), [*step.logits, *weights], allow_unused=True)
            first, v = found[: len(step.logits)], found[len(step.logits) :]
            # xi may differ between parameter groups, so the direction carries it.
            direction = [
                torch.zeros_like(w) if g is None else rates[w].learning_rate * g
                for w, g in zip(weights, v, strict=True)
            ]
            start.restore()
            product = self._finite if self.hvp == "finite" else self._exact
            second = product(step, weights, direction, start)
        return [_difference(a, b) for a, b in zip(first, second, strict=True)]

    @staticmethod
    def _finite(
        step: Step, weights: list[nn.Parameter], direction: list[Tensor], start: Backup
    ) -> Sequence[Tensor | None]:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for d in direction]))
        if norm == 0:
            return [None] * len(step.logits)
        eps = 0.01 / norm
        sides = []
        for sign in (1, -1):
            start.restore()
            with torch.no_grad():
                for weight, d in zip(weights, direction, strict=True):
                    weight.add_(sign * eps * d)
            sides.append(torch.autograd.grad(step.train_loss(), step.logits, allow_unused=True))
        differences = [_difference(plus, minus) for plus, minus in zip(*sides, strict=True)]
        return [None if d is None else d / (2 * eps) for d in differences]

    @staticmethod
    def _exact(
        step: Step, weights: list[nn.Parameter], direction: list[Tensor], start: Backup
    ) -> Sequence[Tensor | None]:
        gradients = torch.autograd.grad(step.train_loss(), weights, create_graph=True, allow_unused=True)
        terms = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None]
        return torch.autograd.grad(torch.stack(terms).sum(), step.logits, allow_unused=True)


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if b is None:
        return a
    return -b if a is None else a - b


@dataclass(frozen=True)
class SgdSettings:
    """How SGD will move one weight."""

    learning_rate: float
    momentum: float
    weight_decay: float
    buffer: Tensor | None

    def displacement(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """xi (mu b + grad + lambda w)."""
        if gradient is None:
            return torch.zeros_like(weight)
        total = gradient + self.weight_decay * weight
        if self.buffer is not None:
            total = total + self.momentum * self.buffer
        return self.learning_rate * total


def sgd_settings(optimizers: Sequence[torch.optim.Optimizer]) -> dict[nn.Parameter, SgdSettings]:
    """Settings by weight.

    Raises:
        SpaceError: another optimiser than SGD, or SGD with dampening, Nesterov momentum or maximize.
    """
    settings: dict[nn.Parameter, SgdSettings] = {}
    for optimizer in optimizers:
        inner: Any = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, torch.optim.SGD):
            raise SpaceError(
                f"second-order DARTS unrolls a step of SGD; the optimizer is {type(inner).__name__}. "
                "Use torch.optim.SGD in configure_optimizers, or DARTS(order=1)."
            )
        for group in inner.param_groups:
            unsupported = [name for name in ("nesterov", "dampening", "maximize") if group.get(name)]
            if unsupported:
                raise SpaceError(
                    f"second-order DARTS does not unroll SGD with {', '.join(unsupported)}; turn it off, "
                    "or use DARTS(order=1)."
                )
            for weight in group["params"]:
                buffer = inner.state.get(weight, {}).get("momentum_buffer")
                settings[weight] = SgdSettings(group["lr"], group["momentum"], group["weight_decay"], buffer)
    return settings


class Backup:
    """Copies of weights, of every buffer of a module, and of the global generators."""

    def __init__(self, module: nn.Module, weights: Sequence[Tensor]) -> None:
        tensors = {id(t): t for t in (*weights, *module.buffers())}.values()
        self._copies = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Put everything back as it was."""
        with torch.no_grad():
            for tensor, copy in self._copies:
                tensor.copy_(copy)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def restored(module: nn.Module, weights: Sequence[Tensor]) -> Iterator[Backup]:
    """Undo at the end whatever happens to weights, buffers and generators inside."""
    backup = Backup(module, weights)
    try:
        yield backup
    finally:
        backup.restore()
