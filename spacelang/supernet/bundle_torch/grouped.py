"""Bundles in PyTorch: the functions that a supernet calls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bundles import Bundle, Computed, Gradients, RunningUpdate, Wanted, channels_last
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
def update_running(update: RunningUpdate) -> None:
    """Move running statistics; see `Kernels`."""
    means, variances = update.unbiased
    for i, (mean, var) in enumerate(zip(means.unbind(), variances.unbind(), strict=True)):
        update.running[2 * i].lerp_(mean, update.momenta[i])
        update.running[2 * i + 1].lerp_(var, update.momenta[i])
        update.counts[i].add_(1)
