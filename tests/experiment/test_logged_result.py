"""At its end a one-shot search shows every logger what it found."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Classification
from spacelang.experiment.logged_result import LoggedResult
from spacelang.strategies import DARTS, RandomOneShot

from ..evaluators.test_trial_loggers import SETTINGS, Net
from .test_lightning_trials import data

ARCH = {"block/layer": "relu"}


@pytest.mark.parametrize(
    "strategy", [DARTS(), RandomOneShot(candidates=2, finalists=1, calibration_batches=0)]
)
def test_tensorboard_and_csv_have_the_architecture(tmp_path: Path, strategy: Any) -> None:
    loggers = [CSVLogger(tmp_path / "logs", "csv"), TensorBoardLogger(tmp_path / "logs", "board")]
    evaluator = Classification(**data(), **SETTINGS, logger=loggers)
    run = Experiment(Net(), evaluator, strategy, directory=tmp_path / "run", seed=0)
    run.run()
    assert (
        yaml.safe_load((tmp_path / "logs/csv/version_0/hparams.yaml").read_text())["architecture"] == run.best
    )
    events = EventAccumulator(str(tmp_path / "logs/board/version_0")).Reload()
    (text,), (picture,) = events.Tensors("architecture/text_summary"), events.Images("architecture")
    assert text.tensor_proto.string_val == [f"    block/layer: {run.best['block/layer']}\n".encode()]
    assert picture.width > picture.height > 50


class Service:
    """The calls that a logger gets."""

    run_id = "7"

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}

    def log_hyperparams(self, *arguments: Any) -> None:
        self.calls["settings"] = arguments

    def log_image(self, *arguments: Any) -> None:
        self.calls["picture"] = arguments

    log_figure = log_image

    @property
    def experiment(self) -> Any:
        return self


class WeightsAndBiases(Service, WandbLogger): ...


class MLflow(Service, MLFlowLogger): ...


def log_at_the_end(loggers: list[Any], derive: Any, *, first: bool = True) -> None:
    trainer: Any = SimpleNamespace(loggers=loggers, is_global_zero=first, global_step=3)
    search: Any = SimpleNamespace(derive=derive)
    LoggedResult(search, Net()).on_train_end(trainer, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [WeightsAndBiases, MLflow])
def test_services_have_architecture_and_picture(kind: type[Service]) -> None:
    logger = kind()
    log_at_the_end([logger], lambda count: [ARCH])
    assert logger.calls["settings"] == ({"architecture": ARCH},)
    assert "architecture" in str(logger.calls["picture"])


def test_nothing_is_derived_for_nobody() -> None:
    def derive(count: int) -> Any:
        raise AssertionError("nobody looks")

    log_at_the_end([], derive)
    log_at_the_end([MLflow()], derive, first=False)


def test_a_search_without_result_logs_none() -> None:
    def derive(count: int) -> Any:
        raise SpaceError("nothing was compared")

    logger = MLflow()
    log_at_the_end([logger], derive)
    assert logger.calls == {}


def test_a_picture_that_fails_warns() -> None:
    logger = MLflow()
    with pytest.warns(UserWarning, match="could not be logged as a picture"):
        log_at_the_end([logger], lambda count: [{"unknown": 1}])
    assert logger.calls["settings"] == ({"architecture": {"unknown": 1}},)
