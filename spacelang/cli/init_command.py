"""`spacelang init`: a configuration to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import SpaceError

_DATA = """\
data:                      # digits, cifar10, or my_data.Images: a LightningDataModule, or a function
  class_path: digits
loaders:
  batch_size: 64
"""
_ONE_SHOT = f"""\
# Type: spacelang search NAME
# A class is named as spacelang has it (spacelang list), or by its import path: my_module.MyClass.
directory: run             # everything is written here
seed: 0

space:                     # a space of the hub, or your own: my_module.Net
  class_path: DARTS
  init_args:
    width: 8
    num_cells: 3
    dataset: [1, 8, 10]    # channels, size and classes of the images

{_DATA}
evaluator:                 # how a network is trained
  class_path: Classification
  init_args:
    learning_rate: 0.01
trainer:                   # Lightning's Trainer: spacelang search NAME --help
  max_epochs: 10
  accelerator: cpu

strategy:                  # how to search: spacelang search --strategy.help DARTS
  class_path: DARTS
  init_args:
    learning_rate: 0.003
"""
_TRIALS = f"""\
# Type: spacelang search NAME
# A class is named as spacelang has it (spacelang list), or by its import path: my_module.MyClass.
directory: run             # everything is written here
seed: 0

space:                     # a space of the hub, or your own: my_module.Net
  class_path: DARTS
  init_args:
    width: 8
    num_cells: 3
    dataset: [1, 8, 10]    # channels, size and classes of the images

{_DATA}
evaluator:                 # how a network is trained
  class_path: Classification
  init_args:
    learning_rate: 0.01
trainer:                   # Lightning's Trainer: spacelang search NAME --help
  max_epochs: 3
  accelerator: cpu

strategy:                  # how to search: spacelang search --strategy.help RegularizedEvolution
  class_path: RegularizedEvolution
  init_args:
    population: 10
    sample: 5
max_trials: 20
objectives: [maximize val_acc]
# limits: [{{metric: params, at_most: 50000}}]
executor:
  class_path: ProcessPool
  init_args:
    workers: 2
"""


@click.command("init")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="search.yaml")
@click.option("--trials", is_flag=True, help="Search by trials, not one-shot.")
def command(file: Path, trials: bool) -> None:
    """Write a configuration for `spacelang search` into FILE.  [default: search.yaml]

    It searches a small cell on handwritten digits, in a few minutes and without a download.
    """
    text = (_TRIALS if trials else _ONE_SHOT).replace("NAME", file.name)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise SpaceError(f"'{file}' exists; name another file, or remove it.") from None
    click.echo(f"wrote {file}. Type: spacelang search {file}")
