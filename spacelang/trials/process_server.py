"""A process between the driver and its trials: it starts each in a process of its own, and ends it.

    driver ──pipe── server ──fork── trial ── what the trial starts (workers of a DataLoader, programs)
                           └─fork── trial ──

It imports the user's modules and receives the evaluator with its data once; a trial forked from it has both.
It watches the driver: when that is gone, however it ended, the server ends every trial and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from .trial import Report, Trial
from .work import Outcome, Work

_POLL = 0.25  # seconds between looks at what sends no message: limits, deaths, the driver
_GRACE = 5.0  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Order:
    """A trial to begin, from the driver; `environment` is added to that of its process."""

    trial: Trial
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """Whether a trial continues, from the driver."""

    number: int
    goes_on: bool


@dataclass(frozen=True)
class Cancel:
    """A trial to end, from the driver; its outcome follows as always."""

    number: int


@dataclass(frozen=True)
class Began:
    """The process of a trial, to the driver."""

    number: int
    pid: int


@dataclass(frozen=True)
class Reported:
    """A report of a trial, to the driver, which answers."""

    number: int
    report: Report


@dataclass(frozen=True)
class Limits:
    """Limits of each trial.

    Args:
        time: Seconds; None for no limit.
        memory: Bytes of memory of all its processes; None for no limit.
        threads: Number of torch's threads.
    """

    time: float | None
    memory: int | None
    threads: int


@dataclass
class _Running:
    """A trial, its process, and how it is to end."""

    trial: Trial
    process: BaseProcess
    pipe: Connection
    started: float
    outcome: Outcome | None = None
    reason: str = ""  # why it was killed
    heard: float = 0.0  # when the outcome came
    died: float | None = None
    silent: bool = False  # its pipe is at its end


class _DriverGone(Exception):
    """The driver died, or closed its end of the pipe."""


def serve(
    driver: Connection, inherited: Sequence[Connection], work: Work, context: Any, limits: Limits
) -> None:
    """Run the trials that a driver orders until it closes its end of the pipe, or dies.

    Args:
        driver: Pipe to the driver.
        inherited: Connections to close: a process that was forked holds copies of the driver's.
        work: How to run one trial.
        context: Context of `multiprocessing` that starts the trials.
        limits: Limits of each trial.
    """
    os.setsid()  # Ctrl-C at a terminal is for the driver, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for connection in inherited:
        connection.close()
    with contextlib.suppress(_DriverGone):
        _Server(driver, work, context, limits).run()


class _Server:
    """The trials that run, and the pipe to the driver."""

    def __init__(self, driver: Connection, work: Work, context: Any, limits: Limits) -> None:
        self._driver = driver
        self._work = work
        self._context = context
        self._limits = limits
        self._parent = os.getppid()
        self._running: dict[int, _Running] = {}

    def run(self) -> None:
        """Serve until the driver is gone; then end every trial."""
        try:
            self._tell(_obstacle(self._context))
            while True:
                ready = self._wait()
                if self._driver in ready:
                    self._obey()
                for running in list(self._running.values()):
                    self._look_after(running)
        finally:
            for running in self._running.values():
                _kill(running.process)
            for running in self._running.values():
                running.process.join()

    def _wait(self) -> list[Any]:
        trials = self._running.values()
        pipes = [running.pipe for running in trials if not running.silent]
        sentinels = [running.process.sentinel for running in trials if running.died is None]
        ready = wait([self._driver, *pipes, *sentinels], _POLL)
        if os.getppid() != self._parent:  # another child of the driver may hold its end of the pipe
            raise _DriverGone
        return ready

    # -- the driver ------------------------------------------------------------------------------------

    def _tell(self, message: object) -> None:
        try:
            self._driver.send(message)
        except OSError:
            raise _DriverGone from None

    def _obey(self) -> None:
        try:
            message = self._driver.recv()
        except (EOFError, OSError):
            raise _DriverGone from None
        if isinstance(message, Order):
            self._begin(message)
        elif message.number not in self._running:
            return  # it has just ended
        elif isinstance(message, Cancel):
            self._running[message.number].reason = "the trial was cancelled."
            _kill(self._running[message.number].process)
        else:
            with contextlib.suppress(OSError):  # it has died, which will be noticed
                self._running[message.number].pipe.send(message.goes_on)

    def _begin(self, order: Order) -> None:
        ours, theirs = self._context.Pipe()
        forks = self._context.get_start_method() == "fork"
        others = [self._driver, ours, *(r.pipe for r in self._running.values())] if forks else []
        environment = {**order.environment, "OMP_NUM_THREADS": str(self._limits.threads)}
        arguments = (self._work, order.trial, theirs, others, environment, self._limits.threads, os.getpid())
        process = self._context.Process(target=_run_trial, args=arguments)
        process.start()
        theirs.close()
        self._running[order.trial.number] = _Running(order.trial, process, ours, time.monotonic())
        self._tell(Began(order.trial.number, process.pid))

    # -- the trials ------------------------------------------------------------------------------------

    def _look_after(self, running: _Running) -> None:
        """Handle what a trial sent, its death, and its limits."""
        now = time.monotonic()
        if running.died is None and not running.process.is_alive():
            running.died = now
            _kill(running.process)  # also what it started, which may hold its end of the pipe
        while not running.silent and running.pipe.poll():
            self._hear(running, now)
        if running.died is not None:
            if _is_its_own(running, now):
                self._end(running)
        elif running.outcome is None:
            running.reason = running.reason or self._broken_limit(running, now)
            if running.reason:
                _kill(running.process)
        elif now - running.heard > _GRACE:
            _kill(running.process)  # its result is here; what keeps it alive is left over

    def _hear(self, running: _Running, now: float) -> None:
        try:
            message = running.pipe.recv()
        except (EOFError, OSError):
            running.silent = True
            return
        if isinstance(message, Report):
            self._tell(Reported(running.trial.number, message))
        else:
            running.outcome, running.heard = message, now

    def _end(self, running: _Running) -> None:
        del self._running[running.trial.number]
        running.pipe.close()
        error = running.reason or f"the worker process died with exit code {running.process.exitcode}."
        duration = time.monotonic() - running.started
        self._tell(running.outcome or Outcome(running.trial.number, {}, (), error, duration))

    def _broken_limit(self, running: _Running, now: float) -> str:
        """Return which limit a trial broke, or an empty text."""
        limits = self._limits
        if limits.time is not None and now - running.started >= limits.time:
            return f"the trial took longer than its time limit of {limits.time} s."
        if limits.memory is not None and (used := memory_of(running.process.pid, limits.memory)):
            return (
                f"the trial's processes used {used:,} bytes of memory, more than its memory limit of "
                f"{limits.memory:,} bytes."
            )
        return ""


def memory_of(pid: int | None, limit: int) -> int:
    """Return the bytes of memory of a process and all that it started, or 0 where they are within `limit`.

    A page that several processes share counts once (PSS) where the system tells, as Linux does.
    """
    import psutil

    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        if sum(process.memory_info().rss for process in family) <= limit:  # quick to read, and never less
            return 0
        infos = [process.memory_full_info() for process in family]
    except psutil.Error:  # one of them has just ended; the next look will tell
        return 0
    used = sum(getattr(info, "pss", info.uss) for info in infos)
    return used if used > limit else 0


def _is_its_own(running: _Running, now: float) -> bool:
    """Return whether the end of a trial's process is to be reported as its own.

    Where somebody ends all processes of a job with SIGTERM, the driver is about to stop, and runs it again.
    """
    stopped = running.outcome is None and running.process.exitcode == -signal.SIGTERM
    return not stopped or running.died is None or now - running.died > _GRACE


def kill_group(pid: int) -> None:
    """Kill a trial's process and all that it started; not to be called once the number may be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill(process: BaseProcess) -> None:
    if process.pid is not None:
        kill_group(process.pid)
    process.kill()  # one that has just begun has no group yet


def _obstacle(context: Any) -> str:
    """Return why trials cannot be started here, or an empty text."""
    import torch

    if context.get_start_method() == "fork" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return (
            "CUDA is in use in the process that forks the trials, so no trial could use it. Move what uses "
            "the GPU when your script is imported, or data on the GPU that the evaluator holds, or pass "
            'ProcessPool(start_method="spawn").'
        )
    return ""


def _run_trial(
    work: Work,
    trial: Trial,
    pipe: Connection,
    others: Sequence[Connection],
    environment: Mapping[str, str],
    threads: int,
    server: int,
) -> None:
    """Run a trial in a process of its own, the first of a group that is killed together."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's death is this one's
    if os.getppid() != server:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for connection in others:
        connection.close()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(threads)

    def on_report(number: int, report: Report) -> bool:
        pipe.send(report)
        return bool(pipe.recv())

    pipe.send(work.run(trial, on_report))
    pipe.close()
