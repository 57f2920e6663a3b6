"""Every logger gets a run for each trial, with what the trial tries, and the run is ended."""

from __future__ import annotations

import multiprocessing.reduction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace
from spacelang.evaluators import Classification, ClassificationModule, Lightning, Trainer
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import InProcess, Minimize, ProcessPool

from ..experiment.test_lightning_trials import data

SETTINGS: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
SETTINGS |= {"enable_model_summary": False}


class Net(ModelSpace):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = LayerChoice({"relu": nn.ReLU(), "none": nn.Identity()}, label="block/layer")
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))  # type: ignore[no-any-return]


class Run:
    """A run of the service below."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.metrics: list[str] = []
        self.ended = False

    def finish(self) -> None:
        self.ended = True
        Service.present = None


class Service:
    """A service like Weights & Biases: one run at a time in a process, which copies of a logger continue."""

    runs: ClassVar[list[Run]] = []
    present: ClassVar[Run | None] = None


class ServiceLogger(Logger):
    def __init__(self) -> None:
        super().__init__()
        self._experiment: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        raise AssertionError("a run would begin here, and every copy would continue it")

    @property
    def experiment(self) -> Run:
        if self._experiment is None:
            if Service.present is None:
                Service.present = Run()
                Service.runs.append(Service.present)
            self._experiment = Service.present
        return self._experiment

    @property
    def name(self) -> str:
        return "service"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.experiment.config.update(params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        assert not self.experiment.ended
        self.experiment.metrics += metrics


@pytest.fixture(autouse=True)
def service() -> Any:
    Service.runs.clear()
    Service.present = None


def evaluator(logger: Any, *, template: bool = False) -> Lightning:
    if template:
        return Lightning(ClassificationModule(), Trainer(**SETTINGS, logger=logger), **data())
    return Classification(**data(), **SETTINGS, logger=logger)


def search(folder: Path, logger: Any, *, template: bool = False, **settings: Any) -> Experiment:
    settings = {"executor": InProcess(), "objectives": [Classification.default_objective], **settings}
    run = Experiment(
        Net(),
        evaluator(logger, template=template),
        Grid(),
        directory=folder,
        **settings,
    )
    run.run()
    return run


@pytest.mark.parametrize("template", [False, True])
def test_a_service_gets_a_run_for_each_trial(tmp_path: Path, template: bool) -> None:
    run = search(tmp_path, ServiceLogger(), template=template)
    assert [run.config["architecture"] for run in Service.runs] == [trial.arch for trial in run.history]
    assert [run.config["trial"] for run in Service.runs] == [0, 1]
    assert all(run.ended and "val_acc" in run.metrics for run in Service.runs)


def test_costs_that_are_objectives_are_logged(tmp_path: Path) -> None:
    search(tmp_path, ServiceLogger(), objectives=[Classification.default_objective, Minimize("params")])
    assert all("params" in run.metrics for run in Service.runs)


def test_a_run_that_was_begun_before_is_not_continued(tmp_path: Path) -> None:
    logger = ServiceLogger()
    logger.experiment.finish()
    search(tmp_path, logger)
    assert len(Service.runs) == 3


def test_a_failed_trial_ends_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, batch: Any, batch_idx: int) -> None:
        raise ValueError("no")

    monkeypatch.setattr(ClassificationModule, "validation_step", fail)
    with pytest.raises(ValueError, match="measured nothing"):
        search(tmp_path, ServiceLogger())
    assert [run.ended for run in Service.runs] == [True, True]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_folder_for_each_trial(tmp_path: Path, kind: Any) -> None:
    search(tmp_path / "run", kind(tmp_path / "logs", name="x"))
    for number, layer in enumerate(("relu", "none")):
        written = (tmp_path / "logs" / "x" / f"trial_{number}" / "hparams.yaml").read_text()
        assert yaml.safe_load(written)["architecture"] == {"block/layer": layer}


def test_an_evaluator_with_a_logger_goes_to_other_processes() -> None:
    multiprocessing.reduction.ForkingPickler.dumps(evaluator(ServiceLogger()))
    assert Service.runs == []


@pytest.mark.slow
def test_trials_in_processes_have_folders_of_their_own(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository)  # a new process imports this file as `tests.evaluators...`
    pool = ProcessPool(2)
    search(tmp_path / "run", CSVLogger(tmp_path / "logs", name="x"), executor=pool)
    assert {path.name for path in (tmp_path / "logs" / "x").iterdir()} == {"trial_0", "trial_1"}
