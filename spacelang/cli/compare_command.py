"""`spacelang compare`: several run folders beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from .runs import name_of, opened, result_of, say_table, seconds_of, size_of


@click.command("compare")
@click.argument(
    "directories",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    nargs=-1,
    required=True,
    metavar="DIR DIR...",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.svg|OUT.png|OUT.pdf",
    help="Also draw their progress.",
)
@click.option(
    "--metric", help="Metric to draw.  [default: the first objective, or the first that begins with val]"
)
def command(directories: tuple[Path, ...], picture: Path | None, metric: str | None) -> None:
    """Compare the run folders DIR: a table, and with --picture the progress of each."""
    from ..experiment import compared  # late: `spacelang --help` stays quick

    runs = {str(directory): opened(directory) for directory in directories}
    drawing = None if picture is None else compared(runs, metric=metric)
    rows = [
        (
            name,
            name_of(run.record, "strategy"),
            name_of(run.record, "space"),
            run.status,
            size_of(run),
            result_of(run),
            f"{seconds_of(run):.1f}",
        )
        for name, run in runs.items()
    ]
    say_table(("run", "strategy", "space", "state", "progress", "result", "seconds"), rows)
    if drawing is not None and picture is not None:
        click.echo(f"wrote {drawing.save(picture)}")
