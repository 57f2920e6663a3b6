"""GumbelDARTS (SNAS) and GDAS: mixtures sampled with Gumbel noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spacelang.errors import quoted, require_one_of
from spacelang.language import Architecture
from spacelang.supernet import Group, Supernet

from ..framework import (
    Differentiable,
    Mixture,
    Moment,
    Rate,
    Softmax,
    alive_mask,
    rate_at,
    require_rate,
    top_architectures,
)


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise, -log of an Exp(1) sample."""
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class GumbelSoftmax(Softmax):
    """z = softmax((log softmax(alpha) + G) / tau) per row, G standard Gumbel noise.

    Args:
        none: Zero operation, as in `Softmax`. Where `hard` samples it, the edge runs nothing.
        temperature: tau: one number, or those of the first and of the last epoch.
        hard: Whether to use the one-hot of the largest entry; the backward pass goes through z.
        idle: Treatment of candidates that `hard` did not sample: they are left out ("skip"), executed for
            their gradients ("run"), or their weight is added as a plain number ("gate").

    Source: SNAS, arXiv:1812.09926, eq. 4; GDAS, arXiv:1910.04465, eq. 4 to 7.
    """

    temperature: Rate = (1.0, 0.03)
    hard: bool = False
    idle: Literal["skip", "run", "gate"] = "skip"

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits)  # sets have no one-hot sample
        tau = rate_at(self.temperature, moment)
        alive = alive_mask(group, logits)
        if self.has_none(group):
            alive = torch.nn.functional.pad(alive, (1, 0), value=True)
        noise = gumbel(logits.shape, moment.generator).to(logits.device)
        scores = logits.masked_fill(~alive, torch.finfo(logits.dtype).min).log_softmax(dim=-1) + noise
        z = (scores / tau).softmax(dim=-1) * alive
        first = int(self.has_none(group))  # the zero operation adds nothing
        if not self.hard:
            return Mixture(z[:, first:])
        onehot = torch.nn.functional.one_hot(z.argmax(dim=-1), z.shape[1]).to(z.dtype) * alive
        weights = onehot - z.detach() + z
        active = None if self.idle == "run" else onehot[:, first:].bool().tolist()
        return Mixture(weights[:, first:], active, adds_gates=self.idle == "gate")


@dataclass(frozen=True, kw_only=True)
class GumbelDARTS(Differentiable):
    """Search with soft Gumbel samples at a falling temperature.

    Each pass mixes candidates with a sample z = softmax((log softmax(alpha) + G) / tau), which nears a
    one-hot vector as tau falls linearly over the epochs. As in DARTS, logits step on validation batches
    (SNAS itself steps both on training batches).

    Args:
        temperature: tau: one number, or those of the first and of the last epoch.
        none: Zero operation, as in `DARTS`.

    Source: SNAS, Xie et al. 2019, arXiv:1812.09926, eq. 4.
    """

    temperature: Rate = (1.0, 0.03)
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_rate("temperature", self.temperature, above=0)

    @property
    def relaxation(self) -> GumbelSoftmax:
        return GumbelSoftmax(self.none, self.temperature)


_IDLE: dict[str, Literal["skip", "run", "gate"]] = {
    "sampled": "skip",
    "straight_through": "run",
    "gates": "gate",
}


@dataclass(frozen=True, kw_only=True)
class GDAS(Differentiable):
    """Search with one sampled candidate per choice.

    Each pass runs the candidate of the largest log softmax(alpha) + G alone, with weight one; the backward
    pass takes the weight for z = softmax((log softmax(alpha) + G) / tau). A node of a cell keeps its most
    probable pairs of edge and operation.

    Args:
        temperature: tau: one number, or those of the first and of the last epoch.
        estimator: Gradient of the weights of candidates that were not sampled. "sampled" has none for them.
            "straight_through" runs every candidate, so each has that of its own output. "gates" adds these
            weights, zero, to the output as plain numbers, so each has the sum of the output's gradient. The
            authors' code has "sampled" for cells of two inputs (DARTS, NASNet), "gates" for NAS-Bench-201.
        none: Zero operation of cells' edges: with the seven of DARTS the authors' eight. It is sampled as
            the others are, and the edge then adds nothing; it is never derived. Short searches do better
            without it (`docs/quality.md`).
        weights_first: Order of the two steps, by default that of the authors' code.

    Source: GDAS, Dong and Yang 2019, arXiv:1910.04465, eq. 4 to 7.
    """

    temperature: Rate = (10.0, 0.1)
    estimator: Literal["sampled", "straight_through", "gates"] = "sampled"
    none: bool = True
    weights_first: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_rate("temperature", self.temperature, above=0)
        require_one_of("estimator", self.estimator, _IDLE)

    @property
    def relaxation(self) -> GumbelSoftmax:
        return GumbelSoftmax(self.none, self.temperature, hard=True, idle=_IDLE[self.estimator])

    def architectures(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        return top_architectures(supernet, probabilities, count, rule="pairs")

    @property
    def samples_paths(self) -> bool:
        return True

    def unused_features(self, supernet: Supernet) -> list[str]:
        groups = supernet.groups.items()
        distinct = [label for label, group in groups if group.kind == "cell" and group.cell.distinct_inputs]
        sets = [label for label, group in groups if group.is_subset]
        sentences = []
        if distinct:
            sentences.append(
                f"nodes of {quoted(distinct)} read distinct inputs, so none can keep two operations of one "
                "edge; each keeps its most probable edges, as with DARTS. For the authors' rule make "
                "the space with distinct_inputs=False."
            )
        if sets:
            sentences.append(f"{quoted(sets)} choose several inputs, which are mixed and not sampled.")
        return sentences
