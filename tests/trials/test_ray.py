"""Trials on a Ray cluster of three local nodes, one of which is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import InProcess, Ledger, RayExecutor, Work

from ..toys import trials as toy
from . import test_overrides

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'spacelang-nas[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    # Workers cannot import what pytest imports by path; Ray sends it by value.
    ray.cloudpickle.register_pickle_by_value(toy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default, which starves beside other tests
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def run(directory: Path, function: Any, executor: Any, **settings: Any) -> Experiment:
    experiment = Experiment(
        toy.Chain(2), Functional(function), Random(), directory=directory, executor=executor, **settings
    )
    experiment.run()
    return experiment


def test_one_at_a_time_gives_the_same_trials(tmp_path: Path, cluster: Any) -> None:
    here = run(tmp_path / "here", toy.noisy, InProcess(), max_trials=3)
    there = run(tmp_path / "there", toy.noisy, RayExecutor(1), max_trials=3)
    assert toy.trials_of(there) == toy.trials_of(here)


def test_arguments_of_the_space_reach_the_workers(tmp_path: Path, cluster: Any) -> None:
    ray.cloudpickle.register_pickle_by_value(test_overrides)
    proposals = (test_overrides.SMALL, test_overrides.PARTIAL)
    here = test_overrides.run(tmp_path / "here", *proposals)
    there = test_overrides.run(tmp_path / "there", *proposals, executor=RayExecutor(1))
    assert toy.trials_of(there) == toy.trials_of(here)


def test_a_lost_node_costs_nothing(tmp_path: Path, cluster: Any) -> None:
    """Nine trials of a second or more on three nodes; one node is killed while its trial runs."""
    executor = RayExecutor(num_cpus=1)
    assert executor.capacity == 3
    lost = cluster.add_node(num_cpus=1)
    assert executor.capacity == 4
    killer = threading.Thread(target=lambda: (time.sleep(4), cluster.remove_node(lost, allow_graceful=False)))
    killer.start()
    experiment = run(tmp_path, toy.lasts_a_second, executor)
    killer.join()
    assert experiment.history.count("done") == len(experiment.history) == 9
    while executor.capacity == 4:  # until Ray has noticed
        time.sleep(0.1)
    assert executor.capacity == 3


def test_what_the_driver_needs_is_on_its_node(tmp_path: Path, cluster: Any) -> None:
    """So a lost node takes tasks with it, which run again elsewhere, and nothing else."""
    for _ in range(3):  # Ray would spread them
        executor = RayExecutor()
        executor.open(Work(toy.Chain, {}, Functional(toy.noisy)), lambda number, report: True)
        where = executor._board.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        assert ray.get(where) == ray.get_runtime_context().get_node_id()
        executor.close()


def test_a_driver_that_is_killed_resumes(tmp_path: Path, cluster: Any) -> None:
    """SIGKILL while a trial runs on the cluster; the trials are then those of an uninterrupted search."""
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "toys" / "search_process.py"),
        str(tmp_path / "run"),
    ]
    driver = subprocess.Popen([*command, cluster.address, "6"], stdout=subprocess.PIPE, text=True)
    ledger = tmp_path / "run" / "trials.db"
    while not any(trial.is_finished for trial in toy.recorded(ledger)):
        time.sleep(0.1)
        assert driver.poll() is None
    driver.kill()
    driver.wait()
    assert len(Ledger(ledger).trials()) < 6
    subprocess.run([*command, cluster.address, "6"], check=True)
    whole = Experiment(
        toy.Chain(5), Functional(toy.slow), Random(), directory=tmp_path / "whole", max_trials=6
    )
    whole.run()
    trials = Ledger(ledger).trials()
    assert [(t.arch, t.seed, t.state, t.metrics) for t in trials] == [
        (t.arch, t.seed, t.state, t.metrics) for t in whole.history
    ]


def test_reports_and_failures_reach_the_ledger(tmp_path: Path, cluster: Any) -> None:
    experiment = run(tmp_path / "curve", toy.curve, RayExecutor(), max_trials=2)
    for trial in experiment.history:
        assert [report.epoch for report in trial.reports] == list(range(10))
    experiment = run(tmp_path / "raises", toy.raises_on_two, RayExecutor())
    failed = [trial for trial in experiment.history if trial.state == "failed"]
    assert len(failed) == 2
    assert [trial.error for trial in failed if "two is not allowed" not in trial.error] == []


def test_bad_settings_are_named() -> None:
    with pytest.raises(SpaceError, match="workers=0"):
        RayExecutor(0)
