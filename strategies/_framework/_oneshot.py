"""What every one-shot strategy is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spacelang import ModelSpace, SpaceError
from spacelang.supernet import Supernet

from ._extra import Extra

if TYPE_CHECKING:
    from ._search import OneShotSearch


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Base of strategies that search while a supernet is trained: settings only, so one object serves many
    searches.

    Args:
        extras: early stops, dropout, penalties, monitors, applied in this order.
    """

    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        for extra in self.extras:
            if not isinstance(extra, Extra):
                raise SpaceError(
                    f"extras holds {extra!r}; expected objects such as spacelang.strategies.StopOnSkips()."
                )

    @property
    def stages(self) -> int:
        """Number of searches that follow one another, each with a supernet of its own."""
        return 1

    @property
    def samples_paths(self) -> bool:
        """Whether a step may leave candidates, and so weights, unused."""
        return any(extra.drops_candidates for extra in self.extras)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        """The network of a stage, its weights newly drawn from torch's generator; `space` is left alone."""
        return Supernet(space.rebuild())

    def check(self, supernet: Supernet) -> None:
        """Refuse, before any training, what this strategy cannot search.

        Raises:
            SpaceError: names every such choice, its place and the reason.
        """
        for extra in self.extras:
            extra.check(self, supernet)
        reached = {decision.label for group in supernet.groups.values() for decision in group.decisions}
        refusals = [
            f"{label!r} belongs to no layer of the network"
            for label in supernet.decision_space.by_label
            if label not in reached
        ]
        self._refuse(
            refusals, "trains one network", "Use a multi-trial strategy, or give them one value in the space."
        )

    def _refuse(self, refusals: Iterable[str], reason: str, instead: str) -> None:
        lines = "".join(f"\n  {refusal}" for refusal in refusals)
        if lines:
            raise SpaceError(
                f"{type(self).__name__} {reason}, so it cannot search these choices:{lines}\n{instead}"
            )

    def attach(
        self,
        supernet: Supernet,
        *,
        seed: int = 0,
        stage: int = 0,
        previous: OneShotSearch | None = None,
        val_dataloader: Iterable[Any] | None = None,
    ) -> OneShotSearch:
        """Begin a search: return the callback for your `Trainer`, whose module trains `supernet`.

        Args:
            supernet: the network to search: `strategy.supernet(space)`.
            seed: of everything random in the search.
            stage: from 0; see `stages`.
            previous: the finished search of the stage before.
            val_dataloader: batches of the search; the Trainer's validation loader by default.

        Raises:
            SpaceError: the space has a choice this strategy cannot search.
        """
        self.check(supernet)
        if stage > 0 and previous is None:
            raise SpaceError(
                f"stage={stage} of {type(self).__name__} needs the search of the stage before as previous=."
            )
        return self.make_search(supernet, previous, seed=seed, stage=stage, val_dataloader=val_dataloader)

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> OneShotSearch:
        """The search that `attach` returns; `previous` is None in the first stage."""
        raise NotImplementedError(f"{type(self).__name__} must say how it searches")
