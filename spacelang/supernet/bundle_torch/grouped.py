"""Bundles in PyTorch: the functions that a supernet calls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bundles import Bundle, Computed, Gradients, Wanted, channels_last
from .backwards import Backward
from .forwards import Forward

pools = False


def forward(bundle: Bundle) -> Computed:
    """Compute a bundle; see `Kernels`."""
    run = Forward(bundle.channels_last())
    for stack in run.stacks:
        run.add(stack)
    run.add_features()
    return Computed(run.total.chunk(run.wiring.edges, 1), run.kept, run.statistics())


def backward(
    bundle: Bundle, kept: Sequence[Tensor], statistics: Tensor, grads: Sequence[Tensor], wanted: Wanted
) -> Gradients:
    """Return gradients; see `Kernels`."""
    run = Backward(bundle.channels_last(), kept, statistics, channels_last(torch.cat(list(grads), 1)), wanted)
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
