"""GumbelDARTS (SNAS) and GDAS: mixtures sampled with Gumbel noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.language import Subset
from spacelang.supernet import Group

from ._derivation import Rule
from ._oneshot import OneShot
from ._relaxation import Mixture, Moment, Softmax, alive_mask


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
        run_all: with `hard`, compute every candidate, which the gradient of candidates not sampled needs.

    Source: SNAS, arXiv:1812.09926, eq. 4; GDAS, arXiv:1910.04465, eq. 4 to 7.
    """

    start: float = 1.0
    end: float = 0.03
    hard: bool = False
    run_all: bool = False

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if isinstance(group.decisions[0], Subset):
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
        return Mixture(weights, None if self.run_all else onehot.bool().tolist())


@dataclass(frozen=True, kw_only=True)
class GumbelDARTS(OneShot):
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


@dataclass(frozen=True, kw_only=True)
class GDAS(OneShot):
    """Search with one sampled candidate per choice.

    Each pass runs the candidate of the largest log softmax(alpha) + G alone, with weight one; the backward
    pass takes the weight for z = softmax((log softmax(alpha) + G) / tau). A node of a cell keeps its most
    probable pairs of edge and operation.

    Args:
        temperature: tau in the first and in the last epoch.
        estimator: "sampled" differentiates the weight of the sampled candidate alone, and runs nothing
            else. "straight_through" runs every candidate, so that every weight has its gradient.

    Source: GDAS, Dong and Yang 2019, arXiv:1910.04465, eq. 4 to 7.
    """

    temperature: tuple[float, float] = (10.0, 0.1)
    estimator: Literal["sampled", "straight_through"] = "sampled"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_temperature(self.temperature)
        if self.estimator not in ("sampled", "straight_through"):
            raise SpaceError(f"estimator={self.estimator!r}; expected 'sampled' or 'straight_through'.")

    @property
    def relaxation(self) -> GumbelSoftmax:
        run_all = self.estimator == "straight_through"
        return GumbelSoftmax(False, *self.temperature, hard=True, run_all=run_all)

    @property
    def rule(self) -> Rule:
        return "pairs"

    @property
    def samples_paths(self) -> bool:
        return True


def _check_temperature(temperature: tuple[float, float]) -> None:
    if len(temperature) != 2 or not all(tau > 0 for tau in temperature):
        raise SpaceError(
            f"temperature={temperature!r}; expected two positive numbers, of first and last epoch."
        )
