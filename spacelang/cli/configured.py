"""The objects that a configuration describes: data, evaluator, experiment."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule
from rich.console import Console

from ..costs import CostLimit
from ..errors import SpaceError
from ..experiment import Experiment, OneShotStrategy, TrialSettings
from ..trials.objectives import parse_objective
from .configuration import Configuration
from .epoch_bar import ProgressBar


def configured_experiment(configuration: Configuration, directory: Path | None = None) -> Experiment:
    """Return the experiment that a configuration describes.

    Args:
        configuration: Has a space, an evaluator and a strategy, and data where the evaluator trains.
        directory: Run folder in place of the configuration's.
    """
    strategy = configuration.make("strategy")
    console = Console(stderr=True)
    bars = [ProgressBar(console, "search")] if isinstance(strategy, OneShotStrategy) else []
    data = configured_data(configuration)
    evaluator = configured_evaluator(configuration, search_loaders(configuration, data), bars)
    return Experiment(
        configuration.make("space"),
        evaluator,
        strategy,
        directory=directory or configuration.values.get("directory"),
        **configuration.settings(("seed", "weights", "execution", "checkpoint")),
        **_trial_options(configuration, data, by_trials=not bars),
    )


def _trial_options(configuration: Configuration, data: Any, *, by_trials: bool) -> Any:
    """Return the settings of a search by trials that differ from the defaults."""
    names = [field.name for field in dataclasses.fields(TrialSettings)]
    options = configuration.settings(names)
    if "objectives" in options:
        options["objectives"] = [parse_objective(text) for text in options["objectives"]]
    if "limits" in options:
        options["limits"] = [_limit(limit) for limit in options["limits"]]
    options.pop("executor", None)
    if "executor" in configuration.targets:
        options["executor"] = configuration.make("executor")
    shape = options.get("example_inputs") or [1, *getattr(data, "image_shape", ())]
    if by_trials and len(shape) > 1:
        options["example_inputs"] = torch.zeros(*shape)
    return options


def _limit(given: Mapping[str, Any]) -> CostLimit:
    try:
        return CostLimit(**given)
    except TypeError as error:
        raise SpaceError(
            f"limits: {dict(given)} must be such as {{metric: params, at_most: 1e6}}."
        ) from error


# -- data ----------------------------------------------------------------------------------------------------


def configured_data(configuration: Configuration) -> Any:
    """Return `DataSplits`, a datamodule, or None where there is no section on data."""
    if "data" not in configuration.targets:
        return None
    data = configuration.make("data")
    if not isinstance(data, LightningDataModule | import_module("spacelang.evaluators.data").DataSplits):
        raise SpaceError(
            f"data: {type(data).__name__} is neither a LightningDataModule nor DataSplits; see "
            "spacelang.evaluators.data."
        )
    return data


def search_loaders(configuration: Configuration, data: Any) -> dict[str, Any]:
    """Return the arguments that tell an evaluator the data of a search: two halves of the training data."""
    if data is None or isinstance(data, LightningDataModule):
        return {"datamodule": data} if data else {}
    loaders = import_module("spacelang.evaluators.data").search_loaders
    train, val = loaders(data.train, **configuration.values.get("loaders", {}))
    return {"train_dataloaders": train, "val_dataloaders": val}


def retrain_loaders(configuration: Configuration, data: Any) -> tuple[dict[str, Any], Any]:
    """Return the arguments that tell an evaluator all training data, and a loader of the test data.

    A datamodule validates instead: its loader is None.

    Raises:
        SpaceError: There is no data.
    """
    if data is None:
        raise SpaceError("retraining needs data: write a section `data:`, or type --data digits.")
    if isinstance(data, LightningDataModule):
        return {"datamodule": data}, None
    loaders = import_module("spacelang.evaluators.data").retrain_loaders
    train, test = loaders(data, **configuration.values.get("loaders", {}))
    return {"train_dataloaders": train}, test


def configured_evaluator(
    configuration: Configuration, data: Mapping[str, Any], callbacks: Sequence[Callback]
) -> Any:
    """Return the evaluator.

    Args:
        configuration: Has an evaluator.
        data: Arguments of the evaluator that tell it the data.
        callbacks: Callbacks to add to those of the configuration, if the evaluator trains with Lightning.

    Raises:
        SpaceError: There is data for an evaluator that takes none.
    """
    target = configuration.target("evaluator")
    if "train_dataloaders" not in inspect.signature(target).parameters:
        if data:
            raise SpaceError(
                f"the evaluator {target.__name__} takes no data from a configuration; leave out `data:`, "
                "or write a function that makes the evaluator with its data, and name that."
            )
        return configuration.make("evaluator")
    trainer = {"log_every_n_steps": 10, **configuration.values.get("trainer", {})}
    if callbacks:
        trainer["callbacks"] = [*(trainer.get("callbacks") or []), *callbacks]
        trainer.setdefault("enable_progress_bar", False)
    return configuration.make("evaluator", **trainer, **data)
