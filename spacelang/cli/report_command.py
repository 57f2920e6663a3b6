"""`spacelang report`: a run folder as a page."""

from __future__ import annotations

from pathlib import Path

import click

from .runs import directory_argument, ledger_option, opened


@click.command("report")
@directory_argument
@click.option(
    "--random",
    "baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of a random search of the same space, whose course is drawn as a band.",
)
@ledger_option
def command(directory: Path, baseline: Path | None, ledger: str | None) -> None:
    """Write report.html into the run folder DIR: one file, to be opened in a browser.

    A search writes it by itself; this writes it again, with what has happened since.
    """
    run = opened(directory, ledger)
    click.echo(f"wrote {run.report(baseline=None if baseline is None else opened(baseline))}")
