"""DARTS: differentiable architecture search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spacelang import SpaceError
from spacelang.errors import require_number, require_one_of

from ..framework import Differentiable, FirstOrder, SecondOrder, Softmax, Update


@dataclass(frozen=True, kw_only=True)
class DARTS(Differentiable):
    """Differentiable architecture search.

    Every choice computes the softmax mixture of its candidates. Before each step of the weights w on a
    training batch, the logits alpha take a step on a validation batch, along grad_alpha L_val(w, alpha) with
    order 1, or through the coming step of the weights with order 2. The architecture keeps the most
    probable candidates.

    Args:
        order: 1 or 2. Order 2 needs `torch.optim.SGD` and costs four passes for the logits instead of one.
        hvp: Second derivative of order 2: "finite", the paper's central difference, or "exact".
        virtual_clip: Largest norm of the two gradients of the weights that order 2 looks through: that of the
            virtual step and that of the validation loss after it. 0.25 in the search of recurrent cells,
            where the Trainer clips the real step likewise; None for no limit.
        none: Whether cell edges have a logit for the zero operation, which takes part in the softmax and is
            never derived.

    Source: DARTS, Liu et al. 2019, arXiv:1806.09055; eq. 2, algorithm 1, eq. 7 and 8, section 2.4.
    """

    order: Literal[1, 2] = 1
    hvp: Literal["finite", "exact"] = "finite"
    virtual_clip: float | None = None
    none: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("order", self.order, (1, 2))
        require_one_of("hvp", self.hvp, ("finite", "exact"))
        require_number("virtual_clip", self.virtual_clip, above=0, optional=True)
        if self.order == 1 and self.virtual_clip is not None:
            raise SpaceError(
                f"order=1 takes no virtual step, so virtual_clip={self.virtual_clip:g} would have no effect; "
                "leave it out, or use order=2."
            )
        if self.order == 2 and self.weights_first:
            raise SpaceError(
                "order=2 looks through the coming step of the weights, and with weights_first=True that step "
                "has been taken; leave one of them out."
            )

    @property
    def relaxation(self) -> Softmax:
        return Softmax(self.none)

    @property
    def update(self) -> Update:
        return FirstOrder() if self.order == 1 else SecondOrder(self.hvp, self.virtual_clip)
