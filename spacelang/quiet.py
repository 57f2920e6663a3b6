"""Silence: no remarks of libraries, no logging of a module."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(names: Sequence[str], level: int) -> Iterator[None]:
    """Ignore warnings, and messages of the named loggers below `level`; exceptions pass."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


@contextmanager
def captured_log(module: Any) -> Iterator[dict[str, Any]]:
    """Keep a LightningModule's metrics from its loggers; yield the last values by name."""
    values: dict[str, Any] = {}

    def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        values[name] = value

    def log_dict(dictionary: Any, *args: Any, **kwargs: Any) -> None:
        values.update(dictionary)

    attributes = module.__dict__
    hidden = {name: attributes[name] for name in ("log", "log_dict") if name in attributes}
    attributes.update(log=log, log_dict=log_dict)
    try:
        yield values
    finally:
        del attributes["log"], attributes["log_dict"]
        attributes.update(hidden)
