"""Kill campaigns: searches that are killed again and again at random moments, and what must then be true.

A search runs in a process of its own that is forked from this one, so that every moment of it is met, and no
time is spent on imports. After a kill it is resumed. When it has ended, everything that it left is inspected,
and the next search begins, until there were as many kills as asked for.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace
from spacelang.evaluators import Functional
from spacelang.experiment.checkpoint import load_checkpoint
from spacelang.files import load_yaml
from spacelang.strategies.multi_trial import Random
from spacelang.trials import InProcess, Ledger, ProcessPool, Trial, Work

from ..toys import search_script

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRIALS = 60
_PATIENCE = 120.0  # seconds for a process to end; more is a failure

_context: Any = multiprocessing.get_context("fork")


@dataclass
class Tally:
    """What a campaign did, and what it found wrong."""

    name: str
    kills: Counter[str] = field(default_factory=Counter)
    searches: int = 0
    repeated: int = 0  # evaluations beyond one a trial
    problems: list[str] = field(default_factory=list)

    def check(self, fine: object, problem: str) -> None:
        """Note a problem unless all is fine."""
        if not fine:
            self.problems.append(f"search {self.searches}: {problem}")

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of the table, as `HEADER` names them."""
        kills = (str(self.kills[how.name]) for how in SIGNALS)
        return self.name, str(self.searches), *kills, str(self.repeated), str(len(self.problems))


HEADER = ("campaign", "searches", "SIGKILL", "SIGTERM", "SIGINT", "evaluations repeated", "problems")


# -- searches that are killed ----------------------------------------------------------------------------


class Net(ModelSpace):
    """Four layers of three candidates: 81 architectures."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                LayerChoice({"tanh": nn.Tanh(), "one": nn.Linear(64, 64), "three": deep()}, label=f"layer{i}")
                for i in range(4)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def deep() -> nn.Module:
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))


@dataclass(frozen=True)
class Measure:
    """An evaluator of 10 to 30 ms whose result follows from the trial's seed; a file counts its calls."""

    calls: Path

    def evaluate(self, model: nn.Module, report: Any = None) -> dict[str, float]:
        """Note the call, report twice, return two metrics."""
        with self.calls.open("ab", buffering=0) as file:
            file.write(b".")
        draw = float(torch.rand(()))
        for epoch in range(2):
            time.sleep(0.005 + 0.01 * draw)
            if report is not None:
                report({"default": draw / (2 - epoch)}, epoch)
        return {"default": draw, "output": float(model(torch.ones(64)).detach().sum())}


def trials_search(folder: Path, *, pool: bool = False, name: str = "run", ledger: str | None = None) -> Any:
    """Return a search of `TRIALS` trials."""
    return Experiment(
        Net(),
        Measure(folder / "calls"),
        Random(),
        directory=folder / name,
        max_trials=TRIALS,
        ledger=ledger,
        executor=ProcessPool(2, start_method="fork") if pool else InProcess(),
    )


def in_process(folder: Path) -> list[Callable[[], Any]]:
    """Trials in the driver's process."""
    return [lambda: trials_search(folder)]


def pool(folder: Path) -> list[Callable[[], Any]]:
    """Trials in a pool of two processes."""
    return [lambda: trials_search(folder, pool=True)]


def two_drivers(folder: Path) -> list[Callable[[], Any]]:
    """Two drivers that share one ledger."""
    shared = str(folder / "shared.db")
    return [lambda name=name: trials_search(folder, name=name, ledger=shared) for name in ("a", "b")]


def one_shot(folder: Path) -> list[Callable[[], Any]]:
    """DARTS on digits, three epochs."""
    return [lambda: search_script.make(folder / "run")]


# -- what must be true -----------------------------------------------------------------------------------


def inspect_trials(tally: Tally, folder: Path, whole: Path) -> None:
    """Check that each number has one result, the right one, and that all files are whole."""
    path = ledger_of(folder)
    trials = Ledger(path).trials()
    tally.check([t.number for t in trials] == list(range(TRIALS)), f"numbers {[t.number for t in trials]}")
    states = Counter(trial.state for trial in trials)
    tally.check(states == {"done": TRIALS}, f"states {dict(states)}")
    tally.check(len({json.dumps(t.arch) for t in trials}) == TRIALS, "an architecture was tried twice")
    evaluator = Functional(Measure(whole / "again").evaluate)
    for trial in trials:
        outcome = Work(Net, {}, evaluator).run(trial, lambda number, report: True)
        fine = dict(trial.metrics) == dict(outcome.metrics) and trial.reports == outcome.reports
        tally.check(fine, f"trial {trial.number} holds {trial}, expected {outcome}")
    if tally.name != "pool":  # with two at a time, what was running when a proposal was made is chance
        expected = [essence(trial) for trial in Ledger(ledger_of(whole)).trials()]
        tally.check([essence(trial) for trial in trials] == expected, "other trials than without kills")
    with sqlite3.connect(path) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        tally.check(found == "ok", f"the database says {found}")
    tally.repeated += (folder / "calls").stat().st_size - TRIALS


def ledger_of(folder: Path) -> Path:
    """Return the ledger of a search, in its run folder or shared."""
    return next(folder.glob("*.db"), folder / "run" / "trials.db")


def essence(trial: Trial) -> tuple[Any, ...]:
    """Return what must be equal in two runs of a search."""
    return trial.number, trial.arch, trial.seed, trial.state, dict(trial.metrics), trial.reports


def inspect_one_shot(tally: Tally, folder: Path, whole: Path) -> None:
    """Check that the end is that of the uninterrupted search, bit for bit."""
    ends = [load_checkpoint(path / "run" / "checkpoints" / "last.ckpt") for path in (folder, whole)]
    for part in ("state_dict", "callbacks", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        digests = [digest(end[part]) for end in ends]
        tally.check(digests[0] == digests[1], f"the checkpoint's {part} differs")
    archs = [load_yaml(path / "run" / "architectures" / "1.yaml") for path in (folder, whole)]
    tally.check(archs[0] == archs[1], f"architecture {archs[0]}, expected {archs[1]}")


def digest(state: Any) -> str:
    """Return a checksum of nested tensors and plain values."""
    if isinstance(state, Tensor):
        content = state.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(state, dict):
        content = "".join(f"{key}={digest(value)}" for key, value in state.items()).encode()
    elif isinstance(state, list | tuple):
        content = "".join(map(digest, state)).encode()
    else:
        content = repr(state).encode()
    return hashlib.sha256(content).hexdigest()


def inspect_files(tally: Tally, folder: Path) -> None:
    """Check that every file can be read and that nothing temporary is left."""
    for path in folder.rglob("*"):
        tally.check(not path.name.endswith(".tmp") and not path.name.startswith(".tmp"), f"{path} is left")
        readers = {".yaml": load_yaml, ".safetensors": load_file, ".ckpt": load_checkpoint}
        if path.suffix in readers:
            try:
                readers[path.suffix](path)  # type: ignore[operator]
            except Exception as error:
                tally.check(False, f"{path} cannot be read: {error}")


CAMPAIGNS = {
    "one-shot": (one_shot, inspect_one_shot),
    "in-process": (in_process, inspect_trials),
    "pool": (pool, inspect_trials),
    "two drivers": (two_drivers, inspect_trials),
}


# -- killing ---------------------------------------------------------------------------------------------


def run_campaign(name: str, folder: Path, kills: int, seed: int = 0) -> Tally:
    """Kill searches `kills` times in all, in turn by each of `SIGNALS`, and inspect what they leave."""
    make, inspect = CAMPAIGNS[name]
    tally, moments = Tally(name), random.Random(f"{name} {seed}")
    whole = folder / "whole"
    whole.mkdir(parents=True)
    make(whole)[0]()  # imports here what each driver would import again
    began = time.monotonic()
    _end(_start(make(whole)[0], whole), tally, whole)
    duration = time.monotonic() - began
    left = [SIGNALS[i % len(SIGNALS)] for i in range(kills)]
    while left:
        tally.searches += 1
        search = folder / str(tally.searches)
        search.mkdir()
        _kill_until_done(make(search), search, left, duration, moments, tally)
        inspect(tally, search, whole)
        inspect_files(tally, search)
    return tally


def _kill_until_done(
    searches: Sequence[Callable[[], Any]],
    folder: Path,
    left: list[signal.Signals],
    duration: float,
    moments: random.Random,
    tally: Tally,
) -> None:
    """Run the drivers of one search together; kill one of them at a time and start it again."""
    most = max(1, min(len(left), 12))  # then this search may end, and another begins
    drivers = [_start(search, folder) for search in searches]
    while most and left and any(driver.is_alive() for driver in drivers):
        time.sleep(moments.uniform(0.0, duration / 4))
        victim = moments.randrange(len(drivers))
        if drivers[victim].is_alive() and _kill(drivers[victim], left[0], tally, folder):
            left.pop(0)
            most -= 1
            drivers[victim] = _start(searches[victim], folder)
    for driver in drivers:
        _end(driver, tally, folder)


def _start(search: Callable[[], Any], folder: Path) -> BaseProcess:
    process: BaseProcess = _context.Process(target=_run, args=(search, folder / "errors.txt"))
    process.start()
    return process


def _run(search: Callable[[], Any], errors: Path) -> None:
    """Body of a driver process."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    torch.set_num_threads(1)
    search().run(resume=True)


def _kill(driver: BaseProcess, how: signal.Signals, tally: Tally, folder: Path) -> bool:
    """Send a signal to a driver, wait for it and all that it started to end; return whether it was killed."""
    assert driver.pid is not None
    family = list(_family(driver.pid))
    os.kill(driver.pid, how)
    driver.join(_PATIENCE)
    _, alive = psutil.wait_procs(family, timeout=_PATIENCE)
    tally.check(not alive, f"{alive} outlive the driver after {how.name}")
    if driver.exitcode == 0:
        return False  # its search had just ended
    expected = 1 if how == signal.SIGINT else -how
    said = f"exit code {driver.exitcode} after {how.name}: {_errors(folder)}"
    tally.check(driver.exitcode == expected, said)
    tally.kills[how.name] += 1
    return True


def _family(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def _end(driver: BaseProcess, tally: Tally, folder: Path) -> None:
    """Wait until a driver ends by itself."""
    driver.join(_PATIENCE)
    said = f"a resumed driver ended with exit code {driver.exitcode}: {_errors(folder)}"
    tally.check(driver.exitcode == 0, said)
    if driver.is_alive():
        driver.kill()
        driver.join()


def _errors(folder: Path) -> str:
    """Return the last that drivers wrote about errors."""
    return (folder / "errors.txt").read_text()[-3000:]
