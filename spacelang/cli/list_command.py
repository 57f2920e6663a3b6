"""`spacelang list`: the run folders below a folder."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import SpaceError
from .runs import name_of, result_of, say_table, size_of

_DEPTH = 3  # levels of folders that are looked through


@click.command("list")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None, required=False
)
def command(folder: Path | None) -> None:
    """List the runs in FOLDER and up to three levels below.  [default: runs without a folder of their own]"""
    from ..experiment import Experiment  # late: `spacelang --help` stays quick
    from ..files import cache_folder

    root = folder or cache_folder() / "runs"
    found = sorted(
        path.parent
        for depth in range(_DEPTH + 1)
        for path in root.glob("/".join(["*"] * depth + ["experiment.yaml"]))
    )
    if not found:
        click.echo(f"no runs in {root}.")
        return
    rows: list[tuple[object, ...]] = []
    for directory in found:
        try:
            run = Experiment.load(directory)
            told = (
                name_of(run.record, "strategy"),
                name_of(run.record, "space"),
                size_of(run),
                result_of(run),
            )
            rows.append((directory, run.status, *told))
        except SpaceError as error:
            rows.append((directory, f"unreadable: {error}", "", "", "", ""))
    say_table(("run", "state", "strategy", "space", "progress", "result"), rows)
