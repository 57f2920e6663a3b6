"""Architecture updates: how batches become gradients of the logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang import SpaceError
from spacelang.supernet import stepwise


@dataclass(frozen=True)
class Step:
    """The losses and state that an update may use.

    Args:
        logits: The architecture parameters, one tensor a group.
        train_loss: Computes L_train on the coming training batch, at the present weights and logits.
        val_loss: Computes L_val on a new validation batch.
        module: Owner of the weights.
        optimizers: The user's optimisers.
        generator: Source of a relaxation's random draws.
    """

    logits: Sequence[Tensor]
    train_loss: Callable[[], Tensor]
    val_loss: Callable[[], Tensor]
    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    generator: torch.Generator | None = None


class Update(Protocol):
    """Computes the gradient of the logits."""

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """Return one gradient for each of `step.logits`.

        None leaves these logits and their moments as they are in this step, without weight decay: where the
        loss does not depend on them, or where the update lets them rest.
        """
        ...


@dataclass(frozen=True)
class FirstOrder:
    """g = grad_alpha L_val(w, alpha): DARTS with xi = 0."""

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """See `Update`."""
        return gradients_of_logits(step, step.val_loss)


def gradients_of_logits(step: Step, loss: Callable[[], Tensor]) -> Sequence[Tensor | None]:
    """Return the gradients of a loss in the logits; weights are constants, so nothing is kept for theirs."""
    known = {id(tensor) for tensor in step.logits}
    with constant(weight for weight in step.module.parameters() if id(weight) not in known):
        value = loss()
        if not value.requires_grad:  # it does not depend on any logit
            return [None] * len(step.logits)
        return torch.autograd.grad(value, step.logits, allow_unused=True)


def clip(gradients: Sequence[Tensor], largest: float) -> Tensor | float:
    """Scale gradients so that their joint norm is at most `largest`; return the factor."""
    if not gradients:
        return 1.0
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    factor: Tensor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return factor


@contextmanager
def constant(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Take no gradients of these tensors inside."""
    variable = [tensor for tensor in tensors if tensor.requires_grad]
    try:
        for tensor in variable:
            tensor.requires_grad_(False)
        yield
    finally:
        for tensor in variable:
            tensor.requires_grad_(True)


@dataclass(frozen=True)
class SecondOrder:
    """g = grad_alpha L_val(w', alpha) - xi d^2 L_train(w, alpha) / (d alpha d w) . grad_w' L_val(w', alpha).

    w' = w - xi (mu b + grad_w L_train(w, alpha) + lambda w) is the coming step of the user's SGD, with its
    momentum mu, buffer b, weight decay lambda and present learning rate xi. All four losses use the
    same training batch and, where a relaxation or dropout is random, the same draws but for L_val. Weights,
    buffers of the module and generators are restored bit for bit.

    Args:
        hvp: Second derivative: "finite" for the paper's central difference with eps = 0.01 / ||v||; "exact"
            for a forward-mode derivative of the reverse pass. Across the kinks of ReLU and max-pooling they
            differ much.
        clip: Largest norm of grad_w L_train in the virtual step, and of v = grad_w' L_val; None for no limit.
            The factor c <= 1 of the first is a constant, so it multiplies the second derivative, too.

    Source: DARTS, arXiv:1806.09055, eq. 7 and 8; clipping as in its authors' search of recurrent cells.
    """

    hvp: Literal["finite", "exact"] = "finite"
    clip: float | None = None

    def gradients(self, step: Step) -> Sequence[Tensor | None]:
        """See `Update`.

        Raises:
            SpaceError: the optimiser is not plain SGD.
        """
        rates = sgd_settings(step.optimizers)
        weights = [weight for weight in rates if weight.requires_grad]
        with restored(step.module, weights, step.generator) as start:
            descent = torch.autograd.grad(step.train_loss(), weights, allow_unused=True)
            factor = self._clipped(descent)
            with torch.no_grad():
                for weight, gradient in zip(weights, descent, strict=True):
                    weight.sub_(rates[weight].displacement(weight, gradient))
            found = torch.autograd.grad(step.val_loss(), [*step.logits, *weights], allow_unused=True)
            first, v = found[: len(step.logits)], found[len(step.logits) :]
            self._clipped(v)
            # xi may differ between parameter groups, so the direction carries it.
            direction = [
                torch.zeros_like(w) if g is None else factor * rates[w].learning_rate * g
                for w, g in zip(weights, v, strict=True)
            ]
            start.restore()
            product = self._finite if self.hvp == "finite" else self._exact
            second = product(step, weights, direction, start)
        return [_difference(a, b) for a, b in zip(first, second, strict=True)]

    def _clipped(self, gradients: Sequence[Tensor | None]) -> Tensor | float:
        """Clip gradients in place, and return the factor that did it."""
        return 1.0 if self.clip is None else clip([g for g in gradients if g is not None], self.clip)

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
            sides.append(gradients_of_logits(step, step.train_loss))
        differences = [_difference(plus, minus) for plus, minus in zip(*sides, strict=True)]
        return [None if d is None else d / (2 * eps) for d in differences]

    @staticmethod
    def _exact(
        step: Step, weights: list[nn.Parameter], direction: list[Tensor], start: Backup
    ) -> Sequence[Tensor | None]:
        # Fused attention and CUDA graphs have no second derivative.
        with sdpa_kernel(SDPBackend.MATH), stepwise(step.module):
            try:
                return forward_over_reverse(step, weights, direction)
            except RuntimeError as error:  # also NotImplementedError
                reason = str(error).partition("\n")[0]
                warnings.warn(f"hvp='exact' differentiates twice in reverse mode: {reason}", stacklevel=2)
                start.restore()
                return reverse_over_reverse(step, weights, direction)


def forward_over_reverse(
    step: Step, weights: Sequence[nn.Parameter], direction: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return d^2 L_train / (d alpha d w) . v as the tangent along v of a reverse pass, grad_alpha L_train.

    Raises:
        RuntimeError: PyTorch has no forward-mode derivative of an operation's backward pass, as of
            `mse_loss` and `huber_loss`.
    """
    names = {weight: name for name, weight in step.module.named_parameters()}
    with warnings.catch_warnings(), forward_ad.dual_level():
        # PyTorch scripts some of its own derivatives when the first dual tensor is made.
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)
        duals = {
            f"module.{names[weight]}": forward_ad.make_dual(weight.detach(), d)  # type: ignore[no-untyped-call]
            for weight, d in zip(weights, direction, strict=True)
        }
        loss = functional_call(_TrainLoss(step), duals, ())
        gradients = torch.autograd.grad(loss, step.logits, allow_unused=True)
        return [
            None if g is None else forward_ad.unpack_dual(g).tangent  # type: ignore[no-untyped-call]
            for g in gradients
        ]


def reverse_over_reverse(
    step: Step, weights: Sequence[nn.Parameter], direction: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Return the same product as the gradient in alpha of grad_w L_train . v: slower, for all operations."""
    gradients = torch.autograd.grad(step.train_loss(), weights, create_graph=True, allow_unused=True)
    terms = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None]
    return torch.autograd.grad(torch.stack(terms).sum(), step.logits, allow_unused=True)


class _TrainLoss(nn.Module):
    """L_train as a module, so that its weights can be exchanged for a call."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.module = step.module
        self.train_loss = step.train_loss

    def forward(self) -> Tensor:
        return self.train_loss()


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if b is None:
        return a
    return -b if a is None else a - b


@dataclass(frozen=True)
class SgdSettings:
    """The settings with which SGD will move one weight."""

    learning_rate: float
    momentum: float
    weight_decay: float
    buffer: Tensor | None

    def displacement(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """Return xi (mu b + grad + lambda w)."""
        if gradient is None:
            return torch.zeros_like(weight)
        total = gradient + self.weight_decay * weight
        if self.buffer is not None:
            total = total + self.momentum * self.buffer
        return self.learning_rate * total


def sgd_settings(optimizers: Sequence[torch.optim.Optimizer]) -> dict[nn.Parameter, SgdSettings]:
    """Return settings by weight.

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
    """Copies of weights, of every buffer of a module, and of the state of generators, the global ones too."""

    def __init__(
        self, module: nn.Module, weights: Sequence[Tensor], generator: torch.Generator | None = None
    ) -> None:
        tensors = {id(t): t for t in (*weights, *module.buffers())}.values()
        self._copies = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._own = (generator, generator.get_state()) if generator is not None else None

    def restore(self) -> None:
        """Restore everything."""
        with torch.no_grad():
            for tensor, copy in self._copies:
                tensor.copy_(copy)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._own:
            self._own[0].set_state(self._own[1])


@contextmanager
def restored(
    module: nn.Module, weights: Sequence[Tensor], generator: torch.Generator | None = None
) -> Iterator[Backup]:
    """Undo at the end every change to weights, buffers and generators inside."""
    backup = Backup(module, weights, generator)
    try:
        yield backup
    finally:
        backup.restore()
