"""`spacelang convert`: a checkpoint of another project becomes a bundle."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from .runs import described


@click.command("convert")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Entry of the hub whose architecture was trained: darts-v2.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the result.  [default: the name]",
)
@click.option(
    "--check",
    "images",
    type=click.Path(exists=True, path_type=Path),
    metavar="IMAGES",
    help="Images to check the wiring with: a folder of pictures, or a .pt or .npy file of prepared ones.",
)
def command(checkpoint: Path, name: str, output: Path | None, images: Path | None) -> None:
    """Convert the state dict in the file CHECKPOINT of another project to safetensors.

    The result is a bundle: `spacelang.hub.load(NAME, pretrained=DIR)` loads it. The names of weights and
    their shapes do not tell how a network is wired, so pass --check with images like those of the training.
    """
    hub = import_module("spacelang.hub")  # by name: the core imports no leaf
    done = hub.convert_checkpoint(checkpoint, name, output or Path(name), images=images)
    click.echo(f"names: {done.layout}")
    click.echo(f"assumed architecture: {described(done.architecture)}")
    if done.preparation is not None:
        click.echo(f"trained on: {done.preparation}")
    if done.left_out:
        click.echo(f"left out: the auxiliary head, {len(done.left_out)} tensors")
    if done.new_counters:
        click.echo(f"set to 0: the counters of {done.new_counters} batch norms, which the file does not have")
    if done.check is None:
        click.echo("not checked: whether the trained network was wired so; --check IMAGES compares")
    else:
        told = f"{done.check.norms} batch norms, divergence at most {done.check.divergence:.2g} nats"
        click.echo(f"checked: {told}, in {done.check.worst}")
    given = "".join(f", {key}={value!r}" for key, value in done.arguments.items())
    call = f"hub.load({name!r}, pretrained={str(done.folder)!r}{given})"
    if done.architecture != hub.architecture(name):  # read from the file
        call = f"load_bundle({str(done.folder)!r}, space=hub.{done.space}).model"
    click.echo(f"wrote {done.folder}; to load it: {call}")
