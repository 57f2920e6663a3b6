"""The report of a run, kept up to date while it runs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..files import write_atomic
from ..language import Space
from ..results.course import read_course
from ..results.report import Contents, page
from ..trials import History
from .run_folder import RunFolder
from .run_status import Status, status_of

_LEAST = 5.0  # seconds between two reports
_TIMES = 50  # and as many times what one took, so that reports take at most 2 % of the time


class ReportFile:
    """The file `report.html` of a run.

    A report that fails warns; it never ends a search.

    Args:
        folder: Run folder.
        space: Space that is searched.

    Attributes:
        history: Trials of a search by trials; None of a one-shot search.
    """

    def __init__(self, folder: RunFolder, space: Space) -> None:
        self.folder = folder
        self.space = space
        self.history: History | None = None
        self._next = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say inside that the search runs; write the report at the end, whatever the end."""
        self._next = time.monotonic() + _LEAST
        try:
            with self.folder.running():
                yield
        finally:
            self.write()

    def update(self) -> None:
        """Write the report, unless the last one is too young."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write the report, unless somebody has removed the folder: the search itself says so."""
        start = time.monotonic()
        if not self.folder.root.is_dir():
            return
        try:
            contents = contents_of(self.folder, self.space, self.history)
            write_atomic(self.folder.report, page(contents).encode())
        except Exception as error:
            warnings.warn(f"report.html could not be written: {error!r}", stacklevel=2)
        now = time.monotonic()
        self._next = now + max(_LEAST, _TIMES * (now - start))


def contents_of(
    folder: RunFolder,
    space: Space | None,
    history: History | None,
    baseline: History | None = None,
    *,
    status: Status | None = None,
) -> Contents:
    """Return what a report of a run shows.

    Args:
        folder: Its folder.
        space: Its space, if that is at hand.
        history: Its trials; None of a one-shot search.
        baseline: Trials of a random search to compare with.
        status: Its state, if that is known.
    """
    course = read_course(folder.epochs)
    best = list(course.best or folder.exported()) if history is None else []
    if history is not None:
        best = [dict(t.arch) for t in history.ranked(3) if history.has_scores(t)]
    return Contents(
        directory=str(folder.root.absolute()),
        status=status or status_of(folder, course, history),
        record=folder.record(),
        history=history,
        course=course,
        summary=folder.summary,
        best=best,
        space=space,
        baseline=baseline,
    )
