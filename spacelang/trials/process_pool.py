"""An executor that gives each trial a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from ..errors import SpaceError, require_integer, require_number
from .trial import Report, Trial
from .work import OnReport, Outcome, Work

_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@dataclass
class _Running:
    """A trial, its process, and the slot it holds."""

    trial: Trial
    process: BaseProcess
    pipe: Connection
    slot: int
    started: float


class ProcessPool:
    """An executor that runs every trial in a new process, several at a time.

    A process that dies or hangs costs its trial, not the search.

    Args:
        workers: Number of processes at a time.
        devices: Devices of each worker, one entry a worker: "cuda:1" or a list of GPU numbers becomes
            CUDA_VISIBLE_DEVICES of its process; None for the CPU alone.
        time_limit: Seconds that a trial may take; a longer one is killed and fails.
        start_method: Start method of `multiprocessing`: "forkserver" starts quickly once torch is loaded,
            "spawn" works everywhere. Space and evaluator must be defined in a module, not in a notebook.
        threads: Number of torch's threads in each process.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        devices: Sequence[Any] | None = None,
        time_limit: float | None = None,
        start_method: Literal["forkserver", "spawn", "fork"] = "forkserver",
        threads: int = 1,
    ) -> None:
        require_integer("workers", workers, least=1)
        require_number("time_limit", time_limit, above=0, optional=True)
        require_integer("threads", threads, least=1)
        if devices is not None and len(devices) != workers:
            raise SpaceError(f"devices has {len(devices)} entries; pass one for each of {workers} workers.")
        self.capacity = workers
        self.devices = list(devices) if devices is not None else [None] * workers
        self.time_limit = time_limit
        self.threads = threads
        self._context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            self._context.set_forkserver_preload(["spacelang.trials.process_pool", "torch"])
        self._running: dict[int, _Running] = {}

    def open(self, work: Work, on_report: OnReport) -> None:
        """See `Executor`."""
        self._work, self._on_report = work, on_report

    def submit(self, trial: Trial) -> None:
        """See `Executor`."""
        used = {running.slot for running in self._running.values()}
        slot = next(s for s in range(self.capacity) if s not in used)
        ours, theirs = self._context.Pipe()
        arguments = (self._work, trial, theirs, _environment(self.devices[slot]), self.threads)
        process = self._context.Process(target=_child, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._running[trial.number] = _Running(trial, process, ours, slot, time.monotonic())

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Executor`."""
        deadline = time.monotonic() + timeout
        while self._running:
            ready = set(wait([r.pipe for r in self._running.values()], max(0.0, self._pause(deadline))))
            ended = [self._heard(r) for r in list(self._running.values()) if r.pipe in ready]
            ended += [self._expire(r) for r in list(self._running.values()) if self._is_late(r)]
            outcomes = [outcome for outcome in ended if outcome is not None]
            if outcomes or time.monotonic() >= deadline:
                return outcomes
        return []

    def _pause(self, deadline: float) -> float:
        """Return the seconds until the next deadline."""
        moments = [deadline]
        if self.time_limit is not None:
            moments += [running.started + self.time_limit for running in self._running.values()]
        return min(moments) - time.monotonic()

    def _heard(self, running: _Running) -> Outcome | None:
        """Handle one message of a process: a report, its outcome, or its death."""
        try:
            message = running.pipe.recv()
        except (EOFError, OSError):
            self._end(running)
            code = running.process.exitcode
            return self._failed(running, f"the worker process died with exit code {code}.")
        if isinstance(message, Report):
            running.pipe.send(self._on_report(running.trial.number, message))
            return None
        self._end(running)
        return message  # type: ignore[no-any-return]

    def _is_late(self, running: _Running) -> bool:
        limit = self.time_limit
        return limit is not None and time.monotonic() - running.started >= limit

    def _expire(self, running: _Running) -> Outcome:
        self._end(running, kill=True)
        return self._failed(running, f"the trial took longer than its time limit of {self.time_limit} s.")

    @staticmethod
    def _failed(running: _Running, error: str) -> Outcome:
        duration = time.monotonic() - running.started
        return Outcome(running.trial.number, {}, (), error, duration)

    def cancel(self, number: int) -> None:
        """See `Executor`."""
        if number in self._running:
            self._end(self._running[number], kill=True)

    def _end(self, running: _Running, *, kill: bool = False) -> None:
        del self._running[running.trial.number]
        if kill:
            running.process.terminate()
        running.process.join(_GRACE)
        if running.process.is_alive():
            running.process.kill()
            running.process.join()
        running.pipe.close()

    def close(self) -> None:
        """See `Executor`."""
        for running in list(self._running.values()):
            self._end(running, kill=True)


def _environment(device: Any) -> Mapping[str, str]:
    if device is None:
        return {}
    numbers = device if isinstance(device, list | tuple) else [str(device).removeprefix("cuda:")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, numbers))}


def _child(work: Work, trial: Trial, pipe: Connection, environment: Mapping[str, str], threads: int) -> None:
    """Run a trial in a worker process."""
    os.environ.update(environment)
    import torch

    torch.set_num_threads(threads)

    def on_report(number: int, report: Report) -> bool:
        pipe.send(report)
        return bool(pipe.recv())

    pipe.send(work.run(trial, on_report))
    pipe.close()
