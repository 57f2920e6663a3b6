"""DARTS: differentiable architecture search."""

from __future__ import annotations

from dataclasses import dataclass

from ._oneshot import OneShot
from ._relaxation import Softmax


@dataclass(frozen=True, kw_only=True)
class DARTS(OneShot):
    """Differentiable architecture search, first order.

    Every choice computes the softmax mixture of its candidates. Before each step of the weights w on a
    training batch, the logits alpha take a step along grad_alpha L_val(w, alpha) on a validation batch.
    The architecture keeps the most probable candidates.

    Args:
        none: give cell edges a logit for the zero operation, which takes part in the softmax and is
            never derived.

    Source: DARTS, Liu et al. 2019, arXiv:1806.09055; eq. 2, algorithm 1 with xi = 0, section 2.4.
    """

    none: bool = True

    @property
    def relaxation(self) -> Softmax:
        return Softmax(self.none)
