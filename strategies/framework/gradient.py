"""Differentiable strategies, their search, and extras that read or move logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_integer, require_number, require_one_of
from spacelang.randomness import global_generators_kept, seed_global_generators, torch_generator
from spacelang.supernet import Group, Supernet

from .judge import Judge
from .learned import Derivation, Derived, LogitsSearch, LogitsStrategy
from .relaxation import Mixture, Moment, Phase
from .search import Extra, OneShot
from .strength import OperationStrength
from .trainer import release
from .update import FirstOrder, Step, Update, clip


@dataclass(frozen=True, kw_only=True)
class Differentiable(LogitsStrategy):
    """Base of gradient-based strategies.

    Args:
        learning_rate, betas, weight_decay, init_scale: See `LogitsStrategy`.
        warmup_epochs: Epochs at the start that train weights alone.
        update_every: Steps of the weights per step of the logits.
        weights_first: Whether a step of the logits follows its steps of the weights, or precedes them.
        gradient_clip: Largest norm of the gradient of all logits; None for no limit.
        derive: Derivation when training has ended: by the "probabilities", by the "strength" of operations
            (`OperationStrength()`), or by another `Derivation`, such as `Judge(sample=20)`.
    """

    warmup_epochs: int = 0
    update_every: int = 1
    weights_first: bool = False
    gradient_clip: float | None = None
    derive: Derivation | Literal["probabilities", "strength"] = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        derivation_of(self.derive)  # refuses what is none
        require_integer("warmup_epochs", self.warmup_epochs, least=0)
        require_integer("update_every", self.update_every, least=1)
        require_number("gradient_clip", self.gradient_clip, above=0, optional=True)
        if self.single_level:
            self.refuse_settings("steps weights and logits together", "weights_first", "update_every")

    def refuse_settings(self, reason: str, *names: str) -> None:
        """Raise a `SpaceError` that names settings without effect, if one is not the default.

        Args:
            reason: Verb phrase that follows the strategy's name.
            names: Fields of `Differentiable`.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(Differentiable)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                given = f"{name}={getattr(self, name)!r}"
                raise SpaceError(
                    f"{type(self).__name__} {reason}, so {given} would have no effect; leave it out."
                )

    @property
    def derivation(self) -> Derivation:
        """How architectures are derived when training has ended."""
        return derivation_of(self.derive)

    def deriving(self, by: Derivation | str = "probabilities", **settings: Any) -> Self:
        """Return this strategy with another derivation; see `derivation_of`."""
        return dataclasses.replace(self, derive=derivation_of(by, **settings))

    @property
    def update(self) -> Update:
        """How batches become gradients of the logits."""
        return FirstOrder()

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        """Return the loss of a step, to which a strategy may add terms of its own.

        Extras add theirs to the loss of the logits' step afterwards. A second-order update uses this method
        for both of its losses.

        Args:
            loss: The module's loss on a batch, a number.
            search: Gives the logits (`search.parameters.logits`), probabilities and the supernet.
            phase: Whose step the loss is for. In a step of the "weights" logits are constants, unless a
                second-order update differentiates it, or the search has a single level.
        """
        return loss

    @property
    def single_level(self) -> bool:
        """Whether weights and logits step together, along the gradient of one loss on training batches."""
        return False

    def moves_logits(self, epoch: int) -> bool:
        """Return whether logits take steps in an epoch; otherwise it trains weights alone."""
        return epoch >= self.warmup_epochs

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self.derivation.check(self, supernet)
        self.refuse(
            supernet.soft_refusals(),
            "mixes candidates",
            "Strategies that train one path at a time can: RandomOneShot, SPOS, ENAS; so can trials. Or use "
            "a LayerChoice in their place, or give them one value in the space's constructor.",
        )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        return GradientSearch(self, supernet, **settings)


class GradientSearch(LogitsSearch):
    """A search of logits by gradients.

    Before the first training batch of each optimiser step (after the last with `weights_first`) it takes
    validation batches (as many as gradients are accumulated over), computes the module's own `training_step`
    on them, and steps the logits along the mean gradient; then it hands the supernet the mixture without
    gradient for the weights. Weight gradients are never computed for the logits' step, nor logit gradients
    for the weights'. In a single-level search there is no such step: the backward pass of the weights also
    has the gradient of the logits.

    Args:
        strategy, supernet, settings: See `LogitsSearch`.
    """

    strategy: Differentiable

    def __init__(self, strategy: Differentiable, supernet: Supernet, **settings: Any) -> None:
        super().__init__(strategy, supernet, **settings)
        self._joint = False  # whether the present step of the weights is one of the logits too
        self._has_ended = False

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the module to its device; add the strategy's own terms to its loss."""
        super().on_fit_start(trainer, pl_module)
        self.parameters.to(pl_module.device)
        if self.strategy.single_level or type(self.strategy).objective is not Differentiable.objective:
            self.training.replace_loss(self._weights_loss)
        self.mix("weights")
        if self._has_ended and self.derived is None:  # a finished search, by another derivation
            self.conclude()
            self.warn_if_dead()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule begin, or continue."""
        super().on_train_start(trainer, pl_module)
        self._has_ended, self.derived = False, None
        self._check_epochs(trainer.max_epochs or 0)
        self.schedule.train_start(self)

    def _check_epochs(self, epochs: int) -> None:
        """Warn when the Trainer has too few epochs for this strategy."""
        name, warmup = type(self.strategy).__name__, self.strategy.warmup_epochs
        if 0 < epochs <= warmup:
            rank_zero_warn(
                f"{name}(warmup_epochs={warmup}) trains weights alone for all of the Trainer's {epochs} "
                "epochs, so nothing is searched; set more epochs or a shorter warm-up."
            )
        needed = self.schedule.epochs_needed(self)
        if needed is not None and 0 < epochs < needed:
            rank_zero_warn(
                f"{name} needs {needed} epochs to decide everything, and the Trainer has {epochs}; set "
                f"max_epochs={needed}, or let it decide earlier or more often."
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule act, once the draws of the epoch are seeded."""
        super().on_train_epoch_start(trainer, pl_module)
        self.schedule.epoch_start(self, trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Step the logits if they precede the weights, then set the mixture of the weights' step."""
        strategy = self.strategy
        if not (strategy.weights_first or strategy.single_level) and self._is_time(batch_idx):
            self.step_logits(batch, batch_idx)
        self._joint = strategy.single_level and strategy.moves_logits(trainer.current_epoch)
        self.mix_weights(batch, batch_idx)

    def mix_weights(self, batch: Any, batch_idx: int) -> None:
        """Set the mixture of the weights' step on a training batch."""
        self.mix("weights")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Step the logits of a single-level search: the backward pass of the weights has ended."""
        if self._joint and any(p.grad is not None for p in self.parameters.logits.values()):
            self.step_jointly()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the logits if they follow the weights."""
        if self.strategy.weights_first and self._is_time(batch_idx + 1):
            self.step_logits(batch, batch_idx)
            self.mix("weights")

    def _is_time(self, batches: int) -> bool:
        """Return whether the logits step after so many batches of the epoch."""
        trainer, strategy = self.training.trainer, self.strategy
        is_due = batches % (trainer.accumulate_grad_batches * strategy.update_every) == 0
        return is_due and strategy.moves_logits(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule act, record and log the probabilities, then let the extras act."""
        self.watch.look()
        self.schedule.epoch_end(self, trainer.current_epoch)
        release(trainer.optimizers, pl_module)
        self.record_probabilities()
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a mixture without gradient; see also `OneShotSearch`."""
        if self._joint:
            self._joint = False
            self.mix("weights")
        super().on_train_end(trainer, pl_module)

    def conclude(self) -> None:
        """Derive, in the last stage; the draws of it are seeded by the number of epochs alone."""
        if not self.is_last_stage:
            return
        epochs, trainer = len(self.best_of_epochs), self.training.trainer
        planned = trainer.max_epochs or 1
        self.moment = Moment(epochs - 1, planned, torch_generator(self.seed, self.stage, epochs))
        self.derived = None
        derivation = self.strategy.derivation
        with global_generators_kept():  # loaders draw the order of batches from them
            seed_global_generators(self.seed, self.stage, epochs, trainer.global_rank)
            tables, judged = derivation.tables(self), derivation.judged(self)
        if tables is not None:
            tables = {label: table.detach().cpu() for label, table in tables.items()}
        self.derived = Derived(repr(derivation), tables, judged)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._has_ended = self.derived is not None
        if self.derived is not None and self.derived.by != repr(self.strategy.derivation):
            self.derived = None  # what another derivation found
        self.mix("weights")

    # -- steps ---------------------------------------------------------------------------------------

    def loss(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Return the module's training loss with the logits in the graph; a random relaxation draws again."""
        self.mix("logits")
        return self.training.loss(batch, batch_idx)

    def mix(self, phase: Phase) -> None:
        """Hand the supernet a mixture of the present logits, differentiable in a step of the logits alone."""
        self.compute_with(self.mixtures(phase))

    def mixtures(self, phase: Phase) -> dict[str, Mixture]:
        """Return mixtures of the present logits, as the extras want them; see `LogitsSearch`."""
        with torch.set_grad_enabled(phase == "logits" or self._joint):
            return self.altered(super().mixtures(phase), phase)

    def altered(self, mixtures: Mapping[str, Mixture], phase: Phase) -> dict[str, Mixture]:
        """Return mixtures as the extras want them, by group label."""
        moment, made = dataclasses.replace(self.moment, phase=phase), dict(mixtures)
        for label in made:
            for extra in self.extras:
                if isinstance(extra, LogitsExtra):
                    made[label] = extra.mixture(self.supernet.groups[label], made[label], moment)
        return made

    def _weights_loss(self, loss: Tensor) -> Tensor:
        if self._joint:
            return self._with_extras(self.strategy.objective(loss, self, "weights"))
        with self.parameters.constant():
            return self.strategy.objective(loss, self, "weights")

    def _val_loss(self, batch_idx: int) -> Tensor:
        loss = self.loss(self.training.validation_batch(), batch_idx)
        return self._with_extras(self.strategy.objective(loss, self, "logits"))

    def _with_extras(self, loss: Tensor) -> Tensor:
        for extra in self.extras:
            if isinstance(extra, LogitsExtra):
                loss = extra.objective(loss, self)
        return loss

    def step_jointly(self) -> None:
        """Step the logits along the gradients that the backward pass of the weights has left."""
        logits = list(self.parameters.logits.values())
        gradients = self.training.unscaled([p.grad for p in logits])
        self.parameters.optimizer.zero_grad()
        self.step_along(gradients)

    def step_logits(self, batch: Any, batch_idx: int) -> None:
        """Step along the mean gradient over validation batches, one for each accumulated, and processes."""
        training = self.training
        count = training.trainer.accumulate_grad_batches
        logits = list(self.parameters.logits.values())
        losses: list[Tensor] = []

        def val_loss() -> Tensor:
            loss = self._val_loss(batch_idx)
            losses.append(loss.detach())
            return loss

        step = Step(
            logits,
            lambda: self.strategy.objective(self.loss(batch, batch_idx), self, "weights"),
            val_loss,
            training.module,
            training.trainer.optimizers,
            self.moment.generator,
        )
        total: list[Tensor | None] = [None] * len(logits)
        for _ in range(count):
            for i, gradient in enumerate(self.strategy.update.gradients(step)):
                if gradient is not None:
                    sum_ = total[i]
                    total[i] = gradient / count if sum_ is None else sum_ + gradient / count
        self.watch.see("The loss of the logits' step", *losses)  # now that weights are as they were
        self.step_along(total)

    def step_along(self, gradients: Sequence[Tensor | None]) -> None:
        """Step the logits along the mean over all processes of gradients, one for each of them or None."""
        parameters = self.parameters
        before = {label: p.detach().clone() for label, p in parameters.logits.items()}
        gradients = self.training.mean_where_any(gradients, list(parameters.logits.values()))
        if self.strategy.gradient_clip is not None:
            clip([gradient for gradient in gradients if gradient is not None], self.strategy.gradient_clip)
        parameters.step(gradients)
        with torch.no_grad():
            for label, p in parameters.logits.items():
                p.copy_(self.relaxation.settled(self.supernet.groups[label], before[label], p))
        self.watch.see("The outcome of the logits' step", *parameters.logits.values())


class LogitsExtra(Extra[GradientSearch]):
    """Base of extras that read or move logits; they work with differentiable strategies alone."""

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        if not isinstance(strategy, Differentiable):
            raise SpaceError(
                f"{type(self).__name__} reads the probabilities of candidates, and {type(strategy).__name__} "
                "learns none; use it with a differentiable strategy, such as DARTS()."
            )

    def mixture(self, group: Group, mixture: Mixture, moment: Moment) -> Mixture:
        """Return the mixture to use in place of `mixture`; random numbers come from `moment.generator`."""
        return mixture

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        """Return the loss whose gradient the logits follow, from their loss so far."""
        return loss


def derivation_of(by: Derivation | str, **settings: Any) -> Derivation:
    """Return a derivation.

    Args:
        by: The derivation: "probabilities", "strength", or an object.
        settings: Settings of an `OperationStrength`, or with "probabilities" those of a `Judge`.
    """
    if isinstance(by, Derivation):
        if settings:
            raise SpaceError(f"{by!r} has its settings; got also {sorted(settings)}.")
        return by
    require_one_of("derive", by, ("probabilities", "strength"))
    if by == "strength":
        return OperationStrength(**settings)
    return Judge(**settings) if settings else Derivation()
