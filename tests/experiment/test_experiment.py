"""Experiment: arguments, run folder, results, and that nothing handed in is changed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Experiment, LayerChoice, ModelSpace, SpaceError, model_context
from spacelang.evaluators import Functional
from spacelang.files import load_yaml
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTS
from spacelang.supernet import MixedCell

from ..toys.search_script import make, outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two epochs, with what was there before it."""
    torch.manual_seed(1)
    experiment = make(tmp_path_factory.mktemp("finished"), epochs=2)
    experiment.before = {name: value.clone() for name, value in experiment.space.state_dict().items()}
    experiment.labels_before = [decision.label for decision in experiment.space.decisions]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    experiment.run()
    experiment.draws_after = torch.rand(1).item(), np.random.rand(), random.random()
    return experiment


def test_the_space_is_not_changed(finished: Any) -> None:
    after = finished.space.state_dict()
    assert all(torch.equal(after[name], value) for name, value in finished.before.items())
    assert [decision.label for decision in finished.space.decisions] == finished.labels_before


def test_one_space_serves_two_strategies(tmp_path: Path, finished: Any) -> None:
    second = Experiment(
        finished.space, finished.evaluator, DARTS(none=False), directory=tmp_path / "second", seed=4
    )
    second.run()
    finished.space.validate(second.best)
    after = finished.space.state_dict()
    assert all(torch.equal(after[name], value) for name, value in finished.before.items())
    assert [decision.label for decision in finished.space.decisions] == finished.labels_before


def test_the_callers_generators_go_on_as_before(finished: Any) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert finished.draws_after == (torch.rand(1).item(), np.random.rand(), random.random())


def test_the_result_is_an_architecture_of_the_space(finished: Any) -> None:
    arch = finished.export_top_models(formatter="dict")[0]
    finished.space.validate(arch)
    assert arch == finished.best
    with model_context(arch):
        bigger = DartsSpace(8, 6, (1, 8, 10), num_nodes=2, auxiliary_loss=True)
    assert bigger.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_instances_have_the_supernets_weights(finished: Any) -> None:
    arch, model = finished.best, finished.export_top_models(formatter="instance")[0]
    x = torch.randn(4, 1, 8, 8)
    supernet = finished.supernet.eval()
    supernet.select(arch)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), supernet(x))
    own = {p.data_ptr() for p in model.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in supernet.parameters())


def test_top_models_differ_and_begin_with_the_best(finished: Any) -> None:
    archs = finished.export_top_models(5)
    assert archs[0] == finished.best
    assert len({str(finished.space.canonical(arch)) for arch in archs}) == 5


def test_the_run_folder_holds_everything(finished: Any) -> None:
    names = {str(path.relative_to(finished.directory).parts[0]) for path in finished.directory.rglob("*")}
    written = {"experiment.yaml", "decisions.json", "epochs.jsonl", "search.yaml", "report.html"}
    assert names == written | {"checkpoints", "logs", "architectures"}
    record = load_yaml(finished.directory / "experiment.yaml")
    assert record["seed"] == 0
    assert record["space"]["class"] == "spacelang.hub.cells.designs.DARTS"
    assert record["space"]["arguments"]["dataset"] == [1, 8, 10]
    assert record["strategy"]["learning_rate"] == 0.01
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"]
    assert load_yaml(finished.directory / "architectures" / "1.yaml") == finished.best
    assert [path.name for path in (finished.directory / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_plain_data(finished: Any) -> None:
    checkpoint = torch.load(finished.directory / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 2 or checkpoint["epoch"] == 1
    (state,) = [s for key, s in checkpoint["callbacks"].items() if key.startswith("GradientSearch")]
    assert set(state) == {
        *("logits", "moments", "history", "alive", "schedule", "records", "stopped"),
        *("ranked", "derived", "best_of_epochs"),
    }


def test_a_used_folder_is_not_overwritten(finished: Any) -> None:
    again = make(finished.directory, epochs=2)
    with pytest.raises(SpaceError, match=r"already holds a run.*run\(resume=True\)"):
        again.run()


def test_another_run_is_not_resumed(finished: Any) -> None:
    with pytest.raises(SpaceError, match="seed was 0, now 3"):
        make(finished.directory, epochs=2, seed=3).run(resume=True)
    with pytest.raises(SpaceError, match=r"strategy\.learning_rate was 0\.01, now 0\.5"):
        make(finished.directory, epochs=2, method=DARTS(learning_rate=0.5)).run(resume=True)


def test_a_finished_run_is_loaded(finished: Any) -> None:
    again = make(finished.directory, epochs=2)
    again.run(resume=True)
    assert outcome(again) == outcome(finished)


def test_the_same_seed_gives_the_same_result(tmp_path: Path, finished: Any) -> None:
    torch.manual_seed(99)  # what the caller drew before must not matter
    same = make(tmp_path / "same", epochs=2)
    same.run()
    assert outcome(same) == outcome(finished)


def test_cells_that_are_computed_again_give_the_same_result(tmp_path: Path, finished: Any) -> None:
    same = make(tmp_path / "same", epochs=2, checkpoint=True)
    same.run()
    cells = [cell for cell in same.supernet.modules() if isinstance(cell, MixedCell)]
    assert [cell.recompute is None for cell in cells] == [False] * (len(cells) - 1) + [True]
    assert outcome(same) == outcome(finished)


def test_another_seed_gives_another_search(tmp_path: Path, finished: Any) -> None:
    other = make(tmp_path / "other", epochs=2, seed=1)
    other.run()
    assert outcome(other)["search"] != outcome(finished)["search"]


def test_a_run_that_failed_before_its_first_checkpoint_may_be_begun_again(tmp_path: Path) -> None:
    broken = make(tmp_path / "run", epochs=1)
    broken.evaluator.val_dataloaders = None
    with pytest.raises(SpaceError, match="needs validation batches"):
        broken.run()
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    make(tmp_path / "run", epochs=1, seed=2).run()


def test_a_users_trainer_leaves_no_checkpoints_of_its_own(tmp_path: Path, finished: Any) -> None:
    from spacelang.evaluators import Lightning, Trainer

    trainer = Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False, logger=False)
    evaluator = Lightning(
        finished.evaluator.module,
        trainer,
        train_dataloaders=finished.evaluator.train_dataloaders,
        val_dataloaders=finished.evaluator.val_dataloaders,
    )
    experiment = Experiment(finished.space, evaluator, DARTS(), directory=tmp_path / "run")
    experiment.run()
    assert [path.name for path in (tmp_path / "run").rglob("*.ckpt")] == ["last.ckpt"]


def test_nothing_to_export_before_a_run(tmp_path: Path) -> None:
    experiment = make(tmp_path / "none")
    for attempt in (experiment.export_top_models, lambda: experiment.best, lambda: experiment.supernet):
        with pytest.raises(SpaceError, match=r"experiment.run\(\)"):
            attempt()
    assert not (tmp_path / "none").exists()


def test_an_unknown_formatter_is_named(finished: Any) -> None:
    with pytest.raises(SpaceError, match="formatter='yaml' must be one of 'dict', 'instance'"):
        finished.export_top_models(formatter="yaml")


class Two(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")


def test_arguments_are_checked(finished: Any) -> None:
    with pytest.raises(SpaceError, match="first argument of Experiment is the space"):
        Experiment(nn.Linear(1, 1), finished.evaluator, DARTS())
    with pytest.raises(SpaceError, match="nothing to choose"):
        Experiment(Two().freeze({"layer": 0}), finished.evaluator, DARTS())
    with pytest.raises(SpaceError, match="third argument of Experiment is a strategy"):
        Experiment(Two(), finished.evaluator, "darts")
    with pytest.raises(SpaceError, match=r"pass an object: DARTS\(\)"):
        Experiment(Two(), finished.evaluator, DARTS)
    with pytest.raises(SpaceError, match="evaluator that can train a supernet; got Functional"):
        Experiment(Two(), Functional(lambda model: 1.0), DARTS())
    with pytest.raises(SpaceError, match="seed=-1"):
        Experiment(Two(), finished.evaluator, DARTS(), seed=-1)


def test_without_a_directory_the_run_is_in_the_cache(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", "/somewhere")
    experiment = Experiment(Two(), finished.evaluator, DARTS())
    assert experiment.directory.parent == Path("/somewhere/runs")
