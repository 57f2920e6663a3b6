"""Time what a search adds to each trial, with the SQLite ledger and an evaluator that takes no time.

    python benchmarks/trial_overhead.py --trials 10000

A search over a space of 32 decisions looks its trials up in a table, which holds exactly what random search
will propose with this seed. So what is timed is spacelang: proposing, checking, writing a trial before and
after it runs, and progress.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import Experiment, LayerChoice, ModelSpace
from spacelang.evaluators import Tabular
from spacelang.strategies.multi_trial import Random
from spacelang.trials import Maximize


class Chain(ModelSpace):
    """A chain of layers with three candidates each."""

    def __init__(self, decisions: int = 32) -> None:
        super().__init__()
        candidates = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "skip": nn.Identity()}
        self.layers = nn.Sequential(*(LayerChoice(candidates, label=f"layer{i}") for i in range(decisions)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Timed(Tabular):
    """A table that notes when it is asked."""

    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self.moments: list[tuple[float, float]] = []  # wall clock, time of the processor

    def evaluate_architecture(
        self, arch: Mapping[str, Any], report: Callable[[dict[str, float], int], None] | None = None
    ) -> dict[str, float]:
        self.moments.append((time.perf_counter(), time.process_time()))
        return super().evaluate_architecture(arch, report)


def measure(trials: int, decisions: int, seed: int) -> dict[str, Any]:
    """Milliseconds from one trial to the next."""
    space = Chain(decisions)
    archs = [space.sample(np.random.default_rng((seed, number))) for number in range(trials)]
    values = np.random.default_rng(seed).random(trials)
    evaluator = Timed({"arch": [json.dumps(arch) for arch in archs], "accuracy": values})
    with tempfile.TemporaryDirectory() as folder:
        Experiment(
            space,
            evaluator,
            Random(),
            objectives=[Maximize("accuracy")],
            max_trials=trials,
            seed=seed,
            directory=Path(folder) / "run",
        ).run()
    gaps, busy = 1e3 * np.diff(np.array(evaluator.moments), axis=0).T
    tenth = max(1, len(gaps) // 10)
    return {
        "trials": trials,
        "decisions": decisions,
        "torch": torch.__version__,
        "median_ms": float(np.median(gaps)),
        "processor_ms": float(np.median(busy)),
        "first_tenth_ms": float(np.median(gaps[:tenth])),
        "last_tenth_ms": float(np.median(gaps[-tenth:])),
        "highest_ms": float(max(gaps)),
    }


def main() -> None:
    """Run the search and print what a trial costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.trials, args.decisions, args.seed)
    lines = (f"{name:18} {f'{v:.4g}' if isinstance(v, float) else v}" for name, v in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
