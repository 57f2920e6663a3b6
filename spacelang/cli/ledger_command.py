"""`spacelang ledger`: the trials of a run folder, looked over and tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..trials.ledger import Claim, Inspection

UNSOUND = 1

_directory = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
_ledger = click.option(
    "--ledger", help="URL of the ledger, where it has a password; default: what the run folder says."
)


@click.group("ledger", invoke_without_command=True, no_args_is_help=False)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Look the trials of a search over, or try failed ones again."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("check")
@_directory
@_ledger
def check(directory: Path, ledger: str | None) -> int:
    """Say whether the ledger of the run folder DIR is whole, and how its trials stand.

    Prints integrity, version, studies, trials by state, missing numbers, who runs which trial, and failed
    trials with their errors. The status is 0 if the ledger is whole and 1 if it is not; failed trials and
    claims are no damage.
    """
    from ..experiment.run_folder import RunFolder  # late: `spacelang --help` stays quick
    from ..trials.ledger import inspect

    found = inspect(*RunFolder(directory).ledger_of_trials(ledger))
    for name, text in _rows(found):
        click.echo(f"{name:<10}  {text}")
    return 0 if found.is_sound else UNSOUND


@command.command("retry")
@_directory
@click.argument("numbers", type=click.IntRange(min=0), nargs=-1, metavar="[NUMBER]...")
@_ledger
def retry(directory: Path, numbers: tuple[int, ...], ledger: str | None) -> None:
    """Have the failed trials of the run folder DIR, or those of these NUMBERs, run again.

    They wait until the search is continued with `run(resume=True)`.
    """
    from ..experiment.run_folder import RunFolder
    from ..trials import Ledger

    book = Ledger(*RunFolder(directory).ledger_of_trials(ledger))
    try:
        waiting = book.retry(numbers)
    finally:
        book.close()
    if waiting:
        named = ", ".join(map(str, waiting))
        click.echo(f"waiting to run again: {named}. Continue the search with run(resume=True).")
    else:
        click.echo("no trial has failed.")


def _rows(found: Inspection) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a report, each with its name."""
    from ..trials.ledger import SCHEMA

    yield "ledger", found.database
    yield "integrity", found.damage or "ok"
    if found.damage:
        return
    yield "version", SCHEMA
    yield "studies", ", ".join(f"{name} ({count})" for name, count in found.studies.items())
    yield "study", found.study
    yield "trials", ", ".join(f"{count} {state}" for state, count in sorted(found.counts.items())) or "none"
    yield "gaps", ", ".join(map(str, found.gaps)) or "none"
    for number, why in found.unreadable.items():
        yield "unreadable", f"{number}: {why}"
    for claim in found.claims:
        yield "claimed", f"{claim}: {_state(claim)}"
    for number, error in found.failed.items():
        yield "failed", f"{number}: {_reason(error)}"


def _state(claim: Claim) -> str:
    """Return whether the owner of a claim is alive, as far as that is known."""
    from ..trials.ledger import dead_owners

    if dead_owners([claim.owner]):
        return "its process has ended; a resumed search runs it"
    return "its lease ran out; a resumed search runs it" if claim.until < time.time() else "alive"


def _reason(error: str) -> str:
    """Return the line of an error that says what it is: the last one of a traceback, otherwise the first."""
    lines = [line for line in error.splitlines() if line.strip()] or ["no error was kept"]
    return lines[-1 if lines[0].startswith("Traceback") else 0].strip()
