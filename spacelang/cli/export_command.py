"""`spacelang export`: a trained network for onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import SpaceError
from .runs import hub_class


@click.command("export")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="OUT.onnx", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--input-shape", metavar="C,H,W", help="Shape of one sample.  [default: as the bundle says]")
@click.option("--space", "space_path", metavar="IMPORT.PATH", help="Class of a space that is not in the hub.")
def command(bundle: Path, target: Path, input_shape: str | None, space_path: str | None) -> None:
    """Export the network in the folder BUNDLE, which `retrain` and `save_bundle` write, to ONNX.

    The file is run by onnxruntime beside PyTorch before it is put in place.
    """
    import torch  # late: `spacelang --help` stays quick

    from ..results import export_onnx, load_bundle

    found = load_bundle(bundle)
    shape = _shape(input_shape or found.metadata.get("input_shape"))
    loaded = load_bundle(bundle, space=_space(found.record, space_path))
    assert loaded.model is not None  # a space was passed
    done = export_onnx(loaded.model.eval(), target, torch.zeros(2, *shape), arch=loaded.arch)
    click.echo(f"wrote {done.path}; it differs from PyTorch by at most {done.max_difference:.1e}")


def _shape(given: Any) -> list[int]:
    """Return the shape of a sample.

    Raises:
        SpaceError: It is not known, or no shape.
    """
    sizes = given.split(",") if isinstance(given, str) else given or []
    try:
        shape = [int(size) for size in sizes]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise SpaceError(f"the shape of a sample is needed, such as --input-shape 3,32,32; got {given!r}.")
    return shape


def _space(record: dict[str, Any], path: str | None) -> Any:
    """Return the class of the network: the one asked for, or the one of the hub that the bundle names.

    Raises:
        SpaceError: It is not of the hub; nothing else is imported because a file says so.
    """
    from .configuration import named

    if path is not None:
        return named(path, "space")
    hub = hub_class(record)
    if hub is None:
        name = record["space"]["class"]
        raise SpaceError(f"{name!r} is not a space of the hub. Type: --space {name}, if you trust it.")
    return hub[0]
