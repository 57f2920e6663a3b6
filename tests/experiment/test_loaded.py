"""Experiment.load: a run folder opens without its script, whatever its state, and trains nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.experiment.recorded_decisions import dumped_decisions, read_decisions
from spacelang.language import Categorical, DecisionSpace, Interval, Subset
from spacelang.language.decision_space import Site
from spacelang.strategies import SGAS, SPOS, Monitor
from spacelang.strategies.multi_trial import Grid
from spacelang.trials import Proposal

from ..toys import trials as toy
from ..toys.search_script import make


def searched(directory: Path, function: Any = toy.product, **settings: Any) -> Experiment:
    """A search of the 27 architectures of a chain, of which the best is 27."""
    run = Experiment(toy.Chain(), Functional(function), Grid(), directory=directory, **settings)
    run.run(resume=True)
    return run


def test_a_finished_search_by_trials(tmp_path: Path) -> None:
    run = searched(tmp_path)
    loaded = Experiment.load(tmp_path)
    assert loaded.status == "finished"
    assert toy.trials_of(loaded) == toy.trials_of(run)
    assert loaded.best == run.best == dict.fromkeys(("layer0", "layer1", "layer2"), "three")
    assert loaded.ranked(4) == run.export_top_models(4)
    assert loaded.export_top_models(4) == run.export_top_models(4)
    assert loaded.to_dataframe().equals(run.to_dataframe())
    assert [trial.number for trial in loaded.pareto] == [trial.number for trial in run.pareto]
    assert len(loaded.ranked()) == 27


def test_an_instance_needs_the_space_and_has_its_trials_weights(tmp_path: Path) -> None:
    searched(tmp_path)
    with pytest.raises(SpaceError, match=r"instances need the space: Experiment.load\(directory, space="):
        Experiment.load(tmp_path).export_top_models(1, formatter="instance")
    loaded = Experiment.load(tmp_path, space=toy.Chain())
    (model,) = loaded.export_top_models(1, formatter="instance")
    assert toy.product(model) == 27


def test_another_space_is_refused(tmp_path: Path) -> None:
    searched(tmp_path, max_trials=1)
    with pytest.raises(SpaceError, match=r"Chain is not the space of the run .* differ in .*'layer3'"):
        Experiment.load(tmp_path, space=toy.Chain(layers=4))
    with pytest.raises(SpaceError, match="must be a ModelSpace"):
        Experiment.load(tmp_path, space=toy.Chain)  # type: ignore[arg-type]


def test_an_interrupted_search(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, toy.Interrupting(5))
    loaded = Experiment.load(tmp_path)
    assert loaded.status == "interrupted"
    assert loaded.history.count("done") == 4
    assert len(loaded.ranked()) == 4
    searched(tmp_path, toy.noisy)
    assert Experiment.load(tmp_path).status == "finished"


class Stop(Callback):
    """Interrupts a training in its first batch."""

    def on_train_batch_start(self, *args: Any) -> None:
        raise InterruptedError


def test_a_search_that_stops_in_its_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        make(tmp_path / "run", callbacks=[Stop()]).run()
    assert Experiment.load(tmp_path / "run").status == "interrupted"


def test_a_running_search_is_seen_as_such(tmp_path: Path) -> None:
    seen = []

    def look(model: Any) -> float:
        seen.append(Experiment.load(tmp_path).status)
        return toy.product(model)

    searched(tmp_path, look, max_trials=2)
    assert seen == ["running"] * 2
    assert not (tmp_path / "running.yaml").exists()


def test_a_search_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    script = (
        "import os, sys; from spacelang import Experiment; from spacelang.evaluators import Functional; "
        "from spacelang.strategies.multi_trial import Grid; from tests.toys.trials import Chain; "
        "Experiment(Chain(), Functional(lambda m: os._exit(7)), Grid(), directory=sys.argv[1]).run()"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == 7
    assert (tmp_path / "running.yaml").exists()
    loaded = Experiment.load(tmp_path)
    assert loaded.status == "interrupted"
    with pytest.raises(SpaceError, match="interrupted, has no result yet"):
        loaded.ranked()


class TwoLayers:
    """Proposes architectures of the chain rebuilt with two layers."""

    def start(self, space: Any) -> TwoLayers:
        return self

    def ask(self, history: Any, rng: Any) -> Proposal:
        return Proposal({"layer0": "two", "layer1": "two"}, overrides={"layers": 2})


def test_trials_of_smaller_spaces_are_no_results(tmp_path: Path) -> None:
    """Without the space its recorded decisions tell: an architecture of two layers lacks the third."""
    function = Functional(toy.product)
    Experiment(toy.Chain(), function, TwoLayers(), directory=tmp_path, max_trials=2).run()
    loaded = Experiment.load(tmp_path)
    assert (loaded.history.measured, loaded.has_result) == (2, False)


def test_every_kind_of_decision_is_read_back_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "decisions.json"
    given = (
        Interval("lr", 1e-4, 1e-1, log=True, default=1e-2),
        Interval("k", 1, 9, step=2),
        Subset("s", [0, 1, 2], 2, default=[1, 2]),
        Categorical("c", ["a", "b"], default="b"),
        Categorical("t", [(1, 2), (3, 4)], default=(3, 4)),
    )
    path.write_text(dumped_decisions(DecisionSpace(tuple(map(Site, given)))))
    found = read_decisions(path)
    assert tuple(found.by_label.values()) == given
    assert found.default() == {"lr": 1e-2, "k": 5, "s": [1, 2], "c": "b", "t": [3, 4]}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"holds no run: it has no experiment\.yaml"):
        Experiment.load(tmp_path)
    with pytest.raises(SpaceError, match="There is no such folder"):
        Experiment.load(tmp_path / "none")
    searched(tmp_path / "run", max_trials=1)
    (tmp_path / "run" / "decisions.json").write_text("[1]")
    with pytest.raises(SpaceError, match="does not hold the decisions of a run"):
        Experiment.load(tmp_path / "run")
    (tmp_path / "run" / "experiment.yaml").write_text("space: Net")
    with pytest.raises(SpaceError, match=r"experiment\.yaml' does not describe a search: 'space' and"):
        Experiment.load(tmp_path / "run")


def test_other_settings_of_conditional_decisions_are_known(tmp_path: Path) -> None:
    run = Experiment(toy.Conditional(), Functional(toy.product), Grid(), directory=tmp_path)
    run.run()
    loaded = Experiment.load(tmp_path)
    assert loaded.ranked() == run.export_top_models(28)
    lines = json.loads((tmp_path / "decisions.json").read_text())
    assert [line["label"] for line in lines if "condition" not in line] == ["bias", "depth"]


@pytest.mark.slow
def test_a_one_shot_search(tmp_path: Path) -> None:
    strategy = SGAS(learning_rate=0.05, first_decision=0, period=1, extras=(Monitor(),))
    run = make(tmp_path, epochs=2, method=strategy)
    run.run()
    loaded = Experiment.load(tmp_path)
    assert (loaded.status, loaded.best) == ("finished", run.best)
    assert loaded.ranked(3) == run.export_top_models(3)
    assert loaded.course.records == run.search.records
    assert loaded.course.decisions == run.search.summary()["decisions"]
    for label, tables in run.search.history.items():
        told = [torch.tensor(epoch.tables[label]) for epoch in loaded.course.epochs]
        assert torch.allclose(torch.stack(told), torch.stack(tables), atol=1e-5)
    assert list(loaded.to_dataframe()["epoch"]) == [0, 1]
    with pytest.raises(SpaceError, match="one-shot search, which has no trials"):
        _ = loaded.history
    (mine,) = Experiment.load(tmp_path, space=run.space).export_top_models(1, formatter="instance")
    (theirs,) = run.export_top_models(1, formatter="instance")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(mine.eval()(x), theirs.eval()(x))
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    with pytest.warns(UserWarning, match="the models have new weights"):
        Experiment.load(tmp_path, space=run.space).export_top_models(1, formatter="instance")


@pytest.mark.slow
def test_an_interrupted_one_shot_search_is_recorded_once(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        make(tmp_path, epochs=2, callbacks=[Stop()]).run()
    loaded = Experiment.load(tmp_path)
    assert (loaded.status, len(loaded.course.epochs), len(loaded.ranked())) == ("interrupted", 1, 1)
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write('{"stage": 0, "epo')  # a kill
    make(tmp_path, epochs=2).run(resume=True)
    whole = make(tmp_path.parent / "whole", epochs=2)
    whole.run()
    again, other = (Experiment.load(path).course for path in (tmp_path, whole.directory))
    assert [(e.number, e.tables, e.best) for e in again.epochs] == [
        (e.number, e.tables, e.best) for e in other.epochs
    ]
    assert again.best == other.best


@pytest.mark.slow
def test_a_search_that_ranks_at_its_end(tmp_path: Path) -> None:
    strategy = SPOS(
        population=4, generations=1, parents=2, mutations=1, crossovers=1, calibration_batches=1,
        validation_batches=1,
    )  # fmt: skip
    run = make(tmp_path, epochs=1, method=strategy)
    run.run()
    loaded = Experiment.load(tmp_path)
    assert loaded.ranked(2) == run.export_top_models(2)
    assert not loaded.course.epochs[0].tables


def test_a_damaged_course_names_its_line(tmp_path: Path) -> None:
    from spacelang.results.course import append, read_course

    path = tmp_path / "epochs.jsonl"
    append(path, {"stage": 0, "epochs": 2, "groups": {"a": {"rows": [""], "columns": ["x", "y"]}}})
    append(path, {"stage": 0, "epoch": "many"})
    with pytest.raises(SpaceError, match=r"line 2 of .*epochs\.jsonl' is damaged"):
        read_course(path)
    assert read_course(tmp_path / "none").epochs == ()
