"""R-DARTS: weight decay that rises when the curvature of the validation loss does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from spacelang import SpaceError
from spacelang.errors import require_number

from ..extras import RaiseWeightDecay
from ..framework import Extra
from .darts import DARTS


@dataclass(frozen=True, kw_only=True)
class RDARTS(DARTS):
    """Second-order DARTS with adaptive regularisation: DARTS-ADA.

    When the largest eigenvalue of the Hessian of the validation loss in the logits grows too fast, which
    foretells an architecture of skip connections, the weight decay of the weights is multiplied and the
    search goes on; see `RaiseWeightDecay`. The early stop of the same paper is
    `DARTS(extras=(StopOnEigenvalue(),))`.

    Args:
        factor: Factor of the weight decay; 3 or 10 in the authors' scripts.
        most: Largest weight decay.

    Source: R-DARTS, Zela et al. 2020, arXiv:1909.09656, and the authors' code.
    """

    order: Literal[1, 2] = 2
    factor: float = 10.0
    most: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("factor", self.factor, above=1)
        require_number("most", self.most, above=0)
        if any(isinstance(extra, RaiseWeightDecay) for extra in self.extras):
            raise SpaceError("RDARTS raises the weight decay itself; leave RaiseWeightDecay out of extras.")

    def extras_of(self, stage: int) -> tuple[Extra[Any], ...]:
        return (*self.extras, RaiseWeightDecay(raised_by=self.factor, most=self.most))
