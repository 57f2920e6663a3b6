"""A process per trial: same trials, deaths, hangs, limits, devices."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import InProcess, Ledger, ProcessPool, Trial, Work
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


def test_windows_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.name", "nt")
    with pytest.raises(SpaceError, match="ProcessPool needs process groups and signals of Linux or macOS"):
        ProcessPool()


def test_one_at_a_time_gives_the_same_trials_everywhere(tmp_path: Path) -> None:
    here = run(tmp_path / "here", toy.noisy, InProcess(), max_trials=4)
    there = run(tmp_path / "there", toy.noisy, ProcessPool(1, start_method="fork"), max_trials=4)
    assert toy.trials_of(there) == toy.trials_of(here)


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.exhaustive)])
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


def script(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the script of a search in a pool."""
    path = Path(__file__).parents[1] / "toys" / "pool_script.py"
    command = [sys.executable, str(path), str(tmp_path), *arguments]
    return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("method", "imports"), [("forkserver", 2), ("fork", 1)])
def test_a_script_is_not_imported_for_each_trial(tmp_path: Path, method: str, imports: int) -> None:
    """The driver and the process that trials are forked from import it; trials load data in other ones."""
    search = script(tmp_path, method, "loads", "6")
    _, errors = search.communicate()
    assert search.returncode == 0, errors
    assert len((tmp_path / "imports").read_text().splitlines()) == imports
    trials = Ledger(tmp_path / "run" / "trials.db").trials()
    assert [trial.error for trial in trials] == [""] * 6


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_processes_end_with_the_driver(tmp_path: Path, how: signal.Signals) -> None:
    """Two trials that hang, each with a loading process and a program."""
    search = script(tmp_path, "fork", "lingers", "4")
    noted = tmp_path / "processes"
    while not noted.exists() or len(noted.read_text().splitlines()) < 6:
        assert search.poll() is None
        time.sleep(0.02)
    processes = [psutil.Process(int(pid)) for pid in noted.read_text().splitlines()]
    processes += psutil.Process(search.pid).children()  # the process that starts trials
    assert len({process.pid for process in processes}) == 7
    search.send_signal(how)
    assert search.wait() == -how
    deadline = time.monotonic() + 30
    while alive := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)
    state = "running" if how == signal.SIGKILL else "waiting"  # handed back
    assert [trial.state for trial in Ledger(tmp_path / "run" / "trials.db").trials()] == [state] * 2


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sigterm_ends_a_search_in_one_process(tmp_path: Path) -> None:
    """As Ctrl-C does, and then with the status of the signal."""
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), "in-process", "100000"]
    search = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    ledger = tmp_path / "run" / "trials.db"
    while not any(trial.is_finished for trial in toy.recorded(ledger)):
        assert search.poll() is None
        time.sleep(0.02)
    search.terminate()
    assert search.wait() == -signal.SIGTERM
    states = [trial.state for trial in Ledger(ledger).trials()]
    assert states.count("done") >= len(states) - 1
    assert set(states) <= {"done", "waiting"}


def test_the_callers_handler_of_sigterm_is_called_at_the_end(tmp_path: Path) -> None:
    calls: list[int] = []
    ours = lambda number, frame: calls.append(number)  # noqa: E731
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, lambda model: signal.raise_signal(signal.SIGTERM), InProcess())
        assert calls == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [trial.state for trial in Ledger(tmp_path / "trials.db").trials()] == ["waiting"]


def test_too_much_memory_costs_a_trial(tmp_path: Path) -> None:
    """Used by a process that the trial starts; others, and memory that was there before it, do not count."""
    pool = ProcessPool(1, start_method="fork", memory_limit=600 * 2**20)
    experiment = run(tmp_path, toy.fills_memory_on_two, pool)
    failed = [trial for trial in experiment.history if trial.state == "failed"]
    assert [experiment.history.count(state) for state in ("done", "failed")] == [7, 2]
    assert all("more than its memory limit of 629,145,600 bytes" in trial.error for trial in failed)


def test_the_process_that_starts_trials_is_replaced(tmp_path: Path) -> None:
    experiment = run(tmp_path, toy.kills_its_parent_on_two, ProcessPool(1, start_method="fork"))
    failed = [trial for trial in experiment.history if trial.state == "failed"]
    assert [experiment.history.count(state) for state in ("done", "failed")] == [7, 2]
    assert all("died with exit code -9, and this trial with it" in trial.error for trial in failed)


def test_a_cancelled_trial_ends_and_others_go_on() -> None:
    pool = ProcessPool(2, start_method="fork")
    work = Work(toy.Chain, {"layers": 1}, Functional(toy.hangs_on_two))
    pool.open(work, lambda number, report: True)
    pool.submit(Trial(0, {"layer0": "two"}, seed=0))
    pool.submit(Trial(1, {"layer0": "three"}, seed=0))
    pool.cancel(0)
    assert [(outcome.number, outcome.metrics) for outcome in pool.wait(60)] == [(1, {"default": 3.0})]
    assert pool.wait(60) == []  # at once: nothing runs
    pool.close()


def test_what_cannot_be_sent_is_named_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"cannot be sent to another process.*start_method=.fork."):
        run(tmp_path, lambda model: 0.0, ProcessPool(1))
    assert [trial.state for trial in Ledger(tmp_path / "trials.db").trials()] == ["waiting"]


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
        ({"memory_limit": 0.5}, "memory_limit=0.5"),
        ({"start_method": "thread"}, "start_method='thread'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ProcessPool(**settings)
