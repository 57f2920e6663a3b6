"""Fit how the time of each operation grows with the number of decisions, and of trials.

    python benchmarks/growth.py --decisions 10 100 1000 10000 --trials 100 1000 10000 100000

Time is fitted as size ** exponent, by a line through the logarithms of the larger half of the sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spacelang import LayerChoice, ModelSpace, Repeat, Supernet, model_context
from spacelang.costs import expected_cost
from spacelang.trials import History, Maximize, Minimize, Trial


class Chain(ModelSpace):
    """Independent choices one after another.

    Args:
        number: Number of decisions.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        layers = [{"linear": nn.Linear(2, 2), "none": nn.Identity()} for _ in range(number)]
        self.layers = nn.ModuleList(LayerChoice(each, label=f"layer{i}") for i, each in enumerate(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers, (B, 2) -> (B, 2)."""
        for layer in self.layers:
            x = layer(x)
        return x


class Deep(ModelSpace):
    """One choice of how many of many blocks there are.

    Args:
        depth: Largest number of blocks.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = Repeat(lambda i: nn.Linear(2, 2), depth=(1, depth), label="depth")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks, (B, 2) -> (B, 2)."""
        y: Tensor = self.blocks(x)
        return y


class Nested(ModelSpace):
    """Choices one inside another.

    Args:
        levels: Number of decisions.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        layer: nn.Module = nn.Linear(2, 2)
        for level in range(levels):
            layer = LayerChoice({"inner": layer, "none": nn.Identity()}, label=f"level{level}")
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (B, 2) -> (B, 2)."""
        y: Tensor = self.layer(x)
        return y


def of_a_space(make: Callable[[int], ModelSpace], number: int) -> dict[str, float]:
    """Return the seconds of each operation of a space."""
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = run()
        seconds[name] = time.process_time() - start
        return result

    space, x, rng = timed("construction", lambda: make(number)), torch.zeros(1, 2), np.random.default_rng(0)
    arch = timed("default", space.default)
    timed("size", space.size)
    timed("sample", lambda: space.sample(rng))
    timed("validate", lambda: space.validate(arch))
    timed("canonical", lambda: space.canonical(arch))
    timed("mutate", lambda: space.mutate(arch, rng))
    timed("grid, first 3", lambda: list(islice(space.grid(), 3)))
    timed("neighbours, first 3", lambda: list(islice(space.neighbours(arch), 3)))
    timed("hash", lambda: space.hash(arch))
    timed("graph", lambda: space.graph)
    timed("model_context", lambda: _built(make, number, arch))
    timed("freeze", lambda: space.freeze(arch))
    timed("supernet", lambda: Supernet(space, execution="torch"))
    timed("trace", lambda: space.trace(x))
    cost = timed("expected_cost", lambda: expected_cost(space, "flops", x))
    timed("cost of an architecture", lambda: cost.of(arch))
    timed("report", lambda: space.report(x))
    return seconds


def _built(make: Callable[[int], ModelSpace], number: int, arch: dict[str, Any]) -> ModelSpace:
    with model_context(arch):
        return make(number)


def of_trials(number: int) -> dict[str, float]:
    """Return the seconds that a history takes per trial, and to answer when it has them all."""
    space = Chain(20)
    rng = np.random.default_rng(0)
    known = History(space.decision_space, [Maximize("accuracy"), Minimize("cost")])
    names = list(space.default())
    start = time.process_time()
    for index in range(number):
        values = ("linear", "none")
        arch = {name: values[index >> k & 1] for k, name in enumerate(names)}
        metrics = {"accuracy": float(rng.random()), "cost": float(rng.random())}
        known.add(Trial(index, arch, 0, "done", metrics=metrics))
    seconds = {"all trials added": time.process_time() - start}
    asked = {"first answer": known.pareto, "pareto": known.pareto, "top 10": lambda: known.ranked(10)}
    asked["best of those with weights"] = lambda: known.ranked(1, among=[0, number - 1])
    for name, ask in asked.items():
        start = time.process_time()
        ask()
        seconds[name] = time.process_time() - start
    start = time.process_time()
    assert known.best_trial is not None
    seconds["best"] = time.process_time() - start
    return seconds


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of log(seconds) over log(size), of the larger half of the sizes, at least two."""
    first = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[first:]), np.log(np.maximum(seconds[first:], 1e-7)), 1)[0])


def table(measure: Callable[[int], dict[str, float]], sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return for each operation the seconds at each size, and the exponent."""
    rows = [measure(size) for size in sizes]
    times = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: {"seconds": each, "exponent": exponent(sizes, each)} for name, each in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decisions", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--levels", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    of_a_space(Chain, 2)  # what torch imports when it is first used
    measured: dict[str, tuple[Callable[[int], dict[str, float]], list[int]]] = {
        "independent decisions": (lambda n: of_a_space(Chain, n), args.decisions),
        "blocks of a Repeat": (lambda n: of_a_space(Deep, n), args.depths),
        "nested decisions": (lambda n: of_a_space(Nested, n), args.levels),
        "trials": (of_trials, args.trials),
    }
    result = {name: {"sizes": sizes, **table(measure, sizes)} for name, (measure, sizes) in measured.items()}
    if args.json:
        print(json.dumps(result))
        return
    for name, rows in result.items():
        print(f"\n{name:28}" + "".join(f"{size:>10,}" for size in rows.pop("sizes")) + "  exponent")
        for operation, row in rows.items():
            print(
                f"{operation:28}" + "".join(f"{s:10.4f}" for s in row["seconds"]) + f"{row['exponent']:10.2f}"
            )


if __name__ == "__main__":
    main()
