"""Time what a search adds to each trial, with the SQLite ledger and an evaluator that takes no time.

    python benchmarks/trial_overhead.py --trials 10000
    python benchmarks/trial_overhead.py --trials 10000 --strategy evolution    # does it slow down?

A search over a space of 32 decisions reads its trials from a table, which holds exactly the architectures
that random search proposes with this seed. So only spacelang is timed: proposing, checking, writing a trial
before and after it runs, and progress. Proposals of other strategies depend on the results, so their
results are computed: the share of layers that are tanh.
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
from spacelang.strategies.multi_trial import Deduplicate, Grid, LocalSearch, Random, RegularizedEvolution
from spacelang.trials import Maximize


class Chain(ModelSpace):
    """A chain of layers with three candidates each."""

    def __init__(self, decisions: int = 32) -> None:
        super().__init__()
        candidates = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "skip": nn.Identity()}
        self.layers = nn.Sequential(*(LayerChoice(candidates, label=f"layer{i}") for i in range(decisions)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


STRATEGIES: dict[str, Callable[[], Any]] = {
    "random": Random,
    "grid": Grid,
    "evolution": RegularizedEvolution,
    "local-search": LocalSearch,
    "deduplicated-evolution": lambda: Deduplicate(RegularizedEvolution()),
}


class Timed:
    """An evaluator that records the time of every call.

    Args:
        value: Returns the accuracy of an architecture.
    """

    def __init__(self, value: Callable[[Mapping[str, Any]], float]) -> None:
        self.value = value
        self.moments: list[tuple[float, float]] = []  # wall clock, time of the processor

    def evaluate_architecture(self, arch: Mapping[str, Any], report: object = None) -> dict[str, float]:
        self.moments.append((time.perf_counter(), time.process_time()))
        return {"val_acc": self.value(arch)}


def looked_up(space: ModelSpace, trials: int, seed: int) -> Callable[[Mapping[str, Any]], float]:
    """Return an evaluator with a table of the architectures that random search proposes with this seed."""
    archs = [space.sample(np.random.default_rng((seed, number))) for number in range(trials)]
    values = np.random.default_rng(seed).random(trials)
    table = Tabular({"arch": [json.dumps(arch) for arch in archs], "val_acc": values})
    return lambda arch: table.evaluate_architecture(arch)["val_acc"]


def computed(arch: Mapping[str, Any]) -> float:
    """Return the share of layers that are tanh."""
    return sum(layer == "tanh" for layer in arch.values()) / len(arch)


def measure(trials: int, decisions: int, seed: int, strategy: str) -> dict[str, Any]:
    """Return the milliseconds from each trial to the next."""
    space = Chain(decisions)
    evaluator = Timed(looked_up(space, trials, seed) if strategy == "random" else computed)
    with tempfile.TemporaryDirectory() as folder:
        Experiment(
            space,
            evaluator,
            STRATEGIES[strategy](),
            objectives=[Maximize("val_acc")],
            max_trials=trials,
            seed=seed,
            directory=Path(folder) / "run",
        ).run()
    gaps, busy = 1e3 * np.diff(np.array(evaluator.moments), axis=0).T
    tenth = max(1, len(gaps) // 10)
    return {
        "strategy": strategy,
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
    """Run the search and print the cost of a trial."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=32)
    parser.add_argument("--strategy", choices=STRATEGIES, default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.trials, args.decisions, args.seed, args.strategy)
    lines = (f"{name:18} {f'{v:.4g}' if isinstance(v, float) else v}" for name, v in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
