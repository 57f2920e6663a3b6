"""Protocols of one-shot strategies and their searches."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..language import Architecture, Space
from ..supernet import Supernet


class Search(Protocol):
    """A one-shot search in progress: a Lightning callback from which architectures are derived."""

    state_key: str

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures, best first."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return what happened, as plain values for `search.yaml` of the run folder."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore from a checkpoint."""
        ...


@runtime_checkable
class OneShotStrategy(Protocol):
    """A strategy that searches while a supernet is trained."""

    @property
    def samples_paths(self) -> bool:
        """Whether a step may leave weights unused."""
        ...

    @property
    def stages(self) -> int:
        """Number of searches that follow one another, each with a supernet of its own."""
        ...

    def supernet(self, space: Space, stage: int = 0) -> Supernet:
        """Return the network of a stage with new weights from torch's generator; leave `space` alone."""
        ...

    def attach(self, supernet: Supernet, *, seed: int = 0, stage: int = 0, previous: Any = None) -> Any:
        """Begin the search of a stage: return a `Search`, which is a Lightning callback.

        Args:
            supernet: Network to search in.
            seed: Seeds every random draw of the search.
            stage: Number of the stage, from 0.
            previous: Finished search of the stage before.
        """
        ...
