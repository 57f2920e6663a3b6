"""Progress of a multi-trial search on the terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..trials import Budget, History, TrialSearch

_QUIET = 30.0  # seconds between lines where there is no terminal


class TrialProgress:
    """A bar with the trials done, running and failed, the best so far, and the time left.

    Without a terminal it writes a line every half minute.

    Args:
        budget: Budget of the search; the number of trials gives the bar its length.
        console: Console to draw on; stderr by default.
    """

    def __init__(self, budget: Budget, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=budget.max_trials)
        self._last = time.monotonic()

    def __enter__(self) -> TrialProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def update(self, search: TrialSearch) -> None:
        """Show the present state of the search."""
        history = search.history
        ended = history.count("done") + history.count("failed")
        text = describe(search)
        self._bar.update(self._task, completed=ended, description=text)
        if not self.console.is_terminal and time.monotonic() - self._last > _QUIET:
            self._last = time.monotonic()
            self.console.print(text)


def describe(search: TrialSearch) -> str:
    """Return one line with the counts by state and the best trial."""
    history = search.history
    text = counted(history)
    best = history.best_trial
    if best is None:
        return text
    metrics = (f"{o.metric} {best.metrics[o.metric]:.6g}" for o in history.objectives)
    return f"{text}; best: trial {best.number}, {', '.join(metrics)}"


def counted(history: History) -> str:
    """Return how many trials are in each state, in words."""
    counts = [(history.count("done"), "done"), (len(history.running), "running")]
    counts += [(history.count("failed"), "failed"), (history.count("infeasible"), "infeasible")]
    counts += [(len(history.done) - history.measured, "without a number")]
    return ", ".join(f"{count} {name}" for count, name in counts if count or name == "done")


def first_error(history: History) -> str:
    """Return a sentence with the first error of a search, or an empty text."""
    if not history.failed:
        return ""
    first = history.failed[0]
    return f" The first error, of trial {first.number}: {first.reason}"
