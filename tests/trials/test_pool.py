"""A process per trial: same trials, deaths, hangs, limits, devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import InProcess, Ledger, ProcessPool
from spacelang.trials.process_pool import _environment

from ..toys import trials as toy

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "toys" / "search_process.py"


def run(directory: Path, function: Any, executor: Any, **settings: Any) -> Experiment:
    experiment = Experiment(
        settings.pop("space", None) or toy.Chain(2),
        Functional(function),
        Random(),
        directory=directory,
        executor=executor,
        **settings,
    )
    experiment.run()
    return experiment


def test_one_at_a_time_gives_the_same_trials_everywhere(tmp_path: Path) -> None:
    here = run(tmp_path / "here", toy.noisy, InProcess(), max_trials=4)
    there = run(tmp_path / "there", toy.noisy, ProcessPool(1, start_method="fork"), max_trials=4)
    assert toy.trials_of(there) == toy.trials_of(here)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_that_import_everything_anew(tmp_path: Path, method: str) -> None:
    """In a process of its own: what pytest imports by path has no name a new process could import."""
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), method, "3"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    trials = Ledger(tmp_path / "run" / "trials.db").trials()
    here = run(tmp_path / "here", toy.noisy, InProcess(), max_trials=3, space=toy.Chain(5))
    assert [(t.arch, t.seed, t.state, t.metrics) for t in trials] == [
        (t.arch, t.seed, t.state, t.metrics) for t in here.history
    ]


def test_a_dying_worker_costs_its_trial(tmp_path: Path) -> None:
    experiment = run(tmp_path, toy.dies_on_two, ProcessPool(2, start_method="fork"))
    failed = [trial for trial in experiment.history if trial.state == "failed"]
    assert len(experiment.history) == 9
    assert len(failed) == 2
    assert all(trial.error == "the worker process died with exit code 7." for trial in failed)


def test_a_hanging_worker_costs_its_trial(tmp_path: Path) -> None:
    pool = ProcessPool(2, start_method="fork", time_limit=3.0)
    experiment = run(tmp_path, toy.hangs_on_two, pool)
    failed = [trial for trial in experiment.history if trial.state == "failed"]
    assert [experiment.history.count(state) for state in ("done", "failed")] == [7, 2]
    assert all("longer than its time limit of 3.0 s" in trial.error for trial in failed)


def test_reports_reach_the_ledger(tmp_path: Path) -> None:
    experiment = run(tmp_path, toy.curve, ProcessPool(2, start_method="fork"), max_trials=3)
    for trial in experiment.history:
        assert [report.epoch for report in trial.reports] == list(range(10))
        assert trial.reports[-1].metrics == trial.metrics


def test_devices_become_visible_devices() -> None:
    assert _environment("cuda:3") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert _environment([0, 2]) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    assert _environment(None) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "devices": [0]}, "devices has 1 entries"),
        ({"time_limit": 0}, "time_limit=0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ProcessPool(**settings)
