"""One-shot search: a strategy, and the Lightning callback that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spacelang import SpaceError
from spacelang.supernet import Supernet

from ._derivation import Rule
from ._relaxation import Relaxation
from ._schedule import Schedule
from ._update import FirstOrder, Update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._search import OneShotSearch


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Base of gradient-based one-shot strategies: settings only, so one object serves many searches.

    Args:
        learning_rate: of Adam on the logits.
        betas: of Adam.
        weight_decay: of Adam; pulls logits towards the uniform mixture.
        init_scale: logits start as `init_scale * N(0, 1)`.
        warmup_epochs: epochs at the start that train weights alone.
    """

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    init_scale: float = 1e-3
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise SpaceError(f"learning_rate={self.learning_rate} must be positive.")
        if self.weight_decay < 0 or self.init_scale < 0:
            raise SpaceError(
                f"weight_decay={self.weight_decay} and init_scale={self.init_scale} must not be negative."
            )
        if type(self.warmup_epochs) is not int or self.warmup_epochs < 0:
            raise SpaceError(f"warmup_epochs={self.warmup_epochs!r} must be an integer of at least 0.")

    @property
    def relaxation(self) -> Relaxation:
        """How logits become mixtures."""
        raise NotImplementedError(f"{type(self).__name__} must say its relaxation")

    @property
    def update(self) -> Update:
        """How batches become gradients of the logits."""
        return FirstOrder()

    @property
    def rule(self) -> Rule:
        """How a node of a cell is derived, see `top_architectures`."""
        return "edges"

    @property
    def samples_paths(self) -> bool:
        """Whether a step may leave candidates, and so weights, unused."""
        return False

    def make_schedule(self) -> Schedule:
        """What acts between epochs; made anew for every search."""
        return Schedule()

    def check(self, supernet: Supernet) -> None:
        """Refuse, before any training, what this strategy cannot search.

        Raises:
            SpaceError: names every such choice, its place and the reason.
        """
        refusals = supernet.soft_refusals()
        grouped = {decision.label for group in supernet.groups.values() for decision in group.decisions}
        refusals += [
            f"{label!r} belongs to no layer of the network"
            for label in supernet.decision_space.by_label
            if label not in grouped
        ]
        if refusals:
            raise SpaceError(
                f"{type(self).__name__} mixes candidates, which these choices do not allow:\n"
                + "\n".join(f"  {refusal}" for refusal in refusals)
                + "\nUse a LayerChoice in their place, or give them one value in the space's constructor."
            )

    def attach(
        self, supernet: Supernet, *, seed: int = 0, val_dataloader: Iterable[Any] | None = None
    ) -> OneShotSearch:
        """Begin a search: return the callback for your `Trainer`, whose module trains `supernet`.

        Args:
            supernet: the network to search.
            seed: of the logits' first values.
            val_dataloader: batches for the logits; the Trainer's validation loader by default.

        Raises:
            SpaceError: the space has a choice this strategy cannot search.
        """
        from ._search import OneShotSearch

        self.check(supernet)
        return OneShotSearch(self, supernet, seed=seed, val_dataloader=val_dataloader)
