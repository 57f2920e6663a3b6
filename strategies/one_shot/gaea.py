"""GAEA: mixtures on the simplex, moved by exponentiated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import ModelSpace, Supernet
from spacelang.errors import require_integer, require_number
from spacelang.supernet import Group

from ..framework import (
    Differentiable,
    GradientSearch,
    Mixture,
    Moment,
    Phase,
    Relaxation,
    alive_logits,
    alive_mask,
)
from .gumbel import gumbel
from .partial import partial_supernet

_LEAST = 1e-5
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class GAEA(Differentiable):
    """Search mixtures theta directly, without a softmax.

    theta of each edge is on the simplex and begins uniform. A step multiplies it by exp(-eta g), g the
    gradient of the validation loss, and divides by the sum. Such steps favour sparse mixtures, and have no
    momentum and no decay. It fits any space of cells or layers; prefer DARTS where most candidates should
    stay in the mixture for long.

    Args:
        learning_rate: eta.
        adapt_lr: Whether eta is divided by the largest absolute gradient of a table.
        entropy_weight: Factor of sum theta log(n theta) in the loss of the logits, n candidates a row.
        none: Zero operation, as in `DARTS`.

    Source: GAEA, Li et al. 2021, arXiv:2004.07802, and the authors' code.
    """

    learning_rate: float = 0.1
    adapt_lr: bool = False
    entropy_weight: float = 0.0
    none: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("entropy_weight", self.entropy_weight, least=0)
        self.refuse_settings("has steps without moments and decay", "betas", "weight_decay", "init_scale")

    @property
    def relaxation(self) -> Simplex:
        return Simplex(none=self.none)

    def make_optimizer(self, logits: list[nn.Parameter]) -> torch.optim.Optimizer:
        return ExponentiatedGradient(logits, lr=self.learning_rate, adapts=self.adapt_lr)

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        if phase == "logits" and self.entropy_weight:
            relaxation: Any = search.relaxation
            for label, theta in search.parameters.logits.items():
                if search.supernet.groups[label].kind != "any_subset":
                    table = relaxation.candidates(search.supernet.groups[label], theta)
                    loss = loss + self.entropy_weight * entropic_distance(table)
        return loss


@dataclass(frozen=True, kw_only=True)
class GAEAPCDARTS(GAEA):
    """GAEA in the supernet of `PCDARTS`: partial channels, and weights on the simplex for a node's edges.

    A mixed edge is multiplied by its edge's weight, which begins at one over their number and is moved as
    theta is. Derivation ranks theta times it.

    Args:
        partial: K; operations of cells have 1/K of the channels.

    Source: GAEA, arXiv:2004.07802, and the authors' code.
    """

    partial: int = 4
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("partial", self.partial, least=1)

    @property
    def relaxation(self) -> Simplex:
        return Simplex(none=self.none, edges=True)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        return partial_supernet(space, self.partial)


@dataclass(frozen=True, kw_only=True)
class GAEAGDAS(GAEA):
    """GAEA with one sampled candidate per choice, as in `GDAS`: the largest log theta + G.

    Steps of theta begin after `warmup_epochs`; the temperature then falls from 10, by 9.9 over as many epochs
    as the search has. The authors' code clamps theta after it is normalised.

    Source: GAEA, arXiv:2004.07802, and the authors' code.
    """

    learning_rate: float = 0.01
    entropy_weight: float = 0.01
    warmup_epochs: int = 50

    @property
    def relaxation(self) -> GumbelSimplex:
        return GumbelSimplex(clamp_first=False, warmup=self.warmup_epochs)  # zero cannot be sampled

    @property
    def samples_paths(self) -> bool:
        return True


class ExponentiatedGradient(torch.optim.Optimizer):
    """theta <- theta exp(-eta g), with `adapts` exp(-eta g / max |g|); who owns theta normalises it."""

    def __init__(self, params: list[nn.Parameter], lr: float, *, adapts: bool = False) -> None:
        super().__init__(params, {"lr": lr, "adapts": adapts})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    largest = theta.grad.abs().max() if group["adapts"] else theta.grad.new_ones(())
                    theta.mul_(torch.exp(-group["lr"] * theta.grad / largest.clamp_min(_SMALLEST)))


@dataclass(frozen=True)
class Simplex(Relaxation):
    """w = theta, rows of positive numbers that sum to one.

    A choice of a set of `n_chosen` has n_chosen theta; in one of any set each input has a probability of its
    own, on the simplex with that of being left out.

    Args:
        none: Whether each edge of a cell also has an entry for the zero operation, column 0.
        edges: Whether cells have a weight for each edge, the last column, which sums to one at each node.
        clamp_first: Whether theta is clamped at 1e-5 before it is normalised, or else afterwards.
    """

    none: bool = False
    edges: bool = False
    clamp_first: bool = True

    def has_edges(self, group: Group) -> bool:
        """Return whether a group has weights of edges."""
        return self.edges and group.kind == "cell"

    def has_none(self, group: Group) -> bool:
        """Return whether a group has entries for the zero operation."""
        return self.none and group.kind == "cell"

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = group.shape
        return rows, columns + self.has_none(group) + self.has_edges(group)

    def initial(self, group: Group, scale: float, generator: torch.Generator) -> Tensor:
        """Return uniform mixtures."""
        rows, columns = self.shape(group)
        if group.kind == "any_subset":
            return torch.full((rows, columns), 0.5)
        there = alive_logits(group, torch.empty(rows, columns - self.has_edges(group))).float()
        first = there / there.sum(dim=1, keepdim=True)
        if not self.has_edges(group):
            return first
        entering = [len(group.cell.rows_into(node)) for _, node in group.cell.edges]
        return torch.cat([first, 1 / torch.tensor(entering)[:, None]], dim=1)

    def candidates(self, group: Group, theta: Tensor) -> Tensor:
        """Return theta without the weights of edges, with the zero operation."""
        return theta[:, :-1] if self.has_edges(group) else theta

    def _mixed(self, group: Group, theta: Tensor) -> Tensor:
        table = self.candidates(group, theta)
        return (table[:, 1:] if self.has_none(group) else table) * alive_mask(group, theta)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        table = self._mixed(group, logits)
        return table * logits[:, -1:] if self.has_edges(group) else table

    def edge_shares(self, group: Group, logits: Tensor) -> Tensor | None:
        return logits[:, -1] if self.has_edges(group) else None

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        weights = self._mixed(group, logits)
        return Mixture(
            weights * group.n_chosen if group.n_chosen else weights, edges=self.edge_shares(group, logits)
        )

    def settled(self, group: Group, before: Tensor, after: Tensor) -> Tensor:
        """Return the normalised numbers."""
        if group.kind == "any_subset":
            return after / (after + 1 - before)
        theta = self.candidates(group, after)
        table = normalised(theta, alive_logits(group, theta), clamp_first=self.clamp_first)
        if not self.has_edges(group):
            return table
        nodes = (after[list(group.cell.rows_into(node)), -1] for node in group.cell.nodes)
        return torch.cat([table, torch.cat([e / e.sum() for e in nodes])[:, None]], dim=1)


def normalised(theta: Tensor, there: Tensor, *, clamp_first: bool) -> Tensor:
    """Return rows divided by their sums, and clamped at 1e-5 before or afterwards, zero where not `there`."""
    if clamp_first:
        theta = theta.clamp_min(_LEAST) * there
        return theta / theta.sum(dim=1, keepdim=True)
    return (theta / theta.sum(dim=1, keepdim=True)).clamp_min(_LEAST) * there


def entropic_distance(theta: Tensor) -> Tensor:
    """Return sum theta log(n theta), the divergence from the uniform mixture of n candidates, of all rows."""
    count = (theta > 0).sum(dim=1, keepdim=True)
    distance: Tensor = torch.special.xlogy(theta, theta.clamp_min(_LEAST) * count).sum()
    return distance


@dataclass(frozen=True)
class GumbelSimplex(Simplex):
    """One-hot of the largest log theta + G, with the gradient of softmax((log theta + G) / tau).

    Args:
        warmup: Epochs before tau begins to fall.
    """

    warmup: int = 50

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits, moment)
        alive = alive_mask(group, logits)
        noise = gumbel(logits.shape, moment.generator).to(logits.device)
        scores = logits.clamp_min(_LEAST).log().masked_fill(~alive, torch.finfo(logits.dtype).min) + noise
        z = (scores / falling(moment.epoch, moment.epochs, self.warmup)).softmax(dim=-1) * alive
        onehot = torch.nn.functional.one_hot(z.argmax(dim=-1), z.shape[1]).to(z.dtype) * alive
        return Mixture(onehot - z.detach() + z, onehot.bool().tolist())


def falling(epoch: int, epochs: int, warmup: int) -> float:
    """Return tau = 10 - 9.9 max(epoch - warmup, 0) / (epochs - 1)."""
    return 10 - 9.9 * max(epoch - warmup, 0) / max(epochs - 1, 1)
