"""Operation strength: architectures derived from what the loss would lose, in place of probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.supernet import Group, Supernet

from .learned import Derivation, LogitsSearch, LogitsStrategy, runs_several


@dataclass(frozen=True)
class OperationStrength(Derivation):
    """A derivation by the strength of the candidates after any search that mixes them.

    When training has ended, the change of the validation loss without a candidate is estimated to first
    order. With weight w_k and output o_k it is -<dL/dout, w_k o_k> = -w_k dL/dw_k, averaged over validation
    batches, batch norms using the statistics of each. Strength is the absolute value. Edges of a cell are
    ranked by their strongest operation, as probabilities are. A choice of any set of inputs keeps those
    without which the loss would rise. One backward pass a batch measures all candidates, where
    `DARTSPT` takes a pass over the validation data for each. Probabilities of the search stay what they are.

    The name and the idea, selection by an estimate of an operation's effect on the loss, are of the paper;
    its formula was not at hand. The estimate is ours.

    Args:
        signed: Whether to rank by the change itself, so that a candidate without which the loss would fall
            is weakest, in place of its absolute value.
        batches: Number of validation batches; None for all.

    Source: OStr-DARTS, Yang et al. 2024, arXiv:2409.14433, as inspiration.
    """

    signed: bool = False
    batches: int | None = None

    def __post_init__(self) -> None:
        require_integer("batches", self.batches, least=1, optional=True)

    def check(self, strategy: LogitsStrategy, supernet: Supernet) -> None:
        if not runs_several(strategy, supernet):
            raise SpaceError(
                "OperationStrength compares candidates that run together, and "
                f"{type(strategy).__name__} runs one of each choice; leave it out."
            )

    def tables(self, search: LogitsSearch) -> Mapping[str, Tensor]:
        groups = search.supernet.groups
        with search.scorer(of_batch=True) as scorer:
            changes = scorer.mean(lambda batch: _flat_changes(search, batch), self.batches).cpu()
        sizes = [group.shape[0] * group.shape[1] for group in groups.values()]
        tables = zip(groups.values(), torch.split(changes, sizes), strict=True)
        return {g.label: strength(g, change.view(g.shape), signed=self.signed) for g, change in tables}


def removal_changes(loss: Callable[[], Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return -w dL/dw: the first-order change of a loss when a candidate's weight becomes zero.

    Args:
        loss: Computes the loss with `weights`.
        weights: Leaves that require gradients; the loss need not depend on all of them.
    """
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    return [-w.detach() * gradient for w, gradient in zip(weights, gradients, strict=True)]


def strength(group: Group, change: Tensor, *, signed: bool) -> Tensor:
    """Return numbers of at least 0 that rank candidates, (rows, columns).

    Args:
        group: Says what is chosen, and which candidates were pruned; these have 0.
        change: Change of the loss without a candidate, (rows, columns).
        signed: Whether to rank by the change in place of its absolute value.
    """
    relative = change / change.abs().max().clamp_min(torch.finfo(change.dtype).tiny)
    if group.kind == "any_subset":  # of these one half is the border
        table = (1 + relative) / 2
    else:
        table = relative.exp() if signed else change.abs()
    return table * torch.tensor(group.alive)


def _flat_changes(search: LogitsSearch, batch: Any) -> Tensor:
    """Return the changes of all groups on a batch, one after another."""
    mixtures = {
        label: dataclasses.replace(mixture, weights=mixture.weights.detach().requires_grad_())
        for label, mixture in search.mixtures("weights").items()
    }
    search.compute_with(mixtures)
    weights = [mixture.weights for mixture in mixtures.values()]
    return torch.cat([c.flatten() for c in removal_changes(lambda: search.training.loss(batch), weights)])
