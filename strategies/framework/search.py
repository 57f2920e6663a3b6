"""The callback that searches an architecture while a Trainer trains the supernet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Group, Supernet

from .relaxation import Mixture, Moment
from .trainer import Training

if TYPE_CHECKING:
    from .gradient import GradientSearch


class OneShotSearch(pl.Callback):
    """One search: a Lightning callback for a LightningModule that trains a supernet.

    It works with any module under automatic optimisation. What differs between kinds of search is what
    happens before a training batch and how architectures are derived: `GradientSearch`, `PathSearch`.
    Everything a search must remember is in `state_dict`.

    Args:
        strategy: the settings.
        supernet: the network being trained.
        seed: of everything random.
        stage: of a strategy of several.
        val_dataloader: batches of the search; the Trainer's (first) validation loader by default.

    Attributes:
        records: numbers kept over the epochs, by name.
        stopped: why the search ended early; empty while it has not.
        moment: the present epoch and its generator.
        training: the Trainer and module of the present fit.
    """

    def __init__(
        self,
        strategy: OneShot,
        supernet: Supernet,
        *,
        seed: int = 0,
        stage: int = 0,
        val_dataloader: Iterable[Any] | None = None,
    ) -> None:
        self.strategy: Any = strategy
        self.supernet = supernet
        self.stage = stage
        self.records: dict[str, list[float]] = {}
        self.stopped = ""
        self.moment = Moment(0, 1, torch_generator(seed, stage))
        self.training: Training | None = None
        self._seed = seed
        self._val_dataloader = val_dataloader

    # -- results -------------------------------------------------------------------------------------

    def derive(self, count: int = 1) -> list[Architecture]:
        """The `count` best architectures, best first."""
        raise NotImplementedError(f"{type(self).__name__} must say how it derives architectures")

    def summary(self) -> dict[str, Any]:
        """What happened, as plain values for a report."""
        return {
            **({"stopped": self.stopped} if self.stopped else {}),
            **({"records": self.records} if self.records else {}),
        }

    # -- what extras use -----------------------------------------------------------------------------

    def record(self, name: str, value: float) -> None:
        """Keep a number of this epoch and log it."""
        self.records.setdefault(name, []).append(value)
        self._training.log({name: value})

    def stop(self, reason: str) -> None:
        """End the search after this epoch."""
        self.stopped = reason
        self._training.trainer.should_stop = True

    def enlarge_batches(self, samples: int) -> None:
        """Add `samples` to the size of training and validation batches, from the next epoch on."""
        self._training.enlarge_batches(samples)

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the module can be searched."""
        self.training = Training(trainer, pl_module, self._val_dataloader)
        self.training.check(self.supernet)
        transforming = [e for e in self.strategy.extras if type(e).transform is not Extra.transform]

        def transform(candidate: nn.Module, output: Tensor) -> Tensor:
            for extra in transforming:
                output = extra.transform(candidate, output, self.moment)
            return output

        self.supernet.set_transform(transform if transforming else None)
        if self.stopped:
            trainer.should_stop = True  # resumed after its end

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are validation batches, before anything is trained or saved."""
        self._training.validation_loader()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new pass over the validation batches; seed what the epoch draws."""
        self._training.begin_epoch()
        # The same on every rank, and known from the epoch alone: a resumed search draws what it would have.
        generator = torch_generator(self._seed, self.stage, trainer.current_epoch)
        self.moment = Moment(trainer.current_epoch, trainer.max_epochs or 1, generator)
        for extra in self.strategy.extras:
            extra.epoch_start(self)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the extras act."""
        for extra in self.strategy.extras:
            extra.epoch_end(self)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the Trainer."""
        self._training.close()
        self.training = None
        self.supernet.set_transform(None)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let go of the Trainer."""
        if self.training is not None:
            self.on_fit_end(trainer, pl_module)

    @property
    def _training(self) -> Training:
        if self.training is None:
            raise SpaceError("no Trainer is fitting this search; call Trainer.fit with it as a callback.")
        return self.training

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What pruning and extras have done."""
        return {
            "alive": {label: torch.tensor(group.alive) for label, group in self.supernet.groups.items()},
            "records": {name: list(values) for name, values in self.records.items()},
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.supernet.prune({label: alive.tolist() for label, alive in state["alive"].items()})
        self.records = {name: list(values) for name, values in state["records"].items()}
        self.stopped = state["stopped"]


@dataclass(frozen=True, kw_only=True)
class OneShot(KnownArguments):
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


class Extra(KnownArguments):
    """Base of extras; each method does nothing, a subclass replaces those it needs.

    An extra is a frozen dataclass of settings: what it must remember, it records in the search.

    Attributes:
        drops_candidates: whether a step may leave candidates, and so weights, unused.
    """

    drops_candidates: ClassVar[bool] = False

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        """Raise a `SpaceError`, before training, where this extra does not work."""

    def require_probabilities(self, strategy: OneShot) -> None:
        """Raise a `SpaceError` for a strategy without probabilities of candidates."""
        from .gradient import Differentiable

        if not isinstance(strategy, Differentiable):
            raise SpaceError(
                f"{type(self).__name__} reads the probabilities of candidates, and {type(strategy).__name__} "
                "learns none; use it with a differentiable strategy, such as DARTS()."
            )

    def epoch_start(self, search: OneShotSearch) -> None:
        """Called before the first batch of an epoch, `search.moment.epoch`."""

    def mixture(self, group: Group, mixture: Mixture, moment: Moment) -> Mixture:
        """Mixture to compute with in place of `mixture`; random numbers from `moment.generator`."""
        return mixture

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        """What a candidate's output becomes before it is weighted; only where it was overridden."""
        return output

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        """Loss whose gradient the logits follow, from the validation loss."""
        return loss

    def epoch_end(self, search: OneShotSearch) -> None:
        """Called after the training of an epoch, when its probabilities are in `search.history`."""


def check_ends(name: str, ends: object) -> None:
    """Raise a `SpaceError` unless `ends` are two numbers: of the first and of the last epoch."""
    if not isinstance(ends, tuple | list) or [isinstance(x, int | float) for x in ends] != [True, True]:
        raise SpaceError(f"{name}={ends!r}; expected two numbers, for the first and for the last epoch.")
