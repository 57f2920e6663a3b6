"""Executors: where trials run."""

from __future__ import annotations

from collections import deque
from typing import Protocol, runtime_checkable

from .trial import Trial
from .work import OnReport, Outcome, Work


@runtime_checkable
class Executor(Protocol):
    """A place where trials run: a driver submits up to `capacity` of them and waits for outcomes.

    Attributes:
        capacity: Number of trials at a time.
    """

    capacity: int

    def open(self, work: Work, on_report: OnReport) -> None:
        """Get ready to run trials."""
        ...

    def submit(self, trial: Trial) -> None:
        """Begin a trial."""
        ...

    def wait(self, timeout: float) -> list[Outcome]:
        """Return outcomes of trials that ended; an empty list after `timeout` seconds without one."""
        ...

    def cancel(self, number: int) -> None:
        """End a trial without an outcome."""
        ...

    def close(self) -> None:
        """Cancel running trials and end all processes; a second call does nothing."""
        ...


class InProcess:
    """An executor that runs one trial at a time in this process."""

    capacity = 1

    def __init__(self) -> None:
        self._waiting: deque[Trial] = deque()

    def open(self, work: Work, on_report: OnReport) -> None:
        """See `Executor`."""
        self._work, self._on_report = work, on_report
        self._waiting.clear()

    def submit(self, trial: Trial) -> None:
        """See `Executor`."""
        self._waiting.append(trial)

    def wait(self, timeout: float) -> list[Outcome]:
        """Run the next trial, however long it takes."""
        if not self._waiting:
            return []
        return [self._work.run(self._waiting.popleft(), self._on_report)]

    def cancel(self, number: int) -> None:
        """See `Executor`; a trial that runs cannot be cancelled here."""
        self._waiting = deque(trial for trial in self._waiting if trial.number != number)

    def close(self) -> None:
        """See `Executor`."""
        self._waiting.clear()
