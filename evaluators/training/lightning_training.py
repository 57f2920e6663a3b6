"""Evaluator that trains with any LightningModule and any data."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.utils._pytree import tree_leaves

from spacelang.arguments import refuse_unknown
from spacelang.errors import SpaceError
from spacelang.language import Tunable, require_decided
from spacelang.trials import Objective, Reporter, Trial

from .loaders import Loaders, check_loaders, made_loaders
from .trainer_settings import make_silent_trainer, make_trainer, quiet_lightning, trainer_source
from .trial_loggers import runs_of_trial

if TYPE_CHECKING:
    from spacelang.supernet import Supernet

    from ..untrained.inherited import Inherited

ModuleSource: TypeAlias = LightningModule | Callable[[nn.Module], LightningModule]


class Lightning(Tunable):
    """An evaluator that trains a model with a LightningModule, then returns the validation metrics.

    No argument is changed: each fit uses its own copy of the LightningModule and of the Trainer
    (its callbacks and loggers with it; the Trainer that `fit` returns holds the copies), and a shallow
    copy of the datamodule. Loaders are used as they are. So one evaluator serves any number of fits.

    Settings may be value choices, which each trial of a multi-trial search decides: Trainer arguments, the
    arguments of a `functools.partial` given as `module`, and what a LightningModule keeps as attributes. The
    class of a datamodule must inherit `spacelang.language.Tunable` to take part.

    Args:
        module: A LightningModule, which gets the model through its `set_model(model)`, or as its
            attribute `model` if it has no such method; or a callable `model -> LightningModule`.
        trainer: A lightning Trainer that has not trained yet; None to make one from `trainer_kwargs`.
        train_dataloaders: Training loaders, as in `Trainer.fit`, or functions that make them for each fit,
            such as `lambda batch_size: DataLoader(data, batch_size=batch_size)`.
        val_dataloaders: Validation loaders, likewise.
        batch_size: Batch size for those of the functions that have a parameter of this name.
        datamodule: A LightningDataModule, in place of the loaders.
        trainer_kwargs: Arguments of `Trainer`, such as `max_epochs=10, gradient_clip_val=5.`

    Raises:
        SpaceError: An argument is of the wrong kind, or two exclude each other: loaders and a datamodule, a
            Trainer and its arguments.
        ArgumentError: Neither the evaluator nor `Trainer` has an argument.

    Attributes:
        default_objective: Objective of a multi-trial search that sets none; None where one must be set.
    """

    default_objective: Objective | None = None

    def __init__(
        self,
        module: ModuleSource,
        trainer: Trainer | None = None,
        *,
        train_dataloaders: Loaders = None,
        val_dataloaders: Loaders = None,
        batch_size: int | None = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        refuse_unknown(type(self), trainer_kwargs, passed_to=Trainer)
        _check_source(module)
        _check_data(train_dataloaders, val_dataloaders, datamodule)
        check_loaders([train_dataloaders, val_dataloaders], batch_size)
        self.module = module
        self.train_dataloaders = train_dataloaders
        self.val_dataloaders = val_dataloaders
        self.batch_size = batch_size
        self.datamodule = datamodule
        self._source = trainer_source(trainer, trainer_kwargs)
        self._trial_folder: Path | None = None
        self._trial: Trial | None = None

    @property
    def max_epochs(self) -> int | None:
        """Epochs of one fit; None where the user set no limit."""
        return self._source.max_epochs

    def for_trial(self, directory: Path, trial: Trial) -> Self:
        """Return the same evaluator for one trial: it writes below `directory`, not to the terminal.

        Each of its loggers begins a run for the trial, with the architecture and the overrides as
        hyper-parameters, and ends it.
        """
        twin = copy(self)
        twin._source = self._source.without_progress_bar()
        twin._trial_folder = directory
        twin._trial = trial
        return twin

    def lightning_module(self, model: nn.Module) -> LightningModule:
        """Return a new LightningModule that holds `model` itself and trains it.

        Raises:
            SpaceError: `model` is not a module or is still a space, the LightningModule does not hold it, or
                settings are still to be chosen.
        """
        require_decided(self, "The trials of an Experiment do so; to train a model yourself, use")
        _check_model(model)
        if isinstance(self.module, LightningModule):
            return _with_model(deepcopy(self.module), model)
        made = self.module(model)
        if not isinstance(made, LightningModule):
            raise SpaceError(
                f"the callable given to Lightning returned a {type(made).__name__}; "
                "expected a lightning.pytorch.LightningModule"
            )
        return _holding(made, model)

    def fit(
        self,
        model: nn.Module,
        *,
        callbacks: Sequence[Callback] = (),
        directory: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        checkpoint_io: CheckpointIO | None = None,
        unused_parameters: bool = False,
    ) -> Trainer:
        """Train `model` in place.

        Args:
            model: A plain module or a supernet; the object itself is trained.
            callbacks: Callbacks to add to the user's; used themselves, not copied.
            directory: Folder for everything that is written, with logs in `logs/`. Default: the user's
                `default_root_dir`, else a fresh folder in `runs/` of the cache folder. Loggers and
                checkpoint callbacks that were made with folders of their own keep them.
            ckpt_path: Checkpoint to continue from; read with `weights_only=True`, so it can run no code.
            checkpoint_io: How checkpoints are written and read, in place of Lightning's way.
            unused_parameters: Whether a step may leave parameters unused, as sampled paths of a supernet do;
                DDP then looks for them.

        Returns:
            The Trainer that was used; `trainer.callback_metrics` holds the last metrics.

        Raises:
            SpaceError: `model` is not a module or is still a space, or there is no training data.
            KeyboardInterrupt: On Ctrl-C, once Lightning has shut down.
        """
        module = self.lightning_module(model)
        self._check_training_data(module)
        with self._quiet():
            trainer = make_trainer(
                self._source,
                callbacks=callbacks,
                directory=directory or self._trial_folder,
                checkpoint_io=checkpoint_io,
                unused_parameters=unused_parameters,
            )
            with nullcontext() if self._trial is None else runs_of_trial(trainer.loggers, self._trial):
                _fit(
                    trainer,
                    module,
                    train_dataloaders=self.training_loaders(),
                    val_dataloaders=made_loaders(self.val_dataloaders, self.batch_size),
                    # `setup` stores data sets in the datamodule, and the Trainer stores itself: in a copy's.
                    datamodule=copy(self.datamodule),
                    ckpt_path=ckpt_path,
                )
        return trainer

    def evaluate(self, model: nn.Module, report: Reporter | None = None) -> dict[str, float]:
        """Train `model` in place, then return its validation metrics.

        These are the metrics whose names begin with `val`; where there is none, all that do not begin
        with `train`.

        Args:
            model: A plain module or a supernet.
            report: Called with the metrics and the epoch's number (from 0) after each validation epoch.

        Raises:
            SpaceError: No validation metric was logged.
        """
        callbacks = [] if report is None else [_EpochReports(report)]
        trainer = self.fit(model, callbacks=callbacks)
        return _checked_metrics(trainer)

    def validate(self, model: nn.Module, *, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
        """Return validation metrics, as `evaluate` does, without training. Writes nothing.

        Args:
            model: A plain module or a supernet.
            callbacks: Callbacks to add to the user's; used themselves, not copied.

        Raises:
            SpaceError: No validation metric was logged.
        """
        module = self.lightning_module(model)
        with self._quiet():
            trainer = make_silent_trainer(self._source, callbacks)
            loaders = made_loaders(self.val_dataloaders, self.batch_size)
            trainer.validate(module, loaders, datamodule=copy(self.datamodule), verbose=False)
        return _checked_metrics(trainer)

    def test(self, model: nn.Module, dataloaders: Loaders) -> dict[str, float]:
        """Run `test_step` over `dataloaders` without training; return what it logs. Writes nothing."""
        module = self.lightning_module(model)
        if not is_overridden("test_step", module):
            raise SpaceError(
                f"{type(module).__name__} has no test_step; write one that logs the test metrics"
            )
        with quiet_lightning():
            results = make_silent_trainer(self._source).test(module, dataloaders=dataloaders, verbose=False)
        return {name: float(value) for result in results for name, value in result.items()}

    def inherited(self, supernet: Supernet, *, calibration_batches: int = 20) -> Inherited:
        """Return an evaluator that measures architectures with a supernet's weights; see `Inherited`."""
        from ..untrained.inherited import Inherited  # late: few need it

        return Inherited(supernet, self, calibration_batches=calibration_batches)

    def training_loaders(self) -> Loaders:
        """Return the training loaders, made now where functions make them; None where there are none."""
        return made_loaders(self.train_dataloaders, self.batch_size)

    def _quiet(self) -> AbstractContextManager[None]:
        return quiet_lightning(logging.NOTSET if self._trial_folder is None else logging.WARNING)

    def _check_training_data(self, module: LightningModule) -> None:
        has_own = is_overridden("train_dataloader", module)
        if self.train_dataloaders is None and self.datamodule is None and not has_own:
            raise SpaceError("there is no training data; pass train_dataloaders= or datamodule=")
        for loader in tree_leaves(self.train_dataloaders):
            if sized_len(loader) == 0:
                raise SpaceError(f"a training loader has no batch: {_why_empty(loader)}.")


def _why_empty(loader: Any) -> str:
    """Return the sizes of a loader's data set and batches, as far as it has them."""
    dataset, batch_size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    if not isinstance(dataset, Sized):
        return f"the length of the {type(loader).__name__} is 0"
    dropped = f", less than a batch of {batch_size}, and drop_last=True" if len(dataset) else ""
    return f"its data set has {len(dataset)} samples{dropped}"


class _EpochReports(Callback):
    """A callback that calls `report(metrics, epoch)` after each validation epoch."""

    def __init__(self, report: Reporter) -> None:
        self.report = report

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.report(validation_metrics(trainer), trainer.current_epoch)


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """Return a Trainer's last validation metrics by name; the rule is in `Lightning.evaluate`."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    chosen = {name: value for name, value in metrics.items() if name.startswith("val")}
    return chosen or {name: value for name, value in metrics.items() if not name.startswith("train")}


def _checked_metrics(trainer: Trainer) -> dict[str, float]:
    metrics = validation_metrics(trainer)
    if not metrics:
        logged = ", ".join(trainer.callback_metrics) or "nothing"
        raise SpaceError(
            f"no validation metric; logged were: {logged}. Pass val_dataloaders= (or a datamodule with "
            "them), and call self.log('val_...', value) in validation_step"
        )
    return metrics


def _fit(trainer: Trainer, module: LightningModule, **arguments: Any) -> None:
    """Call `trainer.fit`; turn Lightning's way of ending on Ctrl-C back into a KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, weights_only=True, **arguments)
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning leaves the signal ignored
        raise KeyboardInterrupt from None


def _with_model(module: LightningModule, model: nn.Module) -> LightningModule:
    """Set `model` in a LightningModule that may be changed."""
    set_model = getattr(module, "set_model", None)
    if callable(set_model):
        set_model(model)
        return _holding(module, model)
    if not hasattr(module, "model") and any(True for _ in module.parameters()):
        raise SpaceError(
            f"{type(module).__name__} has parameters of its own, and neither set_model(model) nor an "
            "attribute `model`: it would train them instead. Write `self.model = None` in its __init__ and "
            "use self.model, or pass Lightning a callable `model -> LightningModule`"
        )
    module.model = model
    if module.model is not model:  # a class attribute of that name hides the submodule
        raise SpaceError(
            f"{type(module).__name__} has a class attribute `model`, which hides the model to train; write "
            "`self.model = None` in its __init__ instead"
        )
    return _holding(module, model)


def _holding(module: LightningModule, model: nn.Module) -> LightningModule:
    if any(part is model for part in module.modules()):
        return module
    raise SpaceError(
        f"{type(module).__name__} does not hold the model to train, so it would train something else; "
        "assign it to an attribute (self.model = model), unchanged"
    )


def _check_source(module: object) -> None:
    if isinstance(module, LightningModule):
        return
    if isinstance(module, nn.Module) or not callable(module):
        raise SpaceError(
            f"module is a {type(module).__module__}.{type(module).__qualname__}; expected a "
            "lightning.pytorch.LightningModule or a callable `model -> LightningModule` "
            "(`from spacelang.evaluators import LightningModule`)"
        )


def _check_data(train: Loaders, validation: Loaders, datamodule: object) -> None:
    if datamodule is None:
        return
    if not isinstance(datamodule, LightningDataModule):
        raise SpaceError(f"datamodule is a {type(datamodule).__name__}; expected a LightningDataModule")
    if train is not None or validation is not None:
        raise SpaceError("both dataloaders and a datamodule were passed; pass one of the two")


def _check_model(model: object) -> None:
    from spacelang.language import is_frozen
    from spacelang.supernet import Supernet

    if not isinstance(model, nn.Module):
        hint = " Pass an object of the class, not the class." if isinstance(model, type) else ""
        raise SpaceError(f"the model to train is {model!r}; expected an nn.Module.{hint}")
    if not is_frozen(model) and not isinstance(model, Supernet):
        raise SpaceError(
            f"the model to train is the space {type(model).__name__}, with choices still open; train "
            "`space.freeze(arch)`, a model built within `model_context(arch)`, or a `Supernet(space)`"
        )
