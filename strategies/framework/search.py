"""One-shot strategies, their extras, and the callback that searches while a Trainer trains the supernet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import TypeVar

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.experiment import multiply_rates
from spacelang.language import Architecture
from spacelang.randomness import torch_generator
from spacelang.supernet import Supernet

from .relaxation import Moment
from .scoring import Scorer, untouched
from .stages import load_optimizer_states, optimizer_states
from .trainer import NOTHING_TRAINED, Training
from .watch import Watch

Scored: TypeAlias = tuple[float, Architecture]
"""A measured architecture: `(mean loss or metric, architecture)`."""


@dataclass(frozen=True, kw_only=True)
class OneShot(KnownArguments):
    """Base of strategies that search while a supernet is trained.

    It holds settings only, so one object serves many searches.

    Args:
        extras: Early stops, dropout, penalties and monitors, applied in this order.
        metric: Name of a metric that the module's `validation_step` logs, by which networks are compared
            where the search measures them (`OneShotSearch.scorer`). None compares by the module's own
            training loss, in evaluation mode, on validation batches; less is better.
        mode: Whether "max" or "min" of `metric` is best.
    """

    extras: tuple[Extra, ...] = ()
    metric: str | None = None
    mode: Literal["max", "min"] | None = None

    def __post_init__(self) -> None:
        for extra in self.extras:
            if not isinstance(extra, Extra):
                raise SpaceError(
                    f"extras holds {extra!r}; expected objects such as spacelang.strategies.StopOnSkips()."
                )
        if (self.metric is None) != (self.mode is None) or self.mode not in (None, "max", "min"):
            raise SpaceError(
                f"metric={self.metric!r} and mode={self.mode!r}; a metric needs mode='max' or mode='min'. "
                "Without a metric both are None: the loss is compared, and less is better."
            )

    def best_first(self, scored: Iterable[Scored]) -> list[Scored]:
        """Sort by the metric or loss; NaN comes last."""
        sign = -1 if self.mode == "max" else 1
        return sorted(scored, key=lambda pair: (math.isnan(pair[0]), sign * pair[0]))

    @property
    def stages(self) -> int:
        """Number of searches that follow one another, each with a supernet of its own."""
        return 1

    @property
    def samples_paths(self) -> bool:
        """Whether a step may leave candidates, and so weights, unused."""
        return any(extra.drops_candidates for extra in self.extras)

    @property
    def carries_optimizers(self) -> bool:
        """Whether optimisers and schedulers continue from stage to stage, in place of beginning again."""
        return False

    def epochs_of(self, stage: int) -> int | None:
        """Return the number of epochs of a stage; None for that of the Trainer."""
        return None

    def learning_rate_of(self, stage: int) -> float | None:
        """Return the rate with which the weights begin a stage; None for that of the module's optimisers.

        The rates of all groups and schedulers are multiplied so that the first group's is this one.
        """
        return None

    def extras_of(self, stage: int) -> tuple[Extra[Any], ...]:
        """Return the extras of a stage: the user's, and after them any that are part of the strategy."""
        return self.extras

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        """Return a stage's network, its weights drawn from torch's generator; `space` stays as it is."""
        return Supernet(space.rebuild())

    def check(self, supernet: Supernet) -> None:
        """Refuse, before any training, choices that this strategy cannot search.

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
        self.refuse(
            refusals,
            "trains one network",
            "Use a multi-trial strategy, or give them one value in the space. Where a `forward` reads such a "
            "value, make a layer of what it computes, and pass the value to that: "
            "`class ElasticScale(spacelang.nn.ValueLayer): layer_type = Scale`.",
        )

    def refuse(self, refusals: Iterable[str], reason: str, instead: str) -> None:
        """Raise a `SpaceError` that lists `refusals`, one a line, if there are any.

        Args:
            refusals: Choices that cannot be searched, each with its place.
            reason: Verb phrase that follows the strategy's name.
            instead: Advice, as a sentence.
        """
        lines = "".join(f"\n  {refusal}" for refusal in refusals)
        if lines:
            raise SpaceError(
                f"{type(self).__name__} {reason}, so it cannot search these choices:{lines}\n{instead}"
            )

    def unused_features(self, supernet: Supernet) -> list[str]:
        """Return sentences on defining features of this strategy that the space leaves without effect.

        The search warns of them once, when it begins.
        """
        return []

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
            supernet: Network to search, made by `strategy.supernet(space)`.
            seed: Seeds every random draw of the search.
            stage: Number of the stage, from 0; see `stages`.
            previous: The finished search of the stage before.
            val_dataloader: Batches of the search; the Trainer's validation loader by default.

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
        """Return the search for `attach`; `previous` is None in the first stage."""
        raise NotImplementedError(f"{type(self).__name__} must say how it searches")


class OneShotSearch(pl.Callback):
    """One search: a Lightning callback for a LightningModule that trains a supernet.

    It works with any module under automatic optimisation. Kinds of search (`GradientSearch`, `PathSearch`)
    differ in what they do before a training batch and in how they derive architectures. Everything that a
    search must remember is in `state_dict`.

    Args:
        strategy: The settings.
        supernet: The network being trained.
        seed: Seeds every random draw of the search.
        stage: Number of the stage, from 0.
        val_dataloader: Batches of the search; the Trainer's (first) validation loader by default.

    Attributes:
        extras: The strategy's extras in this stage.
        records: Numbers kept over the epochs, by name.
        stopped: Why the search ended early; empty while it has not.
        moment: The present epoch and its generator.
        ending: State of optimisers and schedulers at the end of training, if a later stage continues with it.
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
        self.strategy = strategy
        self.supernet = supernet
        self.seed = seed
        self.stage = stage
        self.extras = strategy.extras_of(stage)
        self.records: dict[str, list[float]] = {}
        self.stopped = ""
        self.moment = Moment(0, 1, torch_generator(seed, stage))
        self.ending: dict[str, Any] | None = None
        self._beginning: tuple[dict[str, Any], Mapping[str, Mapping[int, Tensor]]] | None = None
        self._training: Training | None = None
        self._watch: Watch | None = None
        self._val_dataloader = val_dataloader

    # -- results -------------------------------------------------------------------------------------

    def derive(self, count: int = 1) -> list[Architecture]:
        """Return the `count` best architectures, best first."""
        raise NotImplementedError(f"{type(self).__name__} must say how it derives architectures")

    @property
    def is_last_stage(self) -> bool:
        """Whether no other stage follows."""
        return self.stage + 1 == self.strategy.stages

    def conclude(self) -> None:
        """Act when the training of this stage has ended, before an architecture is derived."""

    def warn_if_dead(self) -> None:
        """Warn if no signal gets through the derived architecture; only one with a "none" is looked at."""
        arch = self.derive()[0]
        if "none" not in arch.values():
            return
        with self.scorer() as scorer:
            if scorer.is_dead(arch):
                rank_zero_warn(
                    f"{type(self.strategy).__name__} derived a dead network: its outputs are the same for "
                    "every sample of a validation batch, so no path carries a signal from input to output. "
                    "Search longer, or without zero operations; search.derive(5) has the next best."
                )

    def summary(self) -> dict[str, Any]:
        """Return plain values for a report."""
        return {
            **({"stopped": self.stopped} if self.stopped else {}),
            **({"records": self.records} if self.records else {}),
        }

    def tables(self) -> dict[str, list[list[float]]]:
        """Return the present probabilities by group label, rows x columns; nothing where none are learned."""
        return {}

    # -- for extras and kinds of search ----------------------------------------------------------------

    @property
    def training(self) -> Training:
        """The Trainer and module of the present fit.

        Raises:
            SpaceError: there is none.
        """
        if self._training is None:
            raise SpaceError("no Trainer is fitting this search; call Trainer.fit with it as a callback.")
        return self._training

    @property
    def watch(self) -> Watch:
        """Watch over the present fit, which ends it when a number is not finite.

        Raises:
            SpaceError: there is no fit.
        """
        self.training  # noqa: B018  (raises)
        assert self._watch is not None
        return self._watch

    def deciding(self) -> dict[str, Tensor]:
        """Return the logits, or other learned numbers that decide the architecture, by name."""
        return {}

    @contextmanager
    def scorer(self, calibration_batches: int = 0, *, of_batch: bool = False) -> Iterator[Scorer]:
        """Yield a `Scorer` that measures the supernet by the strategy's `metric`, or by the loss.

        In the end the mixture or selected architecture, buffers, modes and global generators are as they
        were.

        Args:
            calibration_batches: Training batches from which batch-norm statistics are estimated for each
                measurement; 0 keeps the statistics of training.
            of_batch: Whether batch norms use the statistics of each batch instead.
        """
        with untouched(self.training.module, self.supernet):
            metric = self.strategy.metric
            yield Scorer(self.training, self.supernet, metric, calibration_batches, of_batch)

    def record(self, name: str, value: float) -> None:
        """Keep a number of this epoch and log it."""
        self.records.setdefault(name, []).append(value)
        self.training.log({name: value})

    def stop(self, reason: str) -> None:
        """End the search after this epoch."""
        self.stopped = reason
        self.training.trainer.should_stop = True

    def continue_optimizers(
        self, previous: OneShotSearch, copied: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        """Begin with the optimisers and schedulers that the search of the stage before ended with.

        Args:
            previous: The search of the stage before; one that was not trained leaves nothing to continue.
            copied: Entries by parameter name of the supernet, see `load_optimizer_states`.
        """
        if self.strategy.carries_optimizers and previous.ending is not None:
            self._beginning = previous.ending, copied

    def enlarge_batches(self, samples: int) -> None:
        """Add `samples` to the size of training and validation batches, from the next epoch on."""
        self.training.enlarge_batches(samples)

    # -- Lightning hooks -----------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the number of epochs of this stage, before optimisers and schedulers are made."""
        epochs = self.strategy.epochs_of(self.stage)
        if stage == "fit" and epochs is not None:
            trainer.fit_loop.max_epochs = epochs

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the module can be searched."""
        self._training = Training(trainer, pl_module, self._val_dataloader)
        self._watch = Watch(self._training, self.deciding)
        self.training.check(self.supernet)
        if self._beginning is not None:  # a checkpoint of this stage, if any, is loaded after this hook
            states, copied = self._beginning
            prefix = next(name for name, child in pl_module.named_modules() if child is self.supernet)
            inside = {f"{prefix}.{name}": sources for name, sources in copied.items()}
            load_optimizer_states(trainer, pl_module, states, inside)
        transforming = [extra for extra in self.extras if type(extra).transform is not Extra.transform]

        def transform(candidate: nn.Module, output: Tensor) -> Tensor:
            for extra in transforming:
                output = extra.transform(candidate, output, self.moment)
            return output

        of = tuple({kind for extra in transforming for kind in extra.transforms})
        self.supernet.set_transform(transform if transforming else None, of)
        if self.stopped:
            trainer.should_stop = True  # resumed after its end

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are validation batches, before anything is trained or saved."""
        self.training.validation_loader()
        rate = self.strategy.learning_rate_of(self.stage)
        if rate is not None and trainer.global_step == 0:  # a resumed stage has it already
            for optimizer in trainer.optimizers:
                first = optimizer.param_groups[0]
                factor = rate / float(first.get("initial_lr", first["lr"]))
                multiply_rates(trainer, optimizer, [factor] * len(optimizer.param_groups))
        if self.stage == 0 and trainer.global_step == 0:  # once, and not again when a search is resumed
            for sentence in self.strategy.unused_features(self.supernet):
                rank_zero_warn(f"{type(self.strategy).__name__}: {sentence}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new pass over the validation batches; seed the draws of the epoch."""
        self.training.begin_epoch()
        # The same on every rank, and known from the epoch alone: a resumed search draws what it would have.
        generator = torch_generator(self.seed, self.stage, trainer.current_epoch)
        self.moment = Moment(trainer.current_epoch, trainer.max_epochs or 1, generator)
        for extra in self.extras:
            extra.epoch_start(self)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Watch the loss that trains the weights."""
        self.watch.see("The loss of the weights' step", loss)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the extras act."""
        for extra in self.extras:
            extra.epoch_end(self)
        self.watch.look_at_everything()  # before the next checkpoint

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Conclude the stage; keep the state of optimisers and schedulers for the next one."""
        self.conclude()
        if self.is_last_stage:
            self.warn_if_dead()
        elif self.strategy.carries_optimizers:
            self.ending = optimizer_states(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the Trainer.

        Raises:
            SpaceError: it trained nothing, for a reason that could not be seen before.
        """
        self.let_go()
        if trainer.global_step == 0:
            raise SpaceError(NOTHING_TRAINED.format(reason="its training data have no batch"))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let go of the Trainer."""
        if self._training is not None:
            self.let_go()

    def let_go(self) -> None:
        """Let go of the Trainer, at the end of a fit and after an exception in it."""
        self.training.close()
        self._training = self._watch = None
        self.supernet.set_transform(None)

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that pruning and extras have done."""
        return {
            "alive": {label: torch.tensor(group.alive) for label, group in self.supernet.groups.items()},
            "records": {name: list(values) for name, values in self.records.items()},
            "stopped": self.stopped,
            **({} if self.ending is None else {"ending": self.ending}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.supernet.prune({label: alive.tolist() for label, alive in state["alive"].items()})
        self.records = {name: list(values) for name, values in state["records"].items()}
        self.stopped = state["stopped"]
        self.ending = state.get("ending")


# The default lets hints say `Extra`: from `Extra[Any]` jsonargparse would make objects of the base class.
Search = TypeVar("Search", bound=OneShotSearch, contravariant=True, default=Any)
"""The kind of search that an extra works with."""


class Extra(Generic[Search]):
    """Base of extras that work with a kind of search; each method does nothing until a subclass replaces it.

    An extra is a frozen dataclass of settings: its memory is the search's records. One that reads or moves
    logits is a `LogitsExtra`.

    Attributes:
        drops_candidates: Whether a step may leave candidates, and so weights, unused.
        transforms: Classes of the candidates whose outputs `transform` changes.
    """

    drops_candidates: ClassVar[bool] = False
    transforms: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        """Raise a `SpaceError`, before training, where this extra does not work."""

    def epoch_start(self, search: Search) -> None:
        """Act before the first batch of an epoch, `search.moment.epoch`."""

    def transform(self, candidate: nn.Module, output: Tensor, moment: Moment) -> Tensor:
        """Return a candidate's output as it is to be weighted; not called unless it is overridden."""
        return output

    def epoch_end(self, search: Search) -> None:
        """Act after the training of an epoch, when its probabilities are in `search.history`."""
