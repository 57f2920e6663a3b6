"""`spacelang list`: the run folders below a folder, and the names that a configuration may use."""

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
    """List the runs in FOLDER and up to three levels below.

    Without FOLDER: the strategies, spaces and evaluators that a configuration may name, those that plug-ins
    add, and the runs that were given no folder.
    """
    from ..experiment import Experiment  # late: `spacelang --help` stays quick
    from ..files import cache_folder

    if folder is None:
        _say_names()
    root = folder or cache_folder() / "runs"
    found = sorted(
        path.parent
        for depth in range(_DEPTH + 1)
        for path in root.glob("/".join(["*"] * depth + ["experiment.yaml"]))
    )
    if not found:
        click.echo(f"no runs in {str(root)!r}.")
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


def _say_names() -> None:
    """Write what there is to name in a configuration."""
    from .catalogue import added, catalogue

    names = [(group.rpartition(".")[2], ", ".join(names)) for group, names in catalogue().items()]
    say_table(("", ""), names)
    rows = [(name, group, package, problem or "ok") for name, group, package, problem in added()]
    if rows:
        say_table(("plug-in", "in", "package", "state"), rows)
    click.echo()
