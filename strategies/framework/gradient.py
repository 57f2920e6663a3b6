"""Differentiable strategies, their search, their schedules, and extras that read or move logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from spacelang import SpaceError
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Group, Supernet

from .derivation import top_architectures
from .logits import ArchitectureParameters
from .relaxation import Mixture, Moment, Phase, Relaxation, running
from .search import Extra, OneShot, OneShotSearch, Scored
from .trainer import release
from .update import FirstOrder, Step, Update, clip


@dataclass(frozen=True, kw_only=True)
class Differentiable(OneShot):
    """Base of gradient-based strategies.

    Args:
        learning_rate: Adam's learning rate for the logits.
        betas: Adam's decay rates of its two moments.
        weight_decay: Adam's weight decay, which pulls logits towards the uniform mixture.
        init_scale: Scale of the first logits, `init_scale * N(0, 1)`.
        warmup_epochs: Epochs at the start that train weights alone.
        update_every: Steps of the weights per step of the logits.
        weights_first: Whether a step of the logits follows its steps of the weights, or precedes them.
        gradient_clip: Largest norm of the gradient of all logits; None for no limit.
    """

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    init_scale: float = 1e-3
    warmup_epochs: int = 0
    update_every: int = 1
    weights_first: bool = False
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("learning_rate", self.learning_rate, above=0)
        require_all(require_number, self, "weight_decay", "init_scale", least=0)
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
    def relaxation(self) -> Relaxation:
        """How logits become mixtures."""
        raise NotImplementedError(f"{type(self).__name__} must say its relaxation")

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

    def make_optimizer(self, logits: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimiser of the logits."""
        return torch.optim.Adam(
            logits, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )

    def moves_logits(self, epoch: int) -> bool:
        """Return whether logits take steps in an epoch; otherwise it trains weights alone."""
        return epoch >= self.warmup_epochs

    def make_schedule(self) -> Schedule:
        """Return a new schedule, which acts between the epochs of one search."""
        return Schedule()

    def derive(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        """Return the `count` best architectures, best first, from tables of probabilities."""
        return top_architectures(supernet, probabilities, count)

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self.refuse(
            supernet.soft_refusals(),
            "mixes candidates",
            "Strategies that train one path at a time can: RandomOneShot, SPOS, ENAS. Or use a LayerChoice "
            "in their place, or give them one value in the space's constructor.",
        )

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        return GradientSearch(self, supernet, **settings)


class GradientSearch(OneShotSearch):
    """A search of logits.

    Before the first training batch of each optimiser step (after the last with `weights_first`) it takes
    validation batches (as many as gradients are accumulated over), computes the module's own `training_step`
    on them, and steps the logits along the mean gradient; then it hands the supernet the mixture without
    gradient for the weights. Weight gradients are never computed for the logits' step, nor logit gradients
    for the weights'. In a single-level search there is no such step: the backward pass of the weights also
    has the gradient of the logits.

    Args:
        strategy, supernet, seed, stage, val_dataloader: See `OneShotSearch`.
        relaxation: Relaxation to use in place of the strategy's.

    Attributes:
        parameters: The logits and their moments, by group label.
        schedule: Acts between epochs.
        history: Table of probabilities after each epoch, by group label.
        ranked: Tables that are derived in place of the present probabilities; None for these.
        judged: Measured architectures, best first, that come before those of the tables.
        best_of_epochs: Most probable architecture after each epoch.
    """

    strategy: Differentiable

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
            make_optimizer=strategy.make_optimizer,
        )
        self.schedule = strategy.make_schedule()
        self.history: dict[str, list[Tensor]] = {label: [] for label in supernet.groups}
        self.ranked: dict[str, Tensor] | None = None
        self.judged: list[Scored] = []
        self.best_of_epochs: list[Architecture] = []
        self._joint = False  # whether the present step of the weights is one of the logits too

    # -- results -------------------------------------------------------------------------------------

    def probabilities(self) -> dict[str, Tensor]:
        """Return the tables that derivation ranks, by group label, (rows, columns), detached."""
        groups = self.supernet.groups
        with torch.no_grad():
            return {x: self.relaxation.probabilities(groups[x], p) for x, p in self.parameters.logits.items()}

    def tables(self) -> dict[str, list[list[float]]]:
        """Return `probabilities` as plain numbers."""
        return {label: table.tolist() for label, table in self.probabilities().items()}

    def distributions(self) -> dict[str, Tensor]:
        """Return `Relaxation.distribution` of every group, by label, (rows, columns).

        They are differentiable in the logits that the present step may move.
        """
        groups = self.supernet.groups
        return {x: self.relaxation.movable(groups[x], p) for x, p in self.parameters.logits.items()}

    def edge_shares(self) -> dict[str, Tensor]:
        """Return `Relaxation.edge_shares` of the cells that weigh their edges, by label, (rows,)."""
        groups = self.supernet.groups
        shares = {x: self.relaxation.edge_shares(groups[x], p) for x, p in self.parameters.logits.items()}
        return {label: share for label, share in shares.items() if share is not None}

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures: those that were judged, then the most probable."""
        require_integer("count", count, least=1)
        found = [dict(arch) for _, arch in self.judged[:count]]
        if len(found) < count:
            tables = self.probabilities() if self.ranked is None else self.ranked
            known = [self.supernet.decision_space.canonical(arch) for arch in found]
            others = self.strategy.derive(self.supernet, tables, count + len(found))
            found += [arch for arch in others if self.supernet.decision_space.canonical(arch) not in known]
        return found[:count]

    def rank(self, tables: Mapping[str, Tensor]) -> None:
        """Derive from other numbers than probabilities: tables of what is at least 0, by group label."""
        self.ranked = {label: table.detach().cpu() for label, table in tables.items()}

    def return_to(self, epoch: int) -> None:
        """Derive from the probabilities after an earlier epoch; the weights stay as they are."""
        self.rank({label: past[epoch] for label, past in self.history.items()})

    def summary(self) -> dict[str, Any]:
        """Return plain values for a report."""
        judged = [{"value": value, "architecture": arch} for value, arch in self.judged[:10]]
        return {
            **super().summary(),
            **self.schedule.summary(self),
            **({"compared_by": self.strategy.metric or "loss", "judged": judged} if judged else {}),
            "best_of_epochs": self.best_of_epochs,
        }

    # -- Lightning hooks -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the module to its device; add the strategy's own terms to its loss."""
        super().on_fit_start(trainer, pl_module)
        self.parameters.to(pl_module.device)
        if self.strategy.single_level or type(self.strategy).objective is not Differentiable.objective:
            self.training.replace_loss(self._weights_loss)
        self.mix("weights")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule begin, or continue."""
        super().on_train_start(trainer, pl_module)
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
        self._record_probabilities()
        self.best_of_epochs += self.derive(1)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a mixture without gradient; see also `OneShotSearch`."""
        if self._joint:
            self._joint = False
            self.mix("weights")
        super().on_train_end(trainer, pl_module)

    def _record_probabilities(self) -> None:
        metrics: dict[str, float] = {}
        for label, table in self.probabilities().items():
            group, table = self.supernet.groups[label], table.cpu()
            self.history[label].append(table)
            for row, values in zip(group.rows, table.tolist(), strict=True):
                place = f"{label}/{row}" if row else label
                metrics |= {f"alpha/{place}/{c}": p for c, p in zip(group.columns, values, strict=True)}
        self.training.log(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return also logits, moments and the history of probabilities."""
        return {
            **super().state_dict(),
            **self.parameters.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": {label: torch.stack(tables) for label, tables in self.history.items() if tables},
            "ranked": self.ranked,
            "judged": [[value, dict(arch)] for value, arch in self.judged],
            "best_of_epochs": list(self.best_of_epochs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.parameters.load_state_dict(state)
        self.history = {label: list(state["history"].get(label, ())) for label in self.supernet.groups}
        self.ranked = state["ranked"]
        self.judged = [(value, arch) for value, arch in state["judged"]]
        self.best_of_epochs = list(state["best_of_epochs"])
        self.schedule.load_state_dict(state["schedule"])
        super().load_state_dict(state)
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
        """Return mixtures of the present logits by group label; a random relaxation draws again."""
        moment = dataclasses.replace(self.moment, phase=phase)
        groups = self.supernet.groups
        with torch.set_grad_enabled(phase == "logits" or self._joint):
            made = {
                label: self.relaxation.mixture(groups[label], logits, moment)
                for label, logits in self.parameters.logits.items()
            }
            return self.altered(made, phase)

    def altered(self, mixtures: Mapping[str, Mixture], phase: Phase) -> dict[str, Mixture]:
        """Return mixtures as the extras want them, by group label."""
        moment, made = dataclasses.replace(self.moment, phase=phase), dict(mixtures)
        for label in made:
            for extra in self.extras:
                if isinstance(extra, LogitsExtra):
                    made[label] = extra.mixture(self.supernet.groups[label], made[label], moment)
        return made

    def compute_with(self, mixtures: Mapping[str, Mixture]) -> None:
        """Hand the supernet mixtures by group label; groups left out keep theirs."""
        self.supernet.set_mixture(
            {label: mixture.weights for label, mixture in mixtures.items()},
            {label: mixture.active for label, mixture in mixtures.items() if mixture.active is not None},
            edges={label: mixture.edges for label, mixture in mixtures.items() if mixture.edges is not None},
            adds_gates=any(mixture.adds_gates for mixture in mixtures.values()),
            silent={x: mixture.silent for x, mixture in mixtures.items() if mixture.silent is not None},
        )

    def deciding(self) -> dict[str, Tensor]:
        """Return the logits by group label."""
        return dict(self.parameters.logits)

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


def runs_several(strategy: OneShot, supernet: Supernet) -> bool:
    """Return whether the weights are trained with more than one candidate of some edge or choice."""
    if not isinstance(strategy, Differentiable):
        return False
    moment, relaxation = Moment(0, 1, torch.Generator()), strategy.relaxation
    return any(
        bool((running(group, mixture).sum(dim=1) > 1).any())
        for group in supernet.groups.values()
        for mixture in [relaxation.mixture(group, torch.zeros(relaxation.shape(group)), moment)]
    )


class Schedule:
    """Base of schedules, which act between epochs; this one does nothing. One object belongs to one search.

    State is made of tensors, numbers, strings, lists and dicts, so that a checkpoint can hold it.
    """

    def epochs_needed(self, search: GradientSearch) -> int | None:
        """Return how many epochs this schedule takes to finish; None where any number will do."""
        return None

    def train_start(self, search: GradientSearch) -> None:
        """Act before the first epoch of a fit, which may be a resumed one."""

    def epoch_start(self, search: GradientSearch, epoch: int) -> None:
        """Act before the first batch of an epoch."""

    def epoch_end(self, search: GradientSearch, epoch: int) -> None:
        """Act after the training of an epoch, before its probabilities are recorded."""

    def summary(self, search: GradientSearch) -> dict[str, Any]:
        """Return plain values for a report."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
