"""Train every architecture of the space DigitsCells and write the table that ships with the hub.

    OMP_NUM_THREADS=1 python benchmarks/train_digits_table.py

840 architectures are trained three times each, for 3 epochs on 1,000 images of scikit-learn's digits: half an
hour on one core. A row is appended when its training ends, so a run that was stopped continues from there; at
the end the rows are sorted. `--only 10 --table few.csv` tries the script.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang import model_context
from spacelang.evaluators.data import digits
from spacelang.hub import DigitsCells

SEEDS, EPOCHS, TRAIN, VALIDATION = 3, 3, 1000, 400  # the other 397 images are for the test
BATCH, RATE = 8, 0.01
Report = Callable[[dict[str, float], int], object]
CURVE = [f"val_acc@{epoch}" for epoch in range(EPOCHS)]
COLUMNS = ["arch", "seed", *CURVE, "test_acc", "params", "seconds"]


def load() -> list[tuple[Tensor, Tensor]]:
    """Return images and labels for training, validation and test, in one order for all trainings."""
    data = digits()
    images, labels = (torch.cat(pair) for pair in zip(data.train.tensors, data.test.tensors, strict=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    ends = [0, TRAIN, TRAIN + VALIDATION, len(order)]
    parts = [order[start:end] for start, end in pairwise(ends)]
    return [(images[part], labels[part]) for part in parts]


def train(
    arch: Mapping[str, Any],
    seed: int,
    data: list[tuple[Tensor, Tensor]],
    seed_generators: Callable[[int], object] = torch.manual_seed,
) -> dict[str, Any]:
    """Return one row; the seed determines initial weights and order of images.

    Args:
        arch: Architecture dict.
        seed: Seed of the training.
        data: Images and labels, as `load` returns them.
        seed_generators: Seeds the global generators; a trial of a search seeds them in another way.
    """
    seed_generators(seed)
    start = time.process_time()  # other work on the machine does not count
    with model_context(arch):
        model = DigitsCells(num_nodes=1 + ("cell/op_2_0" in arch))
    curve: list[float] = []
    metrics = fit(model, data, lambda metrics, epoch: curve.append(metrics["val_acc"]))
    seconds = time.process_time() - start
    params = sum(parameter.numel() for parameter in model.parameters())
    last = [metrics["test_acc"], params, round(seconds, 3)]
    return dict(zip(COLUMNS, [json.dumps(arch, sort_keys=True), seed, *curve, *last], strict=True))


def fit(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], report: Report, batch_size: int = BATCH
) -> dict[str, float]:
    """Train with Adam on a one-cycle schedule; random draws come from torch's global generator."""
    (images, labels), validation, test = data
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    batches = -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * batches)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        metrics = {"val_acc": accuracy(model, validation)}
        report(metrics, epoch)
    return {**metrics, "test_acc": accuracy(model, test)}


def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Return the fraction of right answers, with four decimals."""
    images, labels = part
    with torch.no_grad():
        right = model.eval()(images).argmax(1) == labels
    return round(right.float().mean().item(), 4)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows written so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]], *, append: bool) -> None:
    """Write rows, with a header at the top of the file."""
    with path.open("a" if append else "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Train the architectures that are not in the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=DigitsCells.table)
    parser.add_argument("--only", type=int, help="number of architectures; default: all")
    options = parser.parse_args()
    archs = islice(chain(DigitsCells(num_nodes=1).grid(), DigitsCells().grid()), options.only)
    jobs = [(arch, seed) for arch in archs for seed in range(SEEDS)]
    data = load()
    known = {(row["arch"], int(row["seed"])) for row in read(options.table)}
    left = [job for job in jobs if (json.dumps(job[0], sort_keys=True), job[1]) not in known]
    for arch, seed in track(left, description="Training"):
        write(options.table, [train(arch, seed, data)], append=True)
    rows = sorted(read(options.table), key=lambda row: (row["arch"], int(row["seed"])))
    write(options.table, rows, append=False)
    print(f"{len(rows)} rows in {options.table}")


if __name__ == "__main__":
    main()
