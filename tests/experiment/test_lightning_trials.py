"""The same space and evaluator, searched one-shot and by trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError
from spacelang.evaluators import Classification, ClassificationModule, Inherited, Lightning, Trainer
from spacelang.strategies import DARTS
from spacelang.strategies.multi_trial import Grid, RegularizedEvolution
from spacelang.trials import Maximize

pytestmark = pytest.mark.slow


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh(), "none": nn.Identity()}, label="layer")
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))  # type: ignore[no-any-return]


def data() -> dict[str, Any]:
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    return {"train_dataloaders": loader, "val_dataloaders": loader}


def test_a_search_by_trials_takes_one_other_argument(tmp_path: Path) -> None:
    evaluator = Classification(**data(), max_epochs=1)
    for name, strategy in {"one-shot": DARTS(), "trials": RegularizedEvolution()}.items():
        experiment = Experiment(Net(), evaluator, strategy, directory=tmp_path / name)
        experiment.run()
        assert set(experiment.best) == {"layer"}
    assert experiment.history.objectives == (Maximize("val_acc"),)
    inherited = Experiment(
        Net(), Inherited(_supernet(evaluator, tmp_path), evaluator), Grid(), directory=tmp_path / "inherited"
    )
    inherited.run()
    assert inherited.history.objectives == (Maximize("val_acc"),)
    assert inherited.history.count("done") == 3


def _supernet(evaluator: Classification, folder: Path) -> Any:
    experiment = Experiment(Net(), evaluator, DARTS(), directory=folder / "one-shot")
    experiment.run(resume=True)
    return experiment.supernet


@pytest.mark.parametrize("given", ["arguments", "a Trainer"])
def test_trials_write_into_the_run_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path / "cache"))
    arguments: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu"}
    if given == "a Trainer":
        arguments = {"trainer": Trainer(**arguments, enable_progress_bar=False, enable_model_summary=False)}
    evaluator = Lightning(ClassificationModule(), **arguments, **data())
    capfd.readouterr()  # what Lightning says when a Trainer is made
    experiment = Experiment(
        Net(), evaluator, Grid(), objectives=[Maximize("val_acc")], directory=tmp_path / "run"
    )
    experiment.run()
    for trial in experiment.history:
        assert (tmp_path / "run" / "trials" / str(trial.number) / "logs" / "csv").is_dir()
    assert not (tmp_path / "cache").exists()
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["Search finished"]


def test_an_evaluator_without_a_default_objective_says_what_to_type(tmp_path: Path) -> None:
    evaluator = Lightning(ClassificationModule(), **data(), max_epochs=1)
    experiment = Experiment(Net(), evaluator, Grid(), directory=tmp_path)
    with pytest.raises(SpaceError, match=r"'default' is not among .*objectives=\[Maximize\('val_loss'\)\]"):
        experiment.run()
