"""What an experiment asks of the strategy and the evaluator it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from ..language import Architecture, Space
from ..supernet import Supernet

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.plugins.io import CheckpointIO


class Search(Protocol):
    """A one-shot search in progress: a Lightning callback from which architectures are derived."""

    state_key: str

    def derive(self, count: int = 1) -> list[Architecture]:
        """The `count` best architectures, best first."""
        ...

    def summary(self) -> dict[str, Any]:
        """What happened, as plain values; `search.yaml` of the run folder."""
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
        """The network of a stage, its weights newly drawn from torch's generator; `space` is left alone."""
        ...

    def attach(self, supernet: Supernet, *, seed: int = 0, stage: int = 0, previous: Any = None) -> Any:
        """Begin the search of a stage: return a `Search`, which is a Lightning callback.

        `previous` is the finished search of the stage before.
        """
        ...


@runtime_checkable
class TrainingEvaluator(Protocol):
    """An evaluator that trains a module with Lightning."""

    def lightning_module(self, model: nn.Module) -> LightningModule:
        """The LightningModule that trains `model`."""
        ...

    def fit(
        self,
        model: nn.Module,
        *,
        callbacks: Sequence[Callback] = (),
        directory: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        checkpoint_io: CheckpointIO | None = None,
        strategy_hint: str | None = None,
    ) -> Trainer:
        """Train `model`; write below `directory` only."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """Measures a plain model, often by training it."""

    def evaluate(
        self, model: nn.Module, report: Callable[[dict[str, float], int], None] | None = None
    ) -> Mapping[str, float]:
        """Return metrics by name.

        `report(metrics, epoch)` may be called after each epoch, from 0, and may raise to end the training:
        let that exception pass.
        """
        ...
