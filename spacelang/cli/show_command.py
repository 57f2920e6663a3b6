"""`spacelang show`: a run folder on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .runs import (
    described,
    directory_argument,
    ledger_option,
    name_of,
    opened,
    result_of,
    say_table,
    seconds_of,
    size_of,
)

if TYPE_CHECKING:
    from ..experiment import LoadedExperiment


@click.command("show")
@directory_argument
@ledger_option
def command(directory: Path, ledger: str | None) -> None:
    """Say what the run folder DIR holds: state, progress, the best result.

    The run may be finished, interrupted or running; nothing in it is changed.
    """
    say_table(("", ""), _rows(opened(directory, ledger)))


def _rows(run: LoadedExperiment) -> Iterator[tuple[str, object]]:
    record = run.record
    yield "state", run.status
    for part in ("space", "strategy", "evaluator"):
        yield part, name_of(record, part)
    yield "seed", record.get("seed", "")
    objectives = record.get("objectives")
    if isinstance(objectives, list):
        yield "objectives", ", ".join(map(str, objectives))
    yield "progress", size_of(run)
    yield "time", f"{seconds_of(run):.1f} s"
    yield "result", result_of(run)
    if not run.is_one_shot and run.history.failed:
        first = run.history.failed[0]
        yield "failed", f"{len(run.history.failed)}; the first, trial {first.number}: {first.reason}"
    if run.has_result:
        yield "best", described(run.best)
    report = run.directory / "report.html"
    if report.exists():
        yield "report", report
