"""GumbelDARTS (SNAS) and GDAS: mixtures sampled with Gumbel noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import quoted
from spacelang.language import Architecture
from spacelang.supernet import Group, Supernet

from ..framework.derivation import top_architectures
from ..framework.gradient import Differentiable
from ..framework.relaxation import Mixture, Moment, Softmax, alive_mask


def annealed(start: float, end: float, epoch: int, epochs: int) -> float:
    """Temperature that falls linearly from `start` in the first epoch to `end` in the last."""
    return start if epochs < 2 else start - (start - end) * epoch / (epochs - 1)


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, -log of an Exp(1) sample."""
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class GumbelSoftmax(Softmax):
    """z = softmax((log softmax(alpha) + G) / tau) per row, G standard Gumbel noise.

    Args:
        none: as in `Softmax`; not with `hard`.
        start, end: temperature tau in the first and in the last epoch.
        hard: use the one-hot of the largest entry; the backward pass goes through z.
        idle: with `hard`, what becomes of candidates that were not sampled: they are left out ("skip"),
            executed for their gradients ("run"), or their weight is added as a plain number ("gate").

    Source: SNAS, arXiv:1812.09926, eq. 4; GDAS, arXiv:1910.04465, eq. 4 to 7.
    """

    start: float = 1.0
    end: float = 0.03
    hard: bool = False
    idle: Literal["skip", "run", "gate"] = "skip"

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits)  # sets have no one-hot sample
        tau = annealed(self.start, self.end, moment.epoch, moment.epochs)
        alive = alive_mask(group, logits)
        if self._has_none(group):
            alive = torch.nn.functional.pad(alive, (1, 0), value=True)
        noise = gumbel(logits.shape, moment.generator).to(logits.device)
        scores = logits.masked_fill(~alive, torch.finfo(logits.dtype).min).log_softmax(dim=-1) + noise
        z = (scores / tau).softmax(dim=-1) * alive
        if not self.hard:
            return Mixture(z[:, 1:] if self._has_none(group) else z)
        onehot = torch.nn.functional.one_hot(z.argmax(dim=-1), z.shape[1]).to(z.dtype) * alive
        weights = onehot - z.detach() + z
        active = None if self.idle == "run" else onehot.bool().tolist()
        return Mixture(weights, active, adds_gates=self.idle == "gate")


@dataclass(frozen=True, kw_only=True)
class GumbelDARTS(Differentiable):
    """Search with soft Gumbel samples at a falling temperature.

    Each pass mixes candidates with a sample z = softmax((log softmax(alpha) + G) / tau), which nears a
    one-hot vector as tau falls linearly over the epochs. As in DARTS, logits step on validation batches
    (SNAS itself steps both on training batches).

    Args:
        temperature: tau in the first and in the last epoch.
        none: as in `DARTS`.

    Source: SNAS, Xie et al. 2019, arXiv:1812.09926, eq. 4.
    """

    temperature: tuple[float, float] = (1.0, 0.03)
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_temperature(self.temperature)

    @property
    def relaxation(self) -> GumbelSoftmax:
        return GumbelSoftmax(self.none, *self.temperature)


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
        temperature: tau in the first and in the last epoch.
        estimator: of the gradient of candidates that were not sampled. "sampled" has none for them.
            "straight_through" runs every candidate, so each has that of its own output. "gates" is what the
            authors' code computes: their weights, zero, are added to the output as plain numbers, so each
            has the sum of the output's gradient.

    Source: GDAS, Dong and Yang 2019, arXiv:1910.04465, eq. 4 to 7.
    """

    temperature: tuple[float, float] = (10.0, 0.1)
    estimator: Literal["sampled", "straight_through", "gates"] = "sampled"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_temperature(self.temperature)
        if self.estimator not in _IDLE:
            raise SpaceError(f"estimator={self.estimator!r}; expected one of {quoted(_IDLE)}.")

    @property
    def relaxation(self) -> GumbelSoftmax:
        return GumbelSoftmax(False, *self.temperature, hard=True, idle=_IDLE[self.estimator])

    def derive(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        return top_architectures(supernet, probabilities, count, rule="pairs")

    @property
    def samples_paths(self) -> bool:
        return True


def _check_temperature(temperature: tuple[float, float]) -> None:
    if len(temperature) != 2 or not all(tau > 0 for tau in temperature):
        raise SpaceError(
            f"temperature={temperature!r}; expected two positive numbers, of first and last epoch."
        )
