"""Monitor: what goes wrong in a differentiable search, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang import SpaceError
from spacelang.supernet import Supernet

from .._framework._extra import Extra
from .._framework._operations import chosen_columns, count_skips, skips
from .._framework._update import restored

if TYPE_CHECKING:
    from .._framework._gradient_search import GradientSearch
    from .._framework._oneshot import OneShot


@dataclass(frozen=True)
class Monitor(Extra):
    """Record and log how many operations are skip connections and, when asked, the curvature.

    After every epoch `skip_ratio/{label}` is the share of skip connections (candidates with "skip" in their
    name, or that are an `nn.Identity`) among the operations that the derived architecture has in the cells
    of that label; `skip_ratio/layers` that of all layer choices. `eigenvalue` is the largest one of the
    Hessian of the validation loss in the logits. Both are in `search.records` and in the logs; measuring
    them leaves the search as it would have been.

    Args:
        eigenvalue: measure it, on one validation batch, by some tens of passes forwards and backwards.
        every: epochs between two measurements of it.

    Source: of the eigenvalue, R-DARTS, Zela et al. 2020, arXiv:1909.09656, section 4.
    """

    eigenvalue: bool = False
    every: int = 1

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise SpaceError(f"every={self.every!r} must be an integer of at least 1.")

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        from .early_stop import StopOnEigenvalue

        self.require_probabilities(strategy)
        if not self.eigenvalue and not skips(supernet):
            raise SpaceError(
                "Monitor() records the share of skip connections, but no operation of this space is one: an "
                "nn.Identity, or with 'skip' in its name. Write Monitor(eigenvalue=True), or leave it out."
            )
        if self.eigenvalue and any(isinstance(extra, StopOnEigenvalue) for extra in strategy.extras):
            raise SpaceError("StopOnEigenvalue records the eigenvalue already; write Monitor() beside it.")

    def epoch_end(self, search: GradientSearch) -> None:  # type: ignore[override]
        for name, ratio in skip_ratios(search).items():
            search.record(f"skip_ratio/{name}", ratio)
        if self.eigenvalue and search.moment.epoch % self.every == 0:
            search.record("eigenvalue", validation_eigenvalue(search))


def skip_ratios(search: GradientSearch) -> dict[str, float]:
    """Share of skip connections in the derived architecture: by label of each cell, and of all layers."""
    supernet, arch = search.supernet, search.derive()[0]
    totals: dict[str, list[int]] = {}
    for label, skipped in count_skips(supernet, skips(supernet), arch).items():
        group = supernet.groups[label]
        total = totals.setdefault(label if group.topology is not None else "layers", [0, 0])
        total[0] += skipped
        total[1] += len(chosen_columns(group, arch))
    return {name: skipped / max(chosen, 1) for name, (skipped, chosen) in totals.items()}


def validation_eigenvalue(search: GradientSearch) -> float:
    """Largest eigenvalue of the Hessian of L_val in the logits, on one validation batch of each process.

    Buffers of the module and generators are as before afterwards.
    """
    training = search.training
    assert training is not None
    with restored(training.module, [], search.moment.generator), sdpa_kernel(SDPBackend.MATH):
        # Fused attention has no second derivative.
        loss = search.loss(training.validation_batch())
        value = largest_eigenvalue(loss, list(search.parameters.logits.values()), mean=training.mean)
        search._mix("weights")  # lets go of the graph
    return value


def largest_eigenvalue(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    steps: int = 100,
    tolerance: float = 1e-2,
) -> float:
    """Largest eigenvalue of the Hessian of `loss` in all `parameters` together.

    Power iteration from a fixed random vector; its products with the Hessian are taken by differentiating
    the gradient once more. If it finds a negative eigenvalue, it goes on with the Hessian shifted by that.

    Args:
        loss: with a graph that can be differentiated twice.
        parameters: it depends on; those it does not depend on count as constant.
        mean: of a product over processes.
        steps: most products of one iteration.
        tolerance: stop when ||H v - lambda v|| is at most this share of ||H v||.
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
    """Eigenvalue of largest magnitude of a symmetric matrix, given by its product with a vector."""
    v, eigenvalue = start / torch.linalg.vector_norm(start), torch.zeros(())
    for _ in range(steps):
        image = product(v)
        eigenvalue, norm = v @ image, torch.linalg.vector_norm(image)
        if torch.linalg.vector_norm(image - eigenvalue * v) <= tolerance * norm:
            break
        v = image / norm
    return float(eigenvalue)
