"""One fresh Lightning Trainer per fit, made from the user's keyword arguments or from the user's own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from spacelang.errors import SpaceError
from spacelang.files import fresh_run_folder
from spacelang.language import Tunable

from .trial_loggers import logger_source

_WIDE = 130  # columns of a terminal on which a bar and its metrics fit into a line


@dataclass(frozen=True)
class TrainerSource(Tunable):
    """A source of Trainers: keyword arguments, or an unused Trainer to copy.

    A Trainer counts its epochs and steps over its whole life: one that has trained stops at once when
    asked to fit again. So none is ever used twice.
    """

    arguments: Mapping[str, Any]
    template: Trainer | None = None

    @property
    def max_epochs(self) -> int | None:
        """Epochs of one fit; None where the user set no limit."""
        if self.template is not None:
            return self.template.max_epochs
        epochs: int | None = self.arguments.get("max_epochs")
        return epochs

    def without_progress_bar(self) -> TrainerSource:
        """Return the same without Lightning's own bars, unless the user set them or passed a Trainer."""
        return replace(self, arguments={"enable_progress_bar": False, **self.arguments})


def trainer_source(trainer: Trainer | None, arguments: Mapping[str, Any]) -> TrainerSource:
    """Check the user's Trainer or arguments and keep an independent copy of them.

    Raises:
        SpaceError: Both a Trainer and arguments were passed, or the Trainer has already trained.
    """
    if trainer is None:
        _check_arguments(arguments)
        return TrainerSource(arguments=_copied(_with_logger_sources(arguments)))
    if not isinstance(trainer, Trainer):
        raise SpaceError(
            f"trainer is a {_full_name(trainer)}; expected a lightning.pytorch.Trainer "
            "(`from spacelang.evaluators import Trainer`; pytorch_lightning has another class of that name)"
        )
    if arguments:
        raise SpaceError(
            f"both a Trainer and Trainer arguments ({', '.join(arguments)}) were given; "
            "put the arguments into Trainer(...), or leave the Trainer out"
        )
    if trainer.fit_loop.epoch_progress.current.ready or trainer.global_step:
        raise SpaceError(
            f"the Trainer has already trained ({trainer.current_epoch} epochs, {trainer.global_step} steps) "
            "and would stop at once; pass a new Trainer(...)"
        )
    return TrainerSource(arguments={}, template=_copied_trainer(trainer))


def make_trainer(
    source: TrainerSource,
    *,
    callbacks: Sequence[Callback] = (),
    directory: str | Path | None = None,
    checkpoint_io: CheckpointIO | None = None,
    unused_parameters: bool = False,
) -> Trainer:
    """Make the Trainer of one fit; it writes below `directory` unless the user's own parts say otherwise.

    Args:
        source: The user's arguments or Trainer; not changed.
        callbacks: Callbacks to add after the user's, not copied; checkpoint callbacks come last.
        directory: Default folder of loggers and checkpoints; None means the user's `default_root_dir`
            or else a fresh one in the cache folder.
        checkpoint_io: How checkpoints are written and read.
        unused_parameters: See `Lightning.fit`.
    """
    if source.template is None:
        trainer = _from_arguments(source.arguments, callbacks, directory)
    else:
        trainer = _from_template(source.template, callbacks, directory)
    if checkpoint_io is not None:
        trainer.strategy.checkpoint_io = checkpoint_io
        _drop_default_checkpoints(trainer)
    if unused_parameters and isinstance(trainer.strategy, DDPStrategy):
        # Lightning spells this as another strategy name, which can no longer be given to a made Trainer.
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


def make_silent_trainer(source: TrainerSource, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Make a Trainer that measures only: it has no logger and no checkpoint callback, and writes nothing.

    `callbacks` are added after the user's.
    """
    trainer = _silent_trainer(source)
    _untyped(trainer).callbacks += callbacks
    return trainer


def _silent_trainer(source: TrainerSource) -> Trainer:
    if source.template is None:
        left_out = ("logger", "enable_checkpointing", "callbacks")
        arguments = {name: value for name, value in source.arguments.items() if name not in left_out}
        callbacks = [c for c in _listed(source.arguments.get("callbacks")) if not isinstance(c, Checkpoint)]
        arguments |= {"logger": False, "enable_checkpointing": False, "callbacks": callbacks}
        return Trainer(**_copied(arguments))
    trainer = _copied_trainer(source.template)
    trainer.loggers = []
    untyped = _untyped(trainer)
    untyped.callbacks = [c for c in untyped.callbacks if not isinstance(c, Checkpoint)]
    return trainer


def default_loggers(directory: Path) -> list[Logger]:
    """Return a CSV logger, and a TensorBoard logger if that is installed, both in `directory`/logs."""
    loggers: list[Logger] = [CSVLogger(directory / "logs", name="csv")]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(directory / "logs", name="tensorboard"))
    return loggers


def _from_arguments(
    given: Mapping[str, Any], callbacks: Sequence[Callback], directory: str | Path | None
) -> Trainer:
    arguments = _copied(given)
    root = Path(directory or arguments.get("default_root_dir") or fresh_run_folder())
    arguments["default_root_dir"] = root
    together = _merged(_listed(arguments.get("callbacks")), callbacks)
    arguments["callbacks"] = together
    if any(isinstance(callback, Checkpoint) for callback in callbacks):
        arguments["enable_checkpointing"] = True
    elif arguments.get("enable_checkpointing") is None:
        arguments["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in together)
    arguments.setdefault("enable_model_summary", False)  # of a supernet it is a thousand modules
    has_bar = any(isinstance(callback, ProgressBar) for callback in together)
    wants_bar = arguments.get("enable_progress_bar") is not False and not arguments.get("barebones")
    if wants_bar and not has_bar and get_terminal_size().columns < _WIDE:
        together.append(RichProgressBar(theme=RichProgressBarTheme(metrics_text_delimiter="\n")))
    logger = arguments.get("logger")
    if logger in (None, True) and not arguments.get("barebones"):
        arguments["logger"] = default_loggers(root)
    elif isinstance(logger, list):
        arguments["logger"] = [source.make() for source in logger]
    return Trainer(**arguments)


def _from_template(template: Trainer, callbacks: Sequence[Callback], directory: str | Path | None) -> Trainer:
    trainer = _copied_trainer(template)
    given_root = Path(template.default_root_dir)
    root = Path(directory or (given_root if given_root != Path.cwd() else fresh_run_folder()))
    untyped = _untyped(trainer)
    untyped._default_root_dir = str(root)  # has no public setter
    if _has_default_logger(template):
        trainer.loggers = default_loggers(root)
    untyped.callbacks = _merged(untyped.callbacks, callbacks)
    return trainer


def _drop_default_checkpoints(trainer: Trainer) -> None:
    """Remove the checkpoint callback every Trainer makes by itself: the caller keeps checkpoints."""
    untyped = _untyped(trainer)
    untyped.callbacks = [
        c
        for c in untyped.callbacks
        if not (type(c) is ModelCheckpoint and c.dirpath is None and c.monitor is None)
    ]


def _untyped(trainer: Trainer) -> Any:
    """Return the Trainer itself; Lightning makes these attributes where a type checker does not see them."""
    return trainer


def _has_default_logger(trainer: Trainer) -> bool:
    """Return whether the only logger is the one that `Trainer(logger=True)` makes in its root folder."""
    if len(trainer.loggers) != 1 or type(trainer.loggers[0]) not in (CSVLogger, TensorBoardLogger):
        return False
    logger = trainer.loggers[0]
    same_place = logger.save_dir is not None and Path(logger.save_dir) == Path(trainer.default_root_dir)
    return same_place and logger.name == "lightning_logs"


def _merged(users: Sequence[Callback], ours: Sequence[Callback]) -> list[Callback]:
    """Put `ours` after `users`, and checkpoint callbacks last.

    Lightning refuses two callbacks that would save their state under one key; ours then replaces the user's.
    """
    keys = {callback.state_key for callback in ours if isinstance(callback, Checkpoint)}
    kept = [c for c in users if not (isinstance(c, Checkpoint) and c.state_key in keys)]
    return sorted([*kept, *ours], key=lambda callback: isinstance(callback, Checkpoint))


def _listed(callbacks: Callback | Sequence[Callback] | None) -> list[Callback]:
    if callbacks is None:
        return []
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks)


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, Sequence) or callbacks is None:
        wrong = [callback for callback in callbacks or () if not isinstance(callback, Callback)]
    else:
        wrong = [] if isinstance(callbacks, Callback) else [callbacks]
    if wrong:
        raise SpaceError(f"callbacks holds {wrong[0]!r}; expected objects of lightning.pytorch.Callback")


def _with_logger_sources(arguments: Mapping[str, Any]) -> dict[str, Any]:
    logger = arguments.get("logger")
    loggers = [logger] if isinstance(logger, Logger) else logger
    if not isinstance(loggers, list | tuple):
        return dict(arguments)
    return {**arguments, "logger": [logger_source(logger) for logger in loggers]}


def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy together, so that an object used in two arguments stays one object."""
    try:
        return deepcopy(dict(arguments))
    except Exception as error:
        raise SpaceError(
            f"one of the Trainer's arguments ({', '.join(arguments)}) cannot be copied "
            f"({type(error).__name__}: {error}); every fit needs a copy of its own"
        ) from error


def _copied_trainer(trainer: Trainer) -> Trainer:
    """Copy a Trainer. The DummyLogger of `fast_dev_run` answers to every name, and so copies to None."""
    loggers: dict[int, Any] = {
        id(logger): DummyLogger() if isinstance(logger, DummyLogger) else logger_source(logger).make()
        for logger in trainer.loggers
    }
    try:
        return deepcopy(trainer, loggers)
    except Exception as error:
        raise SpaceError(
            f"the Trainer cannot be copied ({type(error).__name__}: {error}); "
            "every fit needs a copy of its own"
        ) from error


def _full_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# Advertisements; a deprecation inside Lightning; that a search shuffles the batches of its logits, as it
# must; that a small data set has few batches, or is loaded quickly enough without workers.
_WARNINGS = (
    r".*LeafSpec.* is deprecated",
    r".*sampler has shuffling enabled",
    r"The number of training batches .* is smaller than the logging interval",
    r".*does not have many workers",
    r".*`weights_only` was not set",
)
_MESSAGES = ("Tip:", "litlogger", "litmodels", "`weights_only` was not set")


class _Remarks(logging.Filter):
    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.level and not any(text in record.getMessage() for text in _MESSAGES)


@contextmanager
def quiet_lightning(level: int = logging.NOTSET) -> Iterator[None]:
    """Leave out these remarks and messages below a level; show everything else from Lightning."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch.utilities.rank_zero", "fabric")]
    remarks = _Remarks(level)
    for logger in loggers:
        logger.addFilter(remarks)
    try:
        with warnings.catch_warnings():
            for pattern in _WARNINGS:
                warnings.filterwarnings("ignore", message=pattern)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(remarks)
