"""Kill and resume: the end is bit for bit that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from spacelang.experiment import checkpoint
from spacelang.results.course import read_course
from spacelang.strategies import Differentiable, OneShot, one_shot

from ..toys.search_script import every_strategy, make, outcome, space_of

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent.parent / "toys" / "search_script.py"


class StopAt(pl.Callback):
    """Raise before a given training batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = epoch, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise InterruptedError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    experiment = make(tmp_path_factory.mktemp("whole"))
    experiment.run()
    return outcome(experiment)


@pytest.mark.parametrize(
    ("epoch", "batch"),
    [(0, 0), (2, 1), *(pytest.param(*stop, marks=pytest.mark.exhaustive) for stop in ((0, 2), (1, 0)))],
)
def test_a_stop_at_any_batch(tmp_path: Path, uninterrupted: Any, epoch: int, batch: int) -> None:
    with pytest.raises(InterruptedError):
        make(tmp_path / "run", callbacks=[StopAt(epoch, batch)]).run()
    resumed = make(tmp_path / "run")
    resumed.run(resume=True)
    assert outcome(resumed) == uninterrupted


RICH = ("darts-extras", "pdarts", "enas")  # the most that a checkpoint must keep


@pytest.mark.parametrize(
    "name",
    [name if name in RICH else pytest.param(name, marks=pytest.mark.exhaustive) for name in every_strategy()],
)
def test_a_strategy_resumes_and_repeats_exactly(tmp_path: Path, name: str) -> None:
    def experiment(folder: str, **settings: Any) -> Any:
        return make(tmp_path / folder, method=every_strategy()[name], space=space_of(name), **settings)

    whole = experiment("whole")
    whole.run()
    with pytest.raises(InterruptedError):
        experiment("run", callbacks=[StopAt(2, 1)]).run()
    resumed = experiment("run")
    resumed.run(resume=True)
    assert outcome(resumed) == outcome(whole)
    for run in (whole, resumed):
        epochs = read_course(run.directory / "epochs.jsonl").epochs
        assert [epoch.number for epoch in epochs] == [0, 1, 2] * run.strategy.stages
        learns = isinstance(run.strategy, Differentiable)  # the others compare networks at their end
        assert all(bool(epoch.best) == learns for epoch in epochs)


def test_every_strategy_with_a_supernet_is_among_them() -> None:
    public = {x for x in vars(one_shot).values() if isinstance(x, type) and issubclass(x, OneShot)}
    assert {type(strategy) for strategy in every_strategy().values()} == public


def test_accumulated_and_clipped_steps_of_the_torch_execution_resume_exactly(tmp_path: Path) -> None:
    """Three batches an epoch, two of them accumulated; a stop in the middle of an epoch."""
    settings: dict[str, Any] = {"execution": "torch", "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    whole = make(tmp_path / "whole", **settings)
    whole.run()
    with pytest.raises(InterruptedError):
        make(tmp_path / "run", callbacks=[StopAt(1, 1)], **settings).run()
    resumed = make(tmp_path / "run", **settings)
    resumed.run(resume=True)
    assert resumed.supernet.resolved_execution() == "torch"
    assert outcome(resumed) == outcome(whole)


def test_two_stops_in_one_run(tmp_path: Path, uninterrupted: Any) -> None:
    for resume, at in ((False, StopAt(1, 1)), (True, StopAt(2, 2))):
        with pytest.raises(InterruptedError):
            make(tmp_path / "run", callbacks=[at]).run(resume=resume)
    resumed = make(tmp_path / "run")
    resumed.run(resume=True)
    assert outcome(resumed) == uninterrupted


def test_a_kill_while_a_checkpoint_is_written(
    tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third write stops half-way, as a kill would: no clean-up runs."""

    writes = []
    save = torch.save

    def torn(state: Any, file: Any) -> None:
        writes.append(file)
        if len(writes) == 3:
            save(state, file)
            file.truncate(file.tell() // 2)
            file.flush()
            raise SystemError("killed")
        save(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", torn)
    monkeypatch.setattr(checkpoint.Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(SystemError):
        make(tmp_path / "run").run()
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(left) == 2
    assert left[1] == "last.ckpt"
    resumed = make(tmp_path / "run")
    resumed.run(resume=True)
    assert outcome(resumed) == uninterrupted
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]


def test_resume_without_a_run_begins_one(tmp_path: Path, uninterrupted: Any) -> None:
    experiment = make(tmp_path / "new")
    experiment.run(resume=True)
    assert outcome(experiment) == uninterrupted


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    from spacelang import SpaceError

    with pytest.raises(InterruptedError):
        make(tmp_path / "run", callbacks=[StopAt(1, 0)]).run()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SpaceError, match=r"last\.ckpt cannot be read"):
        make(tmp_path / "run").run(resume=True)


# `tests/faults` sends these and SIGTERM to searches that have no imports to make.
@pytest.mark.exhaustive
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process(tmp_path: Path, uninterrupted: Any, how: signal.Signals) -> None:
    """Kill -9 or Ctrl-C once the first checkpoint is there, then resume in a new process."""
    run, output = tmp_path / "run", tmp_path / "outcome.json"
    command = [sys.executable, str(SCRIPT), str(run), str(output), "darts"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (run / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(how)
    process.wait()
    assert not output.exists()
    subprocess.run([*command, "resume"], env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert json.loads(output.read_text())["arch"] == uninterrupted["arch"]
    threads = torch.get_num_threads()
    if threads == 1:  # another number of threads rounds differently
        assert json.loads(output.read_text()) == uninterrupted


# Strategies that draw, decide, prune, train controllers or judge networks, each in its own way.
IN_TWO = ("darts-extras", "sgas", "proxyless-two", "metadapt", "enas")


@pytest.mark.parametrize("others", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_two_processes_derive_the_same_architecture(tmp_path: Path, others: bool) -> None:
    """Every strategy; all share the time a pair of processes takes to begin."""
    names = [name for name in every_strategy() if (name in IN_TWO) != others]
    run_in_two(tmp_path, names)
    for name in names:
        ranks = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2)]
        assert ranks[0]["arch"] == ranks[1]["arch"], name
        assert ranks[0]["search"] == ranks[1]["search"], name
        assert [p.name for p in (tmp_path / name / "architectures").iterdir()] == ["1.yaml"], name


def run_in_two(folder: Path, names: Sequence[str], *flags: str) -> None:
    """Run searches in two processes each; run folders are `folder / NAME`, outcomes `NAME-RANK.json`."""
    paths = [str(folder / "NAME"), str(folder / "NAME-RANK.json")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *paths, ",".join(names), "ddp", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.exhaustive  # bundles take the execution that they get
def test_the_torch_execution_in_two_processes(tmp_path: Path) -> None:
    """The others run natively where they can."""
    run_in_two(tmp_path, ["darts"], "torch")
    first, second = (json.loads((tmp_path / f"darts-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert "execution: torch" in (tmp_path / "darts" / "experiment.yaml").read_text()
