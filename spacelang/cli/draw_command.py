"""`spacelang draw`: an architecture file becomes a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import SpaceError, closest, quoted
from .runs import architecture_in, hub_space


@click.command("draw")
@click.argument(
    "architecture", metavar="ARCH.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("picture", metavar="OUT.svg|OUT.png|OUT.pdf", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--entry", metavar="NAME", help="Entry to draw, of a file that lists several.")
@click.option("--stacked", is_flag=True, help="Put cells one below the other, not in rows of two.")
def command(architecture: Path, picture: Path, entry: str | None, stacked: bool) -> None:
    """Draw the architecture in a YAML file.

    The file holds an architecture dict, as in the `architectures` folder of a run, or has one under the
    key `architecture`, as the files of a bundle and of the hub do. The space of the hub that such a file
    names says what is a cell.
    """
    from ..files import load_yaml  # late: `spacelang --help` stays quick
    from ..results import CellLayout, draw

    document = entry_of(load_yaml(architecture), entry)
    arch = architecture_in(document, architecture)
    space = None if arch is document else hub_space(document)
    layout: CellLayout = "stacked" if stacked else "side by side"
    click.echo(f"wrote {draw(arch, picture, space=space, layout=layout)}")


def entry_of(data: Any, name: str | None) -> Any:
    """Return the entry of that name where a file lists several, otherwise the whole."""
    if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
        return data
    entries = {str(item.get("name", number)): item for number, item in enumerate(data)}
    if name in entries:
        return entries[name]
    raise SpaceError(
        f"--entry={name!r} must be one of the file's entries {quoted(entries)}.{closest(name, entries)}"
    )
