"""DARTS: differentiable architecture search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spacelang import SpaceError

from ..framework.gradient import Differentiable
from ..framework.relaxation import Softmax
from ..framework.update import FirstOrder, SecondOrder, Update


@dataclass(frozen=True, kw_only=True)
class DARTS(Differentiable):
    """Differentiable architecture search.

    Every choice computes the softmax mixture of its candidates. Before each step of the weights w on a
    training batch, the logits alpha take a step on a validation batch, along grad_alpha L_val(w, alpha) with
    order 1, or through the coming step of the weights with order 2. The architecture keeps the most
    probable candidates.

    Args:
        order: 1 or 2. Order 2 needs `torch.optim.SGD` and costs four passes for the logits instead of one.
        hvp: of order 2: "finite", the paper's central difference, or "exact".
        none: give cell edges a logit for the zero operation, which takes part in the softmax and is
            never derived.

    Source: DARTS, Liu et al. 2019, arXiv:1806.09055; eq. 2, algorithm 1, eq. 7 and 8, section 2.4.
    """

    order: Literal[1, 2] = 1
    hvp: Literal["finite", "exact"] = "finite"
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2):
            raise SpaceError(f"order={self.order!r}; expected 1 or 2.")
        if self.hvp not in ("finite", "exact"):
            raise SpaceError(f"hvp={self.hvp!r}; expected 'finite' or 'exact'.")

    @property
    def relaxation(self) -> Softmax:
        return Softmax(self.none)

    @property
    def update(self) -> Update:
        return FirstOrder() if self.order == 1 else SecondOrder(self.hvp)
