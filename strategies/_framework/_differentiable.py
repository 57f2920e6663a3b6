"""Differentiable strategies: logits that follow the gradient of a validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spacelang import SpaceError
from spacelang.language import Architecture
from spacelang.supernet import Supernet

from ._derivation import top_architectures
from ._oneshot import OneShot
from ._relaxation import Relaxation
from ._schedule import Schedule
from ._update import FirstOrder, Update

if TYPE_CHECKING:
    from ._gradient_search import GradientSearch


@dataclass(frozen=True, kw_only=True)
class Differentiable(OneShot):
    """Base of gradient-based strategies.

    Args:
        learning_rate: of Adam on the logits.
        betas: of Adam.
        weight_decay: of Adam; pulls logits towards the uniform mixture.
        init_scale: logits start as `init_scale * N(0, 1)`.
        warmup_epochs: epochs at the start that train weights alone.
        update_every: steps of the weights per step of the logits.
        gradient_clip: largest norm of the gradient of all logits; None for no limit.
    """

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    init_scale: float = 1e-3
    warmup_epochs: int = 0
    update_every: int = 1
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate <= 0:
            raise SpaceError(f"learning_rate={self.learning_rate} must be positive.")
        if self.weight_decay < 0 or self.init_scale < 0:
            raise SpaceError(
                f"weight_decay={self.weight_decay} and init_scale={self.init_scale} must not be negative."
            )
        for name, least in (("warmup_epochs", 0), ("update_every", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise SpaceError(f"{name}={getattr(self, name)!r} must be an integer of at least {least}.")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise SpaceError(f"gradient_clip={self.gradient_clip} must be positive, or None.")

    @property
    def relaxation(self) -> Relaxation:
        """How logits become mixtures."""
        raise NotImplementedError(f"{type(self).__name__} must say its relaxation")

    @property
    def update(self) -> Update:
        """How batches become gradients of the logits."""
        return FirstOrder()

    def make_schedule(self) -> Schedule:
        """What acts between epochs; made anew for every search."""
        return Schedule()

    def derive(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        """The `count` best architectures, best first, from tables of probabilities."""
        return top_architectures(supernet, probabilities, count)

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self._refuse(
            supernet.soft_refusals(),
            "mixes candidates",
            "Strategies that train one path at a time can: RandomOneShot, SPOS, ENAS. Or use a LayerChoice "
            "in their place, or give them one value in the space's constructor.",
        )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        from ._gradient_search import GradientSearch

        return GradientSearch(self, supernet, **settings)
