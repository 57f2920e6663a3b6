"""The callback that searches an architecture while a Trainer trains the supernet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.language import Architecture
from spacelang.supernet import Supernet

from ._extra import Extra
from ._relaxation import Moment
from ._training import Training

if TYPE_CHECKING:
    from ._oneshot import OneShot


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
        self.moment = Moment(0, 1, generator_from(seed, stage))
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
        generator = generator_from(self._seed, self.stage, trainer.current_epoch)
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


def generator_from(*entropy: int) -> torch.Generator:
    """A generator on the CPU, seeded from integers."""
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed[0] >> 1))
