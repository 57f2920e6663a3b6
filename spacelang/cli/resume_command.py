"""`spacelang resume`: continue an interrupted search."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import SpaceError
from .runs import directory_argument
from .search_command import say_result


@click.command("resume")
@directory_argument
def command(directory: Path) -> None:
    """Continue the search of the run folder DIR, which `spacelang search` began.

    A finished search is left as it is.
    """
    from .configuration import configuration_file, read_configuration  # late: torch
    from .configured import configured_experiment

    file = configuration_file(directory)
    if not file.exists():
        raise SpaceError(
            f"the folder {str(directory)!r} has no {file.name}: it was not begun by `spacelang search`. "
            "Continue it in Python, with experiment.run(resume=True) in its script."
        )
    experiment = configured_experiment(read_configuration(file), directory)
    experiment.run(resume=True)
    say_result(experiment)
