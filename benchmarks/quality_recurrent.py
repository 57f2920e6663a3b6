"""Search recurrent cells on a text, and compare the found ones with random cells of the same space.

    python benchmarks/quality_recurrent.py --orders 1       # about five minutes of one core
    python benchmarks/quality_recurrent.py                  # first and second order

DARTS searches the cell of a small language model of characters on Python's own help, with the recipe of its
paper but for the sizes. The cells that it finds, and random ones, are trained from scratch alike. Printed are
test perplexities: the mean, its standard deviation over cells, and the lowest and highest.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spacelang import Experiment, model_context
from spacelang.evaluators import Language, RateByLength
from spacelang.evaluators.data import Windows, help_pages
from spacelang.evaluators.data.text import TextSplits
from spacelang.hub import RecurrentLM, to_recurrent_genotype
from spacelang.strategies import DARTS

SIZES: dict[str, Any] = {"num_nodes": 3, "embedding_dropout": 0.0}
RECIPE: dict[str, Any] = {
    "learning_rate": 20.0,
    "weight_decay": 5e-7,
    "optimizer": torch.optim.SGD,
    "slowness": 1e-3,
    "gradient_clip_val": 0.25,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def evaluator(text: TextSplits, epochs: int, part: str = "val") -> Language:
    """Return a training on the text, measured on another part of it."""
    return Language(
        **RECIPE,
        train_dataloaders=Windows(text.train, batch_size=16, varied=True),
        val_dataloaders=Windows(getattr(text, part), batch_size=5),
        callbacks=[RateByLength()],
        check_val_every_n_epoch=epochs,
        max_epochs=epochs,
    )


def found(text: TextSplits, epochs: int, order: int, seed: int, folder: Path) -> dict[str, Any]:
    """Return the cell that DARTS finds."""
    space = RecurrentLM(len(text.words), width=16, **SIZES)
    second = {"order": 2, "virtual_clip": 0.25} if order == 2 else {}
    strategy = DARTS(learning_rate=3e-3, betas=(0.9, 0.999), **second)
    experiment = Experiment(space, evaluator(text, epochs), strategy, directory=folder, seed=seed)
    experiment.run()
    return experiment.best


def perplexity(text: TextSplits, arch: Mapping[str, Any], epochs: int, seed: int) -> float:
    """Train a cell from scratch; return its perplexity on the test text."""
    torch.manual_seed(seed)
    with model_context(arch):
        model = RecurrentLM(len(text.words), width=32, **SIZES)
    return evaluator(text, epochs, "test").evaluate(model)["val_perplexity"]


def row(name: str, values: Sequence[float]) -> str:
    """Return a line of the table."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    mean = f"{statistics.mean(values):.2f}{spread}"
    return f"| {name} ({len(values)}) | {mean} | {min(values):.2f} to {max(values):.2f} |"


def main() -> None:
    """Search, train, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--characters", type=int, default=4_000, help="length of the text")
    parser.add_argument("--search-epochs", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=25, help="epochs of a training from scratch")
    parser.add_argument("--orders", type=int, nargs="+", choices=(1, 2), default=[1, 2], help="of DARTS")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each order")
    parser.add_argument("--random", type=int, default=8, help="random cells")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    text = help_pages(options.characters)
    rng, space = np.random.default_rng(0), RecurrentLM(len(text.words), width=16, **SIZES)
    cells = {"random cells": [space.sample(rng) for _ in range(options.random)]}
    with tempfile.TemporaryDirectory() as folder:
        for order in options.orders:
            places = [Path(folder, f"{order}-{seed}") for seed in range(options.seeds)]
            cells[f"DARTS, order {order}"] = [
                found(text, options.search_epochs, order, seed, place) for seed, place in enumerate(places)
            ]
    print("| cells | test perplexity | lowest to highest |\n| --- | ---: | ---: |")
    for name, archs in cells.items():
        print(row(name, [perplexity(text, arch, options.epochs, seed) for seed, arch in enumerate(archs)]))
    for name, archs in list(cells.items())[1:]:
        print(f"{name}:", *map(to_recurrent_genotype, archs), sep="\n  ")


if __name__ == "__main__":
    main()
