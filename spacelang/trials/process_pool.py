"""An executor that gives each trial a process of its own."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from ..errors import SpaceError, require_integer, require_number, require_one_of
from .process_server import Answer, Began, Cancel, Limits, Order, Reported, kill_group, serve
from .trial import Trial
from .work import OnReport, Outcome, Work

_GRACE = 10.0  # seconds that the server gets to end its trials
# Of a server that forks: threads that began in it would not be in its trials, and a call of
# torch.cuda.is_available() while it imports a script must not make CUDA unusable in them.
_SERVER = {"OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class ProcessPool:
    """An executor that runs every trial in a new process, several at a time; it needs Linux or macOS.

    A process that dies, hangs or uses too much memory costs its trial, not the search. The processes end with
    the driver, however it ends, and so does what they started. A trial may start processes, such as
    `DataLoader(num_workers=2)`.

    Args:
        workers: Number of processes at a time.
        devices: Devices of each worker, one entry a worker: "cuda:1" or a list of GPU numbers becomes
            CUDA_VISIBLE_DEVICES of its process; None for the CPU alone.
        time_limit: Seconds that a trial may take; a longer one is killed and fails.
        memory_limit: Bytes of memory that a trial and what it started may use together, such as 8 * 2**30;
            one that uses more is killed and fails. Memory of GPUs does not count.
        start_method: How a process begins. "forkserver" imports the script and its modules once, in a process
            that each trial is forked from. "spawn" imports them again for each trial, which suits a script
            that uses CUDA when it is imported. "fork" copies this process, and works in a notebook. For
            the first two, space and evaluator must be defined in a module, or at the top of the script.
        threads: Number of torch's threads in each process.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        devices: Sequence[Any] | None = None,
        time_limit: float | None = None,
        memory_limit: int | None = None,
        start_method: Literal["forkserver", "spawn", "fork"] = "forkserver",
        threads: int = 1,
    ) -> None:
        if os.name != "posix":
            raise SpaceError(
                "ProcessPool needs process groups and signals of Linux or macOS; on Windows use it inside "
                "WSL, or leave executor= out, so that trials run in this process."
            )
        require_integer("workers", workers, least=1)
        require_number("time_limit", time_limit, above=0, optional=True)
        require_integer("memory_limit", memory_limit, least=1, optional=True)
        require_integer("threads", threads, least=1)
        require_one_of("start_method", start_method, ("forkserver", "spawn", "fork"))
        if devices is not None and len(devices) != workers:
            raise SpaceError(f"devices has {len(devices)} entries; pass one for each of {workers} workers.")
        self.capacity = workers
        self.devices = list(devices) if devices is not None else [None] * workers
        self.start_method = start_method
        self._limits = Limits(time_limit, memory_limit, threads)
        self._server: BaseProcess | None = None
        self._slots: dict[int, int] = {}  # slots of running trials by number
        self._pids: dict[int, int] = {}  # their processes, as soon as they are known
        self._heard: list[Outcome] = []  # what came while another trial was cancelled

    def open(self, work: Work, on_report: OnReport) -> None:
        """See `Executor`."""
        self._work, self._on_report = work, on_report

    def submit(self, trial: Trial) -> None:
        """See `Executor`."""
        if self._server is None:
            self._start_server()
        slot = next(s for s in range(self.capacity) if s not in self._slots.values())
        self._slots[trial.number] = slot
        self._tell(Order(trial, _environment(self.devices[slot])))

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Executor`."""
        if self._heard:
            return [self._heard.pop(0)]
        deadline = time.monotonic() + timeout
        while self._slots and self._pipe.poll(max(0.0, deadline - time.monotonic())):
            outcomes = self._hear()
            if outcomes:
                return outcomes
        return []

    def _tell(self, message: object) -> None:
        with suppress(OSError):  # the server has died, as the next look at the pipe will tell
            self._pipe.send(message)

    def _hear(self) -> list[Outcome]:
        """Handle one message of the server, or its death."""
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            return self._server_died()
        if isinstance(message, Outcome):
            del self._slots[message.number], self._pids[message.number]
            return [message]
        if isinstance(message, Began):
            self._pids[message.number] = message.pid
        elif isinstance(message, Reported):
            goes_on = self._on_report(message.number, message.report)
            self._tell(Answer(message.number, goes_on))
        return []

    def _server_died(self) -> list[Outcome]:
        """Return failures of all running trials; the next one gets a new server."""
        numbers, heard, server = list(self._slots), list(self._heard), self._server
        self.close()
        self._heard = heard
        code = server.exitcode if server is not None else None
        error = f"the process that starts the trials died with exit code {code}, and this trial with it."
        return [Outcome(number, {}, (), error) for number in numbers]

    def cancel(self, number: int) -> None:
        """See `Executor`; returns when its processes have ended."""
        if number in self._slots:
            self._tell(Cancel(number))
        while number in self._slots:
            outcomes = self._hear()
            self._heard += [outcome for outcome in outcomes if outcome.number != number]

    def close(self) -> None:
        """See `Executor`."""
        self._heard.clear()
        if self._server is None:
            return
        self._pipe.close()  # which the server takes as the end, whatever was being sent
        if self._server.pid is not None:  # it was started
            self._server.join(_GRACE)
            self._server.kill()
            self._server.join()
        if self._server.exitcode != 0:  # it ended nothing
            for pid in self._pids.values():
                kill_group(pid)
        atexit.unregister(self.close)
        self._server = None
        self._slots.clear()
        self._pids.clear()

    # -- the server ------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        """Start the process that starts the trials.

        Raises:
            SpaceError: It cannot import the space and the evaluator, or not start trials.
        """
        forked = self.start_method == "fork"
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        trials = multiprocessing.get_context("spawn" if self.start_method == "spawn" else "fork")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        inherited = [self._pipe] if forked else []
        server = context.Process(target=serve, args=(theirs, inherited, self._work, trials, self._limits))
        self._server = server
        atexit.register(self.close)  # before `multiprocessing` waits for its processes
        try:
            with _environment_set({} if forked else _SERVER):
                server.start()
        except Exception as error:
            self.close()
            raise SpaceError(
                f"space and evaluator cannot be sent to another process: {error}. Define them at the top of "
                'a module or of the script, or pass ProcessPool(start_method="fork").'
            ) from error
        finally:
            theirs.close()
        try:
            obstacle = self._pipe.recv()
        except (EOFError, OSError):
            server.join()
            obstacle = (
                f"the process that starts the trials ended with exit code {server.exitcode}; its error is "
                "printed above. It imports the script and receives space and evaluator: define them at the "
                'top of a module or of the script, and search under if __name__ == "__main__":. In a '
                'notebook pass ProcessPool(start_method="fork").'
            )
        if obstacle:
            self.close()
            raise SpaceError(obstacle)


@contextmanager
def _environment_set(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a process that is started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _environment(device: Any) -> Mapping[str, str]:
    if device is None:
        return {}
    numbers = device if isinstance(device, list | tuple) else [str(device).removeprefix("cuda:")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, numbers))}
