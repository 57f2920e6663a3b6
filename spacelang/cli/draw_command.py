"""`spacelang draw`: an architecture file becomes a picture."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import SpaceError


@click.command("draw")
@click.argument(
    "architecture", metavar="ARCH.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("picture", metavar="OUT.svg|OUT.png", type=click.Path(dir_okay=False, path_type=Path))
def command(architecture: Path, picture: Path) -> None:
    """Draw the architecture in a YAML file.

    The file holds an architecture dict, as in the `architectures` folder of a run, or has one under the
    key `architecture`, as the files of a bundle and of the hub do.
    """
    from ..files import load_yaml
    from ..results import draw

    data = load_yaml(architecture)
    if isinstance(data, dict) and isinstance(data.get("architecture"), dict):
        data = data["architecture"]
    if not isinstance(data, dict):
        raise SpaceError(
            f"'{architecture}' holds a {type(data).__name__}; expected a mapping of label to value."
        )
    click.echo(f"wrote {draw(data, picture)}")
