"""Lightning's remarks that say nothing about the user's run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Leave these remarks out, and messages below a level; everything else Lightning says is shown."""
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
