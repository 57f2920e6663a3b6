"""Trials on a Ray cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from ..errors import SpaceError, require_integer
from .trial import Report, Trial
from .work import OnReport, Outcome, Work

_POLL = 0.5  # seconds between looks at the workers' reports


class RayExecutor:
    """An executor that runs every trial as a Ray task; the ledger keeps all that must survive.

    Ray starts tasks where their resources are free, on nodes that may join and leave. A task whose node is
    lost runs again elsewhere, with the same seed; an exception in it fails the trial. A decision to stop a
    trial early reaches it with its next report.

    Args:
        workers: Number of trials at a time; None for as many as the cluster has room for, which may change.
        address: Address of a running cluster, "auto" for that of this machine; None to start one here.
        num_cpus: Processor cores of each trial, as in `ray.remote`.
        num_gpus: GPUs of each trial.
        resources: Further resources of each trial.
        max_retries: How often a trial runs again whose worker was lost.
        threads: Number of torch's threads in each trial.

    Raises:
        SpaceError: Ray is not installed, or a number is out of range.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        max_retries: int = 3,
        threads: int = 1,
    ) -> None:
        require_integer("workers", workers, least=1, optional=True)
        require_integer("threads", threads, least=1)
        try:
            import ray
        except ImportError as error:
            raise SpaceError("RayExecutor needs Ray: pip install 'spacelang-nas[ray]'.") from error
        self._ray: Any = ray
        self._workers = workers
        self._address = address
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": dict(resources or {}),
            "max_retries": max_retries,
        }
        self._threads = threads
        self._running: dict[Any, Trial] = {}
        self._started: dict[int, float] = {}
        self._board: Any = None

    @property
    def capacity(self) -> int:
        """Number of trials at a time, as the cluster is now."""
        if self._workers is not None:
            return self._workers
        if not self._ray.is_initialized():
            return 1
        total = self._ray.cluster_resources()
        needed = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
        needed |= self._options["resources"]
        rooms = [total.get(name, 0) / amount for name, amount in needed.items() if amount]
        return max(1, math.floor(min(rooms))) if rooms else 1

    def open(self, work: Work, on_report: OnReport) -> None:
        """See `Executor`."""
        self._began = not self._ray.is_initialized()
        if self._began:
            self._ray.init(address=self._address, log_to_driver=False, include_dashboard=False)
        self._on_report = on_report
        self._work = self._ray.put(work)
        self._board = self._ray.remote(num_cpus=0, scheduling_strategy=self._here())(_Board).remote()
        self._task = self._ray.remote(**self._options)(_run)

    def _here(self) -> Any:
        """Return a placement on the driver's node, which is lost only with the driver."""
        node = self._ray.get_runtime_context().get_node_id()
        return self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)

    def submit(self, trial: Trial) -> None:
        """See `Executor`."""
        reference = self._task.remote(self._work, trial, self._board, self._threads)
        self._running[reference] = trial
        self._started[trial.number] = time.monotonic()

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Executor`."""
        deadline = time.monotonic() + timeout
        while self._running:
            pause = max(0.0, min(_POLL, deadline - time.monotonic()))
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=pause)
            self._hear()
            if ready or time.monotonic() >= deadline:
                return [self._outcome(reference) for reference in ready]
        return []

    def _hear(self) -> None:
        """Handle what workers reported since the last time."""
        numbers = {trial.number for trial in self._running.values()}
        for number, report in self._ray.get(self._board.take.remote()):
            if number in numbers and not self._on_report(number, report):
                self._board.stop.remote(number)

    def _outcome(self, reference: Any) -> Outcome:
        trial = self._running.pop(reference)
        duration = time.monotonic() - self._started.pop(trial.number)
        try:
            return self._ray.get(reference)  # type: ignore[no-any-return]
        except self._ray.exceptions.RayError as error:
            return Outcome(trial.number, {}, (), f"the worker was lost: {error}", duration)

    def cancel(self, number: int) -> None:
        """See `Executor`."""
        for reference, trial in list(self._running.items()):
            if trial.number == number:
                del self._running[reference]
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """See `Executor`."""
        for trial in list(self._running.values()):
            self.cancel(trial.number)
        if self._board is not None and self._ray.is_initialized():
            self._ray.kill(self._board)
            if self._began:
                self._ray.shutdown()
        self._board = None


class _Board:
    """An actor on which workers write reports, and read whether they should stop."""

    def __init__(self) -> None:
        self._reports: list[tuple[int, Report]] = []
        self._stopped: set[int] = set()

    def write(self, number: int, report: Report) -> bool:
        """Add a report; return whether the trial continues, as far as is known."""
        self._reports.append((number, report))
        return number not in self._stopped

    def take(self) -> list[tuple[int, Report]]:
        """Return the reports since the last call."""
        taken, self._reports = self._reports, []
        return taken

    def stop(self, number: int) -> None:
        """Mark a trial to end at its next report."""
        self._stopped.add(number)


def _run(work: Work, trial: Trial, board: Any, threads: int) -> Outcome:
    """Run a trial in a Ray task."""
    import ray
    import torch

    torch.set_num_threads(threads)
    return work.run(trial, lambda number, report: ray.get(board.write.remote(number, report)))
