"""ProxylessNAS: one candidate at a time behind binary gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_one_of
from spacelang.supernet import Group

from ..framework import Differentiable, Mixture, Moment, Softmax, alive_mask, masked_softmax
from .gumbel import gumbel


@dataclass(frozen=True, kw_only=True)
class ProxylessNAS(Differentiable):
    """Search with binary gates: weights are trained one sampled candidate per choice.

    Each step of the weights runs one candidate of every choice (in a cell one of every edge), sampled from
    softmax(alpha), with weight one. Every `update_every` steps the logits follow the gradient through a
    sampled gate. The authors trade accuracy for latency with `extras=(Penalty(...),)`. The architecture keeps
    the most probable candidates.

    Args:
        gates: Logits that a step moves. "full": those of all candidates, which all run, as in the authors'
            code by default. "two": those of two candidates sampled by their probabilities, as in the paper;
            only these run, and the probabilities of the others stay as they are. That needs Adam without
            momentum and weight decay.
        warmup_epochs, update_every, weights_first, learning_rate, betas, weight_decay: Defaults of the
            authors' code; for searches of fewer than 120 epochs shorten the warm-up.

    An `InputChoice` of several inputs samples a set: `n_chosen` different inputs by their probabilities, or
    each input with its own where any set may be chosen. All inputs are there anyway, so both move all
    their logits.

    Source: ProxylessNAS, Cai et al. 2019, arXiv:1812.00332, eq. 2 to 4, section 3.2.
    """

    gates: Literal["full", "two"] = "full"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.0
    warmup_epochs: int = 40
    update_every: int = 5
    weights_first: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("gates", self.gates, ("full", "two"))
        if self.gates == "two" and (self.betas[0] != 0 or self.weight_decay != 0):
            raise SpaceError(
                f"betas={self.betas} and weight_decay={self.weight_decay} would move logits of candidates "
                "that were not sampled; gates='two' needs betas=(0, ...) and weight_decay=0."
            )

    @property
    def relaxation(self) -> BinaryGates:
        return BinaryGates(pairs=self.gates == "two")

    @property
    def samples_paths(self) -> bool:
        return True


@dataclass(frozen=True)
class BinaryGates(Softmax):
    """Gates g, a sampled one-hot vector per row, p = softmax(alpha) their expectation.

    The weights' step computes with g alone. The logits' step computes with g + p - stop(p), equal to g, so
    that dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), where dL/dg_j needs the output of candidate j.

    Args:
        none: See `Softmax`.
        pairs: Whether a step of the logits runs and moves two sampled candidates only, p renormalised over
            them.

    Source: ProxylessNAS, arXiv:1812.00332, eq. 4; section 3.2.1 for pairs.
    """

    none: bool = False
    pairs: bool = False

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        expected = super().mixture(group, logits).weights
        if moment.phase == "weights":
            gates = self._gates(group, expected, moment.generator)
            return Mixture(gates.to(logits.dtype), gates.tolist())
        runs = alive_mask(group, logits)
        if self._moves_pairs(group):
            runs = sampled(expected, 2, moment.generator)
            expected = masked_softmax(logits, runs)
        gates = self._gates(group, expected, moment.generator)
        weights = gates + (expected - expected.detach())
        return Mixture(weights, runs.tolist(), silent=gates.logical_not().tolist())

    def _gates(self, group: Group, expected: Tensor, generator: torch.Generator) -> Tensor:
        """Sample gates, boolean (rows, columns), from their expectation."""
        if group.kind != "any_subset":
            return sampled(expected, group.n_chosen or 1, generator)
        gates = torch.rand(expected.shape, generator=generator).to(expected.device) < expected
        return gates if gates.any() else sampled(expected, 1, generator)  # the set must not be empty

    def _moves_pairs(self, group: Group) -> bool:
        return self.pairs and not group.is_subset

    def movable(self, group: Group, logits: Tensor) -> Tensor:
        """See `Relaxation`; the gradient is that of the distribution given that it is one of the pair."""
        distribution = self.distribution(group, logits)
        if not self._moves_pairs(group):
            return distribution
        runs = torch.zeros_like(distribution, dtype=torch.bool)
        for row, columns in enumerate(group.active):
            runs[row, list(columns)] = True
        given = masked_softmax(logits, runs)
        return distribution.detach() + (given - given.detach())

    def settled(self, group: Group, before: Tensor, after: Tensor) -> Tensor:
        """Shift the logits that moved so that the others keep their probabilities."""
        if not self._moves_pairs(group):
            return after
        moved = after != before
        old, new = (x.masked_fill(~moved, -torch.inf).logsumexp(1, keepdim=True) for x in (before, after))
        return torch.where(moved, after - (new - old), after)


def sampled(probabilities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw up to `count` different entries of each row, one after the other by their probabilities.

    Args:
        probabilities: Table, (rows, columns), up to a factor per row; an entry of zero is never drawn.
        count: Number of entries; fewer are drawn where fewer are possible.
        generator: Source of the draws, on the CPU.

    Returns:
        Which were drawn, boolean (rows, columns).
    """
    noise = gumbel(probabilities.shape, generator).to(probabilities.device)
    order = (probabilities.detach().log() + noise).argsort(dim=1, descending=True)
    drawn = torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, order[:, :count], True)
    return drawn & (probabilities > 0)
