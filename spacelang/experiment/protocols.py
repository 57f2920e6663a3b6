"""Protocols of one-shot strategies and their searches, and what an `Experiment` takes."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..language import Architecture
from ..supernet import Supernet
from ..trials import ArchitectureEvaluator, Evaluator, MultiTrialStrategy, TrainingEvaluator


class Search(Protocol):
    """A one-shot search in progress: a Lightning callback from which architectures are derived."""

    state_key: str

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures, best first."""
        ...

    def summary(self) -> dict[str, Any]:
        """Return what happened, as plain values for `search.yaml` of the run folder.

        "records", numbers by name, and "decisions", dicts, are lists that grow; each epoch's are recorded.
        """
        ...

    def tables(self) -> dict[str, list[list[float]]]:
        """Return the present probabilities by group label, rows x columns; nothing where none are learned."""
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

    def supernet(self, space: Any, stage: int = 0) -> Supernet:
        """Return the network of a stage with new weights from torch's generator.

        Args:
            space: The `ModelSpace`; leave it alone.
            stage: Number of the stage, from 0.
        """
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


SearchStrategy: TypeAlias = OneShotStrategy | MultiTrialStrategy
"""How an `Experiment` searches."""

SearchEvaluator: TypeAlias = Evaluator | ArchitectureEvaluator | TrainingEvaluator
"""Evaluators that an `Experiment` trains or measures with."""
