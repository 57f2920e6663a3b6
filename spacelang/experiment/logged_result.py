"""Loggers get the architecture that a one-shot search found."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ..language import Architecture, Space
from ..results import draw
from .epoch_record import derived
from .protocols import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME = "architecture"
_TAKE_PICTURES = (TensorBoardLogger, WandbLogger, MLFlowLogger)


class LoggedResult(pl.Callback):
    """A callback that shows the architecture found to every logger; it must come after the search.

    TensorBoard has it as text and picture, W&B and MLflow as hyper-parameters and picture, others as
    hyper-parameters.

    Args:
        search: The search.
        space: Space that is searched.
    """

    def __init__(self, search: Search, space: Space) -> None:
        self.search = search
        self.space = space

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the best architecture."""
        for arch in derived(self.search, 1) if trainer.loggers and trainer.is_global_zero else []:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # it shows the hyper-parameters of the start alone
                    logger.experiment.add_text(_NAME, _as_markdown(arch), trainer.global_step)
                else:
                    logger.log_hyperparams({_NAME: arch})
            self._log_picture(arch, trainer)

    def _log_picture(self, arch: Architecture, trainer: pl.Trainer) -> None:
        """Log the cells or the chain, as far as loggers take pictures; one that fails warns."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, _TAKE_PICTURES)]
        if not loggers:
            return  # a picture takes a second
        try:
            figure = draw(arch, space=self.space).figure()
            for logger in loggers:
                _log_figure(logger, figure, trainer.global_step)
        except Exception as error:
            warnings.warn(f"the architecture found could not be logged as a picture: {error!r}", stacklevel=2)


def _as_markdown(arch: Architecture) -> str:
    """Return an architecture as a block of code, a line for each choice."""
    return "".join(f"    {label}: {value}\n" for label, value in arch.items())


def _log_figure(logger: Logger, figure: Figure, step: int) -> None:
    """Pass a figure to a logger in its own way."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(_NAME, figure, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(_NAME, [figure], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_figure(logger.run_id, figure, f"{_NAME}.png")
