"""The callback that searches an architecture while a Trainer trains the supernet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.language import Architecture
from spacelang.supernet import Supernet

from ._derivation import top_architectures
from ._parameters import ArchitectureParameters
from ._relaxation import Moment
from ._update import Step

if TYPE_CHECKING:
    from ._oneshot import OneShot


class OneShotSearch(pl.Callback):
    """One search: architecture parameters, their updates, and what is derived from them.

    It works with any LightningModule under automatic optimisation. Before the first training batch of each
    optimiser step it takes validation batches (as many as gradients are accumulated over), computes the
    module's own `training_step` on them, and steps the logits along the mean gradient; then it hands the
    supernet the mixture without gradient for the weights. Weight gradients are never computed for the
    logits' step, nor logit gradients for the weights'. All state is in `state_dict`.

    Args:
        strategy: the settings.
        supernet: the network being trained.
        seed: of the logits' first values.
        val_dataloader: batches for the logits; the Trainer's (first) validation loader by default.
    """

    def __init__(
        self,
        strategy: OneShot,
        supernet: Supernet,
        *,
        seed: int = 0,
        val_dataloader: Iterable[Any] | None = None,
    ) -> None:
        self.strategy = strategy
        self.supernet = supernet
        self.parameters = ArchitectureParameters(
            supernet,
            strategy.relaxation,
            init_scale=strategy.init_scale,
            generator=torch.Generator().manual_seed(seed),
            learning_rate=strategy.learning_rate,
            betas=strategy.betas,
            weight_decay=strategy.weight_decay,
        )
        self.history: dict[str, list[Tensor]] = {label: [] for label in supernet.groups}
        self.schedule = strategy.make_schedule()
        self._seed = seed
        self._moment = Moment(0, 1, torch.Generator().manual_seed(seed))
        self._val_dataloader = val_dataloader
        self._batches: Iterator[Any] = iter(())

    # -- results -------------------------------------------------------------------------------------

    def probabilities(self) -> dict[str, Tensor]:
        """Probability of every candidate, by group label, (rows, columns)."""
        relaxation, groups = self.strategy.relaxation, self.supernet.groups
        with torch.no_grad():
            return {x: relaxation.probabilities(groups[x], p) for x, p in self.parameters.logits.items()}

    def derive(self, count: int = 1) -> list[Architecture]:
        """The `count` most probable architectures, best first."""
        return top_architectures(self.supernet, self.probabilities(), count, rule=self.strategy.rule)

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the module can be searched; follow it to its device."""
        if not pl_module.automatic_optimization:
            raise SpaceError(
                f"{type(pl_module).__name__} optimises manually, so its training_step would train weights on "
                "validation batches; set automatic_optimization = True."
            )
        if not any(child is self.supernet for child in pl_module.modules()):
            raise SpaceError(
                f"{type(pl_module).__name__} does not contain the supernet; pass it as its model."
            )
        self.parameters.to(pl_module.device)
        self._mix(requires_grad=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are validation batches, before anything is trained or saved."""
        self._validation_loader(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new pass over the validation batches; seed what the epoch draws."""
        self._batches = cycle(self._validation_loader(trainer))
        # The same on every rank, and known from the epoch alone: a resumed search draws what it would have.
        seed = np.random.SeedSequence((self._seed, trainer.current_epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0] >> 1))
        self._moment = Moment(trainer.current_epoch, trainer.max_epochs or 1, generator)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Step the logits, then give the weights their mixture."""
        window = trainer.accumulate_grad_batches
        if trainer.current_epoch >= self.strategy.warmup_epochs and batch_idx % window == 0:
            gradients = self._gradients(trainer, pl_module, batch, batch_idx, count=window)
            self.parameters.step([trainer.strategy.reduce(g, reduce_op="mean") for g in gradients])
        self._mix(requires_grad=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule act, then record and log the probabilities."""
        self.schedule.epoch_end(self, trainer.current_epoch)
        release(trainer.optimizers, pl_module)
        metrics: dict[str, float] = {}
        for label, table in self.probabilities().items():
            group, table = self.supernet.groups[label], table.cpu()
            self.history[label].append(table)
            for row, values in zip(group.rows, table.tolist(), strict=True):
                place = f"{label}/{row}" if row else label
                metrics |= {f"alpha/{place}/{c}": p for c, p in zip(group.columns, values, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Logits, moments, the history of probabilities, and what the schedule and pruning have done."""
        return {
            **self.parameters.state_dict(),
            "history": {label: torch.stack(tables) for label, tables in self.history.items() if tables},
            "alive": {label: torch.tensor(group.alive) for label, group in self.supernet.groups.items()},
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters.load_state_dict(state)
        self.history = {label: list(state["history"].get(label, ())) for label in self.supernet.groups}
        self.supernet.prune({label: alive.tolist() for label, alive in state["alive"].items()})
        self.schedule.load_state_dict(state["schedule"])
        self._mix(requires_grad=False)

    # -- steps ---------------------------------------------------------------------------------------

    def _mix(self, *, requires_grad: bool) -> None:
        """Hand the supernet a mixture of the present logits; a random relaxation draws a new one."""
        relaxation, groups = self.strategy.relaxation, self.supernet.groups
        with torch.set_grad_enabled(requires_grad):
            made = {
                x: relaxation.mixture(groups[x], p, self._moment) for x, p in self.parameters.logits.items()
            }
        self.supernet.set_mixture(
            {label: mixture.weights for label, mixture in made.items()},
            {label: mixture.active for label, mixture in made.items() if mixture.active is not None},
        )

    def _gradients(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, count: int
    ) -> list[Tensor]:
        """Mean over `count` validation batches of the strategy's gradient of the logits."""
        logits = list(self.parameters.logits.values())

        def train_loss() -> Tensor:
            return self._loss(trainer, pl_module, batch, batch_idx)

        def val_loss() -> Tensor:
            return self._loss(
                trainer, pl_module, self._to_device(trainer, pl_module, next(self._batches)), batch_idx
            )

        total = [torch.zeros_like(p) for p in logits]
        for _ in range(count):
            step = Step(logits, train_loss, val_loss, pl_module, trainer.optimizers)
            for sum_, gradient in zip(total, self.strategy.update.gradients(step), strict=True):
                if gradient is not None:  # None: a choice this batch's forward pass did not reach
                    sum_ += gradient / count
        return total

    def _loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> Tensor:
        """The module's own training loss with logits in the graph, without its logging."""
        self._mix(requires_grad=True)
        with silenced(pl_module), trainer.precision_plugin.train_step_context():
            output = pl_module.training_step(batch, batch_idx)
        loss = output["loss"] if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise SpaceError(
                f"{type(pl_module).__name__}.training_step must return the loss or a dict with 'loss'; "
                f"got {type(output).__name__}."
            )
        return loss

    @staticmethod
    def _to_device(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
        """Treat a batch as Lightning treats training batches."""
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def _validation_loader(self, trainer: pl.Trainer) -> Iterable[Any]:
        if self._val_dataloader is not None:
            return self._val_dataloader
        loaders = trainer.val_dataloaders
        while isinstance(loaders, list | tuple | dict) and loaders:
            loaders = next(iter(loaders.values())) if isinstance(loaders, dict) else loaders[0]
        if not loaders:
            raise SpaceError(
                "the search needs validation batches for its logits: give val_dataloaders to the evaluator "
                "(or to Trainer.fit), or val_dataloader to strategy.attach. limit_val_batches=0 also takes "
                "them away."
            )
        return loaders  # type: ignore[no-any-return]


def release(optimizers: Iterable[torch.optim.Optimizer], module: nn.Module) -> None:
    """Take weights that were pruned from a module out of its optimisers.

    What is left is what optimisers made for the pruned module would have, so that a resumed search fits.
    """
    present = set(module.parameters())
    for optimizer in optimizers:
        inner: Any = getattr(optimizer, "optimizer", optimizer)
        for group in inner.param_groups:
            for weight in [w for w in group["params"] if w not in present]:
                inner.state.pop(weight, None)
            group["params"] = [w for w in group["params"] if w in present]


def cycle(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches of a loader over and over, each pass newly shuffled by the loader.

    Raises:
        SpaceError: the loader has none.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise SpaceError("the validation loader has no batch; give it more data or a smaller batch size.")


@contextmanager
def silenced(module: pl.LightningModule) -> Iterator[None]:
    """Ignore what a module logs: a validation batch of the search is no training metric."""

    def ignore(*args: Any, **kwargs: Any) -> None:
        return None

    names = ("log", "log_dict")
    hidden: dict[str, Callable[..., Any]] = {n: module.__dict__[n] for n in names if n in module.__dict__}
    module.__dict__.update(dict.fromkeys(names, ignore))
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]
        module.__dict__.update(hidden)
