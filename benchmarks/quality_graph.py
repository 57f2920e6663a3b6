"""Search graph cells on a real graph with SGAS, and compare the found ones with random cells.

    python benchmarks/quality_graph.py                   # the digits as a graph: some minutes of one core
    python benchmarks/quality_graph.py --graph karate    # the karate club, likewise

Every cell is trained from scratch several times on the nodes that the search saw. Printed are accuracies
on the nodes that it did not see, in percent: the mean over cells, its standard deviation, and the lowest
and highest.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_recurrent import row
from torch import Tensor
from torch.utils.data import DataLoader

from spacelang import Experiment, model_context
from spacelang.evaluators import GraphBatch, Nodes
from spacelang.evaluators.data import NodeSplits, digits_graph, karate_club
from spacelang.hub import GraphCells
from spacelang.strategies import SGAS

QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


@dataclass(frozen=True)
class Task:
    """A graph, and how its cells are searched.

    Attributes:
        load: Function that returns the graph.
        steps: Steps in an epoch of a search, each of the whole graph.
        learning_rate: Adam's learning rate for the logits.
    """

    load: Callable[[], NodeSplits]
    steps: int
    learning_rate: float


TASKS = {"digits": Task(digits_graph, 4, 1e-2), "karate": Task(karate_club, 10, 3e-3)}


class Trainings:
    """Trainings of networks on one graph.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: NodeSplits) -> None:
        self.graph = graph
        self.sizes = {"in_features": graph.x.shape[1], "num_classes": int(graph.y.max()) + 1}

    def make(self) -> GraphCells:
        """Return the space, or under `model_context` a network."""
        return GraphCells(width=8, **self.sizes)

    def evaluator(self, train: Tensor, val: Tensor, epochs: int, steps: int = 1) -> Nodes:
        """Return a training on some nodes, measured on others; each step of an epoch sees the whole graph."""
        x, edges, y = self.graph.x, self.graph.edge_index, self.graph.y
        loaders = [
            DataLoader([GraphBatch(x, edges, y, nodes)] * steps, batch_size=None) for nodes in (train, val)
        ]
        data = {"train_dataloaders": loaders[0], "val_dataloaders": loaders[1], "max_epochs": epochs}
        return Nodes(1e-2, 1e-3, **data, check_val_every_n_epoch=epochs, **QUIET)

    def found(self, task: Task, epochs: int, seed: int, folder: Path) -> Mapping[str, Any]:
        """Return the cell that SGAS finds."""
        strategy = SGAS(learning_rate=task.learning_rate, first_decision=9, period=7)
        evaluator = self.evaluator(self.graph.train, self.graph.val, epochs, task.steps)
        experiment = Experiment(self.make(), evaluator, strategy, directory=folder, seed=seed)
        experiment.run()
        return experiment.best

    def accuracy(self, arch: Mapping[str, Any], epochs: int, trainings: int) -> float:
        """Return the mean accuracy of a cell over some trainings, in percent."""
        test, measured = self.graph.test, []
        for seed in range(trainings):
            torch.manual_seed(seed)
            with model_context(arch):
                network = self.make()
            measured.append(100 * self.evaluator(~test, test, epochs).evaluate(network)["val_acc"])
        return statistics.mean(measured)


def main() -> None:
    """Search, train, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graph", choices=TASKS, default="digits")
    parser.add_argument("--search-epochs", type=int, default=50)
    parser.add_argument("--steps", type=int, help="in an epoch of a search; by default those of the graph")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of a training from scratch")
    parser.add_argument("--trainings", type=int, default=3, help="of each cell")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the searches")
    parser.add_argument("--random", type=int, default=12, help="random cells")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    task = TASKS[options.graph]
    if options.steps is not None:
        task = replace(task, steps=options.steps)
    runs = Trainings(task.load())
    rng, space = np.random.default_rng(0), runs.make()
    cells = {"random cells": [dict(space.sample(rng)) for _ in range(options.random)], "SGAS": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            start = time.perf_counter()
            found = dict(runs.found(task, options.search_epochs, seed, Path(folder, str(seed))))
            cells["SGAS"].append(found)
            print(f"seed {seed}, {time.perf_counter() - start:.0f} s: {found}", flush=True)
    print("| cells | test accuracy, % | lowest to highest |\n| --- | ---: | ---: |")
    for name, archs in cells.items():
        if archs:
            print(row(name, [runs.accuracy(arch, options.epochs, options.trainings) for arch in archs]))


if __name__ == "__main__":
    main()
