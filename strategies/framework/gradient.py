"""The search of differentiable strategies: logits that step on validation batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from spacelang import SpaceError
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Supernet

from .derivation import top_architectures
from .logits import ArchitectureParameters
from .relaxation import Mixture, Phase, Relaxation
from .search import OneShot, OneShotSearch
from .trainer import release
from .update import FirstOrder, Step, Update


class GradientSearch(OneShotSearch):
    """A search of logits.

    Before the first training batch of each optimiser step it takes validation batches (as many as gradients
    are accumulated over), computes the module's own `training_step` on them, and steps the logits along the
    mean gradient; then it hands the supernet the mixture without gradient for the weights. Weight gradients
    are never computed for the logits' step, nor logit gradients for the weights'.

    Args:
        strategy, supernet, seed, stage, val_dataloader: as in `OneShotSearch`.
        relaxation: in place of the strategy's.

    Attributes:
        parameters: the logits and their moments, by group label.
        schedule: what acts between epochs.
        history: by group label, the table of probabilities after each epoch.
        returned_to: the epoch whose probabilities are derived; None for the present ones.
    """

    def __init__(
        self,
        strategy: Differentiable,
        supernet: Supernet,
        *,
        seed: int = 0,
        stage: int = 0,
        val_dataloader: Iterable[Any] | None = None,
        relaxation: Relaxation | None = None,
    ) -> None:
        super().__init__(strategy, supernet, seed=seed, stage=stage, val_dataloader=val_dataloader)
        self.relaxation = relaxation or strategy.relaxation
        self.parameters = ArchitectureParameters(
            supernet,
            self.relaxation,
            init_scale=strategy.init_scale,
            generator=torch_generator(seed, stage),
            learning_rate=strategy.learning_rate,
            betas=strategy.betas,
            weight_decay=strategy.weight_decay,
        )
        self.schedule = strategy.make_schedule()
        self.history: dict[str, list[Tensor]] = {label: [] for label in supernet.groups}
        self.returned_to: int | None = None

    # -- results -------------------------------------------------------------------------------------

    def probability_tables(self) -> dict[str, Tensor]:
        """Probability of every candidate, by group label, (rows, columns).

        They are differentiable in the logits: in those that the present step may move.
        """
        groups = self.supernet.groups
        return {x: self.relaxation.movable(groups[x], p) for x, p in self.parameters.logits.items()}

    def probabilities(self) -> dict[str, Tensor]:
        """The same, detached."""
        with torch.no_grad():
            return self.probability_tables()

    def derive(self, count: int = 1) -> list[Architecture]:
        """The `count` most probable architectures, best first."""
        tables = self.probabilities()
        if self.returned_to is not None:
            tables = {label: past[self.returned_to] for label, past in self.history.items()}
        found: list[Architecture] = self.strategy.derive(self.supernet, tables, count)
        return found

    def return_to(self, epoch: int) -> None:
        """Derive from the probabilities after an earlier epoch; the weights stay as they are."""
        self.returned_to = epoch

    def summary(self) -> dict[str, Any]:
        """What happened, as plain values for a report."""
        return {**super().summary(), **self.schedule.summary(self)}

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the module to its device."""
        super().on_fit_start(trainer, pl_module)
        self.parameters.to(pl_module.device)
        self._mix("weights")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule begin, or go on."""
        super().on_train_start(trainer, pl_module)
        warmup = self.strategy.warmup_epochs
        if 0 < (trainer.max_epochs or 0) <= warmup:
            rank_zero_warn(
                f"{type(self.strategy).__name__}(warmup_epochs={warmup}) trains weights alone for all of the "
                f"Trainer's {trainer.max_epochs} epochs, so nothing is searched; give more epochs or a "
                "shorter warm-up."
            )
        self.schedule.train_start(self)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Step the logits, then give the weights their mixture."""
        window = trainer.accumulate_grad_batches
        is_time = batch_idx % (window * self.strategy.update_every) == 0
        if is_time and trainer.current_epoch >= self.strategy.warmup_epochs:
            self._step_logits(batch, batch_idx, count=window)
        self._mix("weights")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule act, record and log the probabilities, then let the extras act."""
        self.schedule.epoch_end(self, trainer.current_epoch)
        release(trainer.optimizers, pl_module)
        self._record_probabilities()
        super().on_train_epoch_end(trainer, pl_module)

    def _record_probabilities(self) -> None:
        metrics: dict[str, float] = {}
        for label, table in self.probabilities().items():
            group, table = self.supernet.groups[label], table.cpu()
            self.history[label].append(table)
            for row, values in zip(group.rows, table.tolist(), strict=True):
                place = f"{label}/{row}" if row else label
                metrics |= {f"alpha/{place}/{c}": p for c, p in zip(group.columns, values, strict=True)}
        self._training.log(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Logits, moments and the history of probabilities besides."""
        return {
            **super().state_dict(),
            **self.parameters.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": {label: torch.stack(tables) for label, tables in self.history.items() if tables},
            "returned_to": self.returned_to,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters.load_state_dict(state)
        self.history = {label: list(state["history"].get(label, ())) for label in self.supernet.groups}
        self.returned_to = state["returned_to"]
        self.schedule.load_state_dict(state["schedule"])
        super().load_state_dict(state)
        self._mix("weights")

    # -- steps ---------------------------------------------------------------------------------------

    def loss(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """The module's training loss with the logits in the graph; a random relaxation draws anew."""
        self._mix("logits")
        return self._training.loss(batch, batch_idx)

    def _mix(self, phase: Phase) -> dict[str, Mixture]:
        """Hand the supernet a mixture of the present logits; only the logits' own step differentiates it."""
        moment = dataclasses.replace(self.moment, phase=phase)
        made: dict[str, Mixture] = {}
        with torch.set_grad_enabled(phase == "logits"):
            for label, logits in self.parameters.logits.items():
                group = self.supernet.groups[label]
                made[label] = self.relaxation.mixture(group, logits, moment)
                for extra in self.strategy.extras:
                    made[label] = extra.mixture(group, made[label], moment)
        self.supernet.set_mixture(
            {label: mixture.weights for label, mixture in made.items()},
            {label: mixture.active for label, mixture in made.items() if mixture.active is not None},
            edges={label: mixture.edges for label, mixture in made.items() if mixture.edges is not None},
            adds_gates=any(mixture.adds_gates for mixture in made.values()),
            silent={label: mixture.silent for label, mixture in made.items() if mixture.silent is not None},
        )
        return made

    def _step_logits(self, batch: Any, batch_idx: int, count: int) -> None:
        """Step along the mean over `count` validation batches and all processes of the gradient."""
        training, parameters = self._training, self.parameters
        before = {label: p.detach().clone() for label, p in parameters.logits.items()}
        logits = list(parameters.logits.values())

        def val_loss() -> Tensor:
            loss = self.loss(training.validation_batch(), batch_idx)
            for extra in self.strategy.extras:
                loss = extra.objective(loss, self)
            return loss

        step = Step(
            logits,
            lambda: self.loss(batch, batch_idx),
            val_loss,
            training.module,
            training.trainer.optimizers,
            self.moment.generator,
        )
        total = [torch.zeros_like(p) for p in logits]
        for _ in range(count):
            for sum_, gradient in zip(total, self.strategy.update.gradients(step), strict=True):
                if gradient is not None:  # None: a choice this batch's forward pass did not reach
                    sum_ += gradient / count
        gradients = [training.mean(gradient) for gradient in total]
        if self.strategy.gradient_clip is not None:
            clip(gradients, self.strategy.gradient_clip)
        parameters.step(gradients)
        with torch.no_grad():
            for label, p in parameters.logits.items():
                p.copy_(self.relaxation.settled(self.supernet.groups[label], before[label], p))


def clip(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale gradients so that their joint norm is at most `largest`."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    for gradient in gradients:
        gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


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

        return GradientSearch(self, supernet, **settings)


class Schedule:
    """Acts between epochs; this one does nothing. One object belongs to one search.

    State is made of tensors, numbers, strings, lists and dicts, so that a checkpoint can hold it.
    """

    def train_start(self, search: GradientSearch) -> None:
        """Called before the first epoch of a fit, which may be a resumed one."""

    def epoch_end(self, search: GradientSearch, epoch: int) -> None:
        """Called after the training of an epoch, before its probabilities are recorded."""

    def summary(self, search: GradientSearch) -> dict[str, Any]:
        """What it did, as plain values for a report."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
