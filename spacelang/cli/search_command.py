"""`spacelang search`: a whole experiment from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import SpaceError

if TYPE_CHECKING:
    from ..experiment import Experiment

# The words go to jsonargparse, which knows the arguments of the classes that the file names.
words_argument = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--KEY VALUE]...")
FOREIGN_WORDS = {"ignore_unknown_options": True, "help_option_names": []}


@click.command("search", context_settings=FOREIGN_WORDS, add_help_option=False)
@words_argument
def command(words: tuple[str, ...]) -> None:
    """Search as CONFIG.yaml says; any value can be changed by --KEY VALUE.

    `spacelang init` writes such a file. `spacelang search CONFIG.yaml --help` lists every argument of its
    classes; `spacelang search --strategy.help DARTS` those of one class.
    """
    file, rest = split_words(words)
    if not words:
        raise click.UsageError("name a file: spacelang search CONFIG.yaml. `spacelang init` writes one.")
    from .configuration import configuration_file, help_on, read_configuration  # late: torch

    if any(word == "--help" or word.endswith(".help") for word in rest):
        click.echo(help_on(rest, file))
        return
    from ..files import write_atomic
    from .configured import configured_experiment

    configuration = read_configuration(file, rest)
    experiment = configured_experiment(configuration)
    folder = experiment.directory
    if folder.is_dir() and any(folder.iterdir()):
        raise SpaceError(
            f"the folder {str(folder)!r} already holds files. Type: spacelang resume {folder}, or "
            "--directory with a new name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(configuration_file(folder), configuration.text.encode())
    experiment.run()
    say_result(experiment)


def split_words(words: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """Return the file, if the first word is one, and the other words."""
    if not words or words[0].startswith("-"):
        return None, list(words)
    return Path(words[0]), list(words[1:])


def say_result(experiment: Experiment) -> None:
    """Say where the best architecture is, and what to do with it."""
    best = experiment.directory / "architectures" / "1.yaml"
    click.echo(f"the best architecture: {best}")
    click.echo(f"look at it:            spacelang show {experiment.directory}")
    click.echo(f"train it:              spacelang retrain {best}")
