"""State of a run: whether it is over, goes on, or was interrupted."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..results.course import Course
from ..trials import History
from .run_folder import RunFolder

Status: TypeAlias = Literal["finished", "running", "interrupted", "diverged", "not begun"]


def status_of(folder: RunFolder, course: Course, history: History | None, *, claimed: bool = False) -> Status:
    """Return the state of a run.

    Args:
        folder: Its folder.
        course: Course of a one-shot search.
        history: Trials of a search by trials; None of a one-shot search.
        claimed: Whether somebody runs a trial of it.
    """
    if folder.divergence:
        return "diverged"
    if folder.is_running or claimed:
        return "running"
    if history is None:
        ended = bool(course.ended or (folder.exported() and not course.epochs))
    else:
        ended = "ended" in folder.summary and not history.running
    if ended:
        return "finished"
    return "interrupted" if folder.description.exists() else "not begun"
