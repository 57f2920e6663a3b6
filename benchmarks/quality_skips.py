"""Search the operations of S2 and S3 on digits: does DARTS end in skip connections, and what helps?

    python benchmarks/quality_skips.py --directory skips
    python benchmarks/quality_skips.py --directory skips --table      # runs nothing, writes docs/quality.md

S2 and S3 are spaces of R-DARTS (arXiv:1909.09656, section 3): on each edge a skip connection or a separable
convolution, in S3 also a zero operation. Here they are in four equal cells of three nodes with two inputs
each, with 4 channels. Searches are long, on few images, without weight decay of the logits: DARTS then
comes to prefer skip connections. The columns are the number of skip connections among the six operations
found, the test accuracy after training from scratch, the largest eigenvalue of the Hessian of the validation
loss in the logits as it was measured last, and the number of epochs. Every result is written to DIRECTORY at
once, so a run that was stopped continues from there.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_digits_table
from quality_numbers import Log, interval, markdown, options, replaced, shown
from quality_tasks import Part, Task, search, train
from torch import Tensor, nn

from spacelang import Cell, ModelSpace
from spacelang import strategies as s
from spacelang.hub.operations.cell_operations import make_operation
from spacelang.language import current_architecture
from spacelang.quiet import quiet

EPOCHS, IMAGES, BATCH = 150, 100, 20  # of a search: 750 steps
TRAININGS = 2
OPERATIONS = {"S2": ("skip_connect", "sep_conv_3x3"), "S3": ("none", "skip_connect", "sep_conv_3x3")}

_RATE: dict[str, Any] = {"learning_rate": 3e-2, "weight_decay": 0.0}
_GROWTH: dict[str, Any] = {"every": 5, "window": 3, "distance": 2, "first_epoch": 30}
_MONITOR = s.Monitor(eigenvalue=True, every=EPOCHS - 1)
_LOGITS: dict[str, Any] = {**_RATE, "extras": (_MONITOR,)}
RANDOM = "random architectures"
METHODS: dict[str, Callable[[], Any]] = {
    "DARTS": lambda: s.DARTS(none=False, **_LOGITS),
    "DARTS, stop on 2 skips": lambda: s.DARTS(
        none=False, **_RATE, extras=(_MONITOR, s.StopOnSkips(cells="*"))
    ),
    "DARTS, stop on eigenvalue": lambda: s.DARTS(
        none=False, **_RATE, extras=(s.StopOnEigenvalue(**_GROWTH),)
    ),
    "R-DARTS: raised weight decay": lambda: s.DARTS(
        none=False, **_RATE, extras=(s.RaiseWeightDecay(**_GROWTH),)
    ),
    "DARTSMinus": lambda: s.DARTSMinus(none=False, **_LOGITS),
    "SDARTS, random": lambda: s.SDARTS(none=False, **_LOGITS),
    "SDARTS, adversarial": lambda: s.SDARTS(none=False, perturbation="adversarial", **_LOGITS),
    "FairDARTS": lambda: s.FairDARTS(**_LOGITS),
    "GAEA": lambda: s.GAEA(extras=(_MONITOR,)),
    "DARTSPT": lambda: s.DARTSPT(search_epochs=EPOCHS, interval=1, **_LOGITS),
}
LONGER = {"DARTSPT": EPOCHS + 10}  # eleven decisions, the first in the last epoch of the search


class Net(ModelSpace):
    """Equal cells of three nodes with two inputs each: of the two cells before.

    Args:
        operations: Candidates of every edge.
        width: Number of channels.
        cells: Number of cells.
    """

    def __init__(self, operations: tuple[str, ...], width: int = 4, cells: int = 4) -> None:
        super().__init__()
        affine = current_architecture() is not None  # batch norms of a search have no parameters
        candidates = {name: partial(_operation, name, width, affine) for name in operations}
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.cells = nn.ModuleList(
            Cell(candidates, 3, 2, 2, label="normal", distinct_inputs=True) for _ in range(cells)
        )
        self.between = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width, affine=affine)
            )
            for _ in range(cells - 1)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(3 * width, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (B, 1, 8, 8) -> (B, 10)."""
        before = present = self.stem(images)
        for cell, between in zip(self.cells, self.between, strict=False):
            before, present = present, between(cell(before, present))
        logits: Tensor = self.head(self.cells[-1](before, present))
        return logits


def _operation(name: str, width: int, affine: bool, *place: object) -> nn.Module:
    return make_operation(name, width, stride=1, affine=affine)


TASKS = {
    name: Task(name, partial(Net, operations), train_digits_table.load, batch=16, search_batch=BATCH)
    for name, operations in OPERATIONS.items()
}


def measure(task: Task, data: list[Part], name: str, seed: int) -> dict[str, Any]:
    """Search, and train what was found."""
    found: dict[str, Any] = {"eigenvalue": None, "epochs": 0}
    if name == RANDOM:
        arch = task.make().sample(np.random.default_rng(seed))
    else:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            epochs = LONGER.get(name, EPOCHS)
            few = [(images[:IMAGES], labels[:IMAGES]) for images, labels in data[:1]]
            run = Path(folder) / "run"
            experiment = search(task, [*few, *data[1:]], METHODS[name](), epochs, seed, run)
        arch, done = dict(experiment.best), experiment.search
        found = {"eigenvalue": done.records["eigenvalue"][-1], "epochs": len(done.history["normal"])}
    tests = [train(task, data, arch, seed).test for seed in range(TRAININGS)]
    skips = sum(value == "skip_connect" for value in arch.values())
    return {
        "space": task.name,
        "method": name,
        "seed": seed,
        "skips": skips,
        "tests": tests,
        **found,
        "arch": arch,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Return a table with one row for each method."""
    rows = []
    for name in [RANDOM, *METHODS]:
        mine = [run for run in runs if run["method"] == name]
        if not mine:
            continue
        tests = interval([100 * statistics.mean(run["tests"]) for run in mine])
        values = [run["eigenvalue"] for run in mine if run["eigenvalue"] is not None]
        rows.append(
            (
                f"{name} ({len(mine)})",
                ", ".join(str(run["skips"]) for run in mine),
                shown(*tests),
                f"{statistics.mean(values):.3f}" if values else "",
                ", ".join(str(run["epochs"]) for run in mine) if values else "",
            )
        )
    head = ("method (seeds)", "skips of 6", "test accuracy, %", "eigenvalue", "epochs")
    return markdown(head, rows)


def main() -> None:
    """Run the missing runs and print the tables."""
    args = options(__doc__, {"--spaces": TASKS, "--methods": METHODS}, seeds=3)
    torch.set_num_threads(1)  # the networks are too small for more
    log = Log(args.directory / "skips.jsonl", ("space", "method", "seed"))
    data = train_digits_table.load()
    todo = [
        (name, space, seed)
        for seed in range(0 if args.table else args.seeds)
        for name in [RANDOM, *args.methods]
        for space in args.spaces
    ]
    with quiet(("lightning.pytorch", "lightning.fabric"), logging.ERROR):
        for name, space, seed in todo:
            if not log.has(space=space, method=name, seed=seed):
                log.add(run := measure(TASKS[space], data, name, seed))
                print(f"{space}, {name}, seed {seed}: {run['skips']} skips", file=sys.stderr)
    if args.json:
        print(json.dumps(log.runs))
        return
    for space in args.spaces:
        if runs := [run for run in log.runs if run["space"] == space]:
            print(f"\n{space}\n\n{table(runs)}")
            if args.table:
                args.page.write_text(replaced(args.page.read_text(), space, table(runs)))


if __name__ == "__main__":
    main()
