"""`spacelang demo`: a whole search on real data, in a few minutes."""

from __future__ import annotations

from pathlib import Path

import click

NAME = "spacelang-demo"


@click.command("demo")
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help=f"New or empty folder for everything written.  [default: {NAME}, then {NAME}-2, ...]",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same result."
)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Epochs of the search.")
@click.option(
    "--retrain-epochs",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Epochs of training the found network.",
)
@click.option("--quick", is_flag=True, help="Small networks and one epoch each: seconds, and a poor network.")
def command(directory: str | None, seed: int, epochs: int, retrain_epochs: int, quick: bool) -> None:
    """Search a network on real data, retrain, test and export it.

    DARTS searches a small cell space on scikit-learn's handwritten digits. The found architecture is
    printed, drawn, trained larger on all training data, tested on images held out from everything
    before, and exported to ONNX. No download is needed.
    """
    folder = _free_folder() if directory is None else _usable_folder(directory)
    click.echo(f"Everything is written to {folder}; the seed is {seed}. Loading PyTorch and Lightning ...")
    from .demo_run import Plan, run

    if quick:
        plan = Plan(folder, seed, search_epochs=1, epochs=1, search_width=4, width=8, cells=3, batch_size=128)
    else:
        plan = Plan(folder, seed, search_epochs=epochs, epochs=retrain_epochs)
    run(plan)


def _usable_folder(directory: str) -> Path:
    """Return a folder the user named if it is new or empty."""
    if not directory.strip():
        raise click.BadParameter("the name of the folder is empty.", param_hint="'--directory'")
    folder = Path(directory)
    if folder.is_dir() and any(folder.iterdir()):
        raise click.BadParameter(
            f"{directory!r} already holds files; name a new or empty folder.", param_hint="'--directory'"
        )
    return folder


def _free_folder() -> Path:
    """Return the first name in the working folder that nothing has yet."""
    number = 1
    while (folder := Path(NAME if number == 1 else f"{NAME}-{number}")).exists():
        number += 1
    return folder
