"""Loggers of trials: a run of its own for each trial, whatever the logger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.loggers import Logger

from spacelang.trials import Trial

# What the loggers of Lightning remember of a run that was begun.
_OF_A_RUN = {"_experiment": None, "_id": None, "_run_id": None, "_initialized": False}
_ENDS = ("finish", "end", "stop")  # Weights & Biases, Comet, Neptune; Lightning itself ends the others


@dataclass(frozen=True)
class LoggerSource:
    """A source of loggers that have not begun a run, made from the user's.

    It can be copied and sent to other processes. A logger cannot always: that for Weights & Biases begins a
    run when it is copied, and its copies continue that run.

    Args:
        kind: Class of the logger.
        attributes: Its attributes.
    """

    kind: type[Logger]
    attributes: Mapping[str, Any]

    def make(self) -> Logger:
        """Return a new logger."""
        logger = self.kind.__new__(self.kind)
        vars(logger).update(deepcopy(dict(self.attributes)))
        return logger


def logger_source(logger: Logger) -> LoggerSource:
    """Return a source of loggers like this one; it is not changed."""
    attributes = {name: None if name == "_experiment" else value for name, value in vars(logger).items()}
    return LoggerSource(type(logger), deepcopy(attributes))


@contextmanager
def runs_of_trial(loggers: Sequence[Logger], trial: Trial) -> Iterator[None]:
    """Begin a run of each logger for a trial, with what it tries and what that costs; at the end, end it."""
    for logger in loggers:
        _separate(logger, trial.number)
        logger.log_hyperparams(trial.settings)
        if trial.metrics:  # costs, which objectives and limits name
            logger.log_metrics(dict(trial.metrics), step=0)
    try:
        yield
    finally:
        for logger in loggers:
            run = getattr(logger, "experiment", None)
            end = next((getattr(run, name) for name in _ENDS if callable(getattr(run, name, None))), None)
            if end is not None:
                end()


def _separate(logger: Logger, number: int) -> None:
    """Let a logger begin a run of its own, where all were to write into one run or one folder."""
    attributes = vars(logger)
    attributes.update({name: value for name, value in _OF_A_RUN.items() if name in attributes})
    if "_version" in attributes:  # a folder; two processes would count to the same next one
        given = attributes["_version"]
        attributes["_version"] = f"trial_{number}" if given is None else f"{given}_trial_{number}"
    if isinstance(attributes.get("_wandb_init"), dict):
        attributes["_wandb_init"]["id"] = None
