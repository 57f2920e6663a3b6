"""Search graph cells on the karate club with SGAS, and compare the found ones with random cells.

    python benchmarks/quality_graph.py       # some minutes of one core

Every cell is trained from scratch several times on the members that the search saw. Printed are accuracies
on the 18 members that it did not see, in percent: the mean over cells, its standard deviation, and the lowest
and highest.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_recurrent import row
from torch import Tensor
from torch.utils.data import DataLoader

from spacelang import Experiment, model_context
from spacelang.evaluators import GraphBatch, Nodes
from spacelang.evaluators.data import karate_club
from spacelang.hub import GraphCells
from spacelang.strategies import SGAS

CLUB = karate_club()
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def make() -> GraphCells:
    """Return the space, or under `model_context` a network."""
    return GraphCells(width=8, in_features=34, num_classes=2)


def training(train: Tensor, val: Tensor, epochs: int, steps: int = 1) -> Nodes:
    """Return a training on some members, measured on others; each step of an epoch sees the whole graph."""
    loaders = [
        DataLoader([GraphBatch(CLUB.x, CLUB.edge_index, CLUB.y, members)] * steps, batch_size=None)
        for members in (train, val)
    ]
    data = {"train_dataloaders": loaders[0], "val_dataloaders": loaders[1], "max_epochs": epochs}
    return Nodes(learning_rate=1e-2, weight_decay=1e-3, **data, **QUIET)


def found(epochs: int, steps: int, seed: int, folder: Path) -> Mapping[str, Any]:
    """Return the cell that SGAS finds."""
    strategy = SGAS(learning_rate=3e-3, first_decision=9, period=7)
    evaluator = training(CLUB.train, CLUB.val, epochs, steps)
    experiment = Experiment(make(), evaluator, strategy, directory=folder, seed=seed)
    experiment.run()
    return experiment.best


def accuracy(arch: Mapping[str, Any], epochs: int, trainings: int) -> float:
    """Return the mean accuracy of a cell over some trainings, in percent."""
    measured = []
    for seed in range(trainings):
        torch.manual_seed(seed)
        with model_context(arch):
            network = make()
        measured.append(100 * training(~CLUB.test, CLUB.test, epochs).evaluate(network)["val_acc"])
    return statistics.mean(measured)


def main() -> None:
    """Search, train, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--search-epochs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10, help="in an epoch of a search")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of a training from scratch")
    parser.add_argument("--trainings", type=int, default=3, help="of each cell")
    parser.add_argument("--seeds", type=int, default=3, help="searches")
    parser.add_argument("--random", type=int, default=12, help="random cells")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rng, space = np.random.default_rng(0), make()
    cells = {"random cells": [space.sample(rng) for _ in range(options.random)]}
    with tempfile.TemporaryDirectory() as folder:
        cells["SGAS"] = [
            dict(found(options.search_epochs, options.steps, seed, Path(folder, str(seed))))
            for seed in range(options.seeds)
        ]
    print("| cells | test accuracy, % | lowest to highest |\n| --- | ---: | ---: |")
    for name, archs in cells.items():
        print(row(name, [accuracy(arch, options.epochs, options.trainings) for arch in archs]))


if __name__ == "__main__":
    main()
