"""Curvature of the validation loss in the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang.supernet import stepwise

from .gradient import GradientSearch
from .update import restored


def validation_eigenvalue(search: GradientSearch) -> float:
    """Return the largest eigenvalue of the Hessian of L_val in the logits.

    L_val is the loss on one validation batch of each process. Buffers of the module and generators are left
    as they were.
    """
    training = search.training
    unfused = sdpa_kernel(SDPBackend.MATH)  # fused attention has no second derivative
    with restored(training.module, [], search.moment.generator), unfused, stepwise(training.module):
        loss = search.loss(training.validation_batch())
        value = largest_eigenvalue(loss, list(search.parameters.logits.values()), mean=training.mean)
        search.mix("weights")  # lets go of the graph
    return value


def largest_eigenvalue(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    steps: int = 100,
    tolerance: float = 1e-2,
) -> float:
    """Return the largest eigenvalue of the Hessian of `loss` in all `parameters` together.

    Power iteration from a fixed random vector; its products with the Hessian are taken by differentiating
    the gradient once more. If it finds a negative eigenvalue, it continues with the Hessian shifted by that.

    Args:
        loss: A number whose graph can be differentiated twice.
        parameters: Variables; the loss need not depend on all of them.
        mean: Averages a product over processes.
        steps: Most products of one iteration.
        tolerance: Precision: stop when ||H v - lambda v|| is at most this share of ||H v||.
    """
    gradients = torch.autograd.grad(
        loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    gradient = torch.cat([g.flatten() for g in gradients])
    if not gradient.requires_grad:  # the loss is linear
        return 0.0

    def product(v: Tensor) -> Tensor:
        products = torch.autograd.grad(
            gradient, parameters, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return mean(torch.cat([p.flatten() for p in products]))

    start = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0)).to(gradient)
    dominant = power_iteration(product, start, steps, tolerance)
    if dominant >= 0:
        return dominant
    return dominant + power_iteration(lambda v: product(v) - dominant * v, start, steps, tolerance)


def power_iteration(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, tolerance: float
) -> float:
    """Return the eigenvalue of largest magnitude of a symmetric matrix, given as its product with vectors."""
    v, eigenvalue = start / torch.linalg.vector_norm(start), torch.zeros(())
    for _ in range(steps):
        image = product(v)
        eigenvalue, norm = v @ image, torch.linalg.vector_norm(image)
        if torch.linalg.vector_norm(image - eigenvalue * v) <= tolerance * norm:
            break
        v = image / norm
    return float(eigenvalue)
