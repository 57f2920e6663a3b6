"""`spacelang draw`: an architecture file becomes a picture."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ..errors import SpaceError, closest, quoted


@click.command("draw")
@click.argument(
    "architecture", metavar="ARCH.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("picture", metavar="OUT.svg|OUT.png|OUT.pdf", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--entry", metavar="NAME", help="Entry to draw, of a file that lists several.")
def command(architecture: Path, picture: Path, entry: str | None) -> None:
    """Draw the architecture in a YAML file.

    The file holds an architecture dict, as in the `architectures` folder of a run, or has one under the
    key `architecture`, as the files of a bundle and of the hub do. The space of the hub that such a file
    names says what is a cell.
    """
    from ..files import load_yaml  # late: `spacelang --help` stays quick
    from ..results import draw

    document = _entry(load_yaml(architecture), entry)
    if not isinstance(document, dict):
        raise SpaceError(
            f"'{architecture}' holds a {type(document).__name__}; expected a mapping of label to value."
        )
    arch, space = document, None
    if isinstance(document.get("architecture"), dict):
        arch, space = document["architecture"], _hub_space(document)
    click.echo(f"wrote {draw(arch, picture, space=space)}")


def _entry(data: Any, name: str | None) -> Any:
    """Return the entry of that name where a file lists several, otherwise the whole."""
    if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
        return data
    entries = {str(item.get("name", number)): item for number, item in enumerate(data)}
    if name in entries:
        return entries[name]
    raise SpaceError(
        f"--entry={name!r} must be one of the file's entries {quoted(entries)}.{closest(name, entries)}"
    )


def _hub_space(document: dict[str, Any]) -> Any:
    """Return the space of the hub that a document names, or None where it names none."""
    import torch  # late: `spacelang --help` stays quick

    from ..language import Space

    described = document.get("space")
    if isinstance(described, dict):  # of a bundle
        name, arguments = str(described.get("class")), described.get("arguments")
        name = name.rpartition(".")[2] if name.startswith("spacelang.hub.") else ""
    else:
        name, arguments = str(described), document.get("arguments")
    hub = import_module("spacelang.hub")  # by name: the core imports no leaf
    space = getattr(hub, name, None)
    if not isinstance(space, type) or not issubclass(space, Space):
        return None
    try:
        with torch.device("meta"):  # the graph needs no weights
            return space(**(arguments or {}))
    except TypeError as error:
        raise SpaceError(f"the arguments of {name} in the file do not fit: {error}") from error
