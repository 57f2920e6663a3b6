"""Fit how the time of each operation grows with the number of decisions, and of trials.

    python benchmarks/growth.py --decisions 10 100 1000 10000 --trials 100 1000 10000 100000
    python benchmarks/growth.py --decisions 1000 4000 --calls

Time is fitted as size ** exponent, by a line through the logarithms of the larger half of the sizes. With
`--calls` the number of function calls is, of Python's functions and of compiled ones: the same on every
machine and in every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeAlias

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


Gauge: TypeAlias = Callable[[Callable[[], Any]], tuple[Any, float]]
"""Runs a function; returns its result and what it took."""


def seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    """Gauge the processor's time."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def calls(run: Callable[[], Any]) -> tuple[Any, float]:
    """Gauge the number of function calls."""
    found = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        result = run()
    finally:
        sys.setprofile(None)
    return result, found


def of_a_space(make: Callable[[int], ModelSpace], number: int, gauge: Gauge) -> dict[str, float]:
    """Return what each operation of a space takes."""
    taken: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        result, taken[name] = gauge(run)
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
    return taken


def _built(make: Callable[[int], ModelSpace], number: int, arch: dict[str, Any]) -> ModelSpace:
    with model_context(arch):
        return make(number)


def of_trials(number: int, gauge: Gauge) -> dict[str, float]:
    """Return what a history takes to get all trials, and to answer when it has them."""
    space = Chain(20)
    rng = np.random.default_rng(0)
    known = History(space.decision_space, [Maximize("accuracy"), Minimize("cost")])
    names = list(space.default())

    def add_all() -> None:
        for index in range(number):
            values = ("linear", "none")
            arch = {name: values[index >> k & 1] for k, name in enumerate(names)}
            metrics = {"accuracy": float(rng.random()), "cost": float(rng.random())}
            known.add(Trial(index, arch, 0, "done", metrics=metrics))

    asked: dict[str, Callable[[], Any]] = {
        "all trials added": add_all,
        "first answer": known.pareto,
        "pareto": known.pareto,
        "top 10": lambda: known.ranked(10),
        "best of those with weights": lambda: known.ranked(1, among=[0, number - 1]),
        "best": lambda: known.best_trial,
    }
    return {name: gauge(ask)[1] for name, ask in asked.items()}


def exponent(sizes: Sequence[int], taken: Sequence[float]) -> float:
    """Return the slope of log(taken) over log(size), of the larger half of the sizes, at least two."""
    first = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[first:]), np.log(np.maximum(taken[first:], 1e-7)), 1)[0])


def table(measure: Callable[[int], dict[str, float]], sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return for each operation what it takes at each size, and the exponent."""
    rows = [measure(size) for size in sizes]
    taken = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: {"taken": each, "exponent": exponent(sizes, each)} for name, each in taken.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decisions", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--levels", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--calls", action="store_true", help="count function calls instead of seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    gauge = calls if args.calls else seconds
    of_a_space(Chain, 2, gauge)  # what torch imports when it is first used
    measured: dict[str, tuple[Callable[[int], dict[str, float]], list[int]]] = {
        "independent decisions": (lambda n: of_a_space(Chain, n, gauge), args.decisions),
        "blocks of a Repeat": (lambda n: of_a_space(Deep, n, gauge), args.depths),
        "nested decisions": (lambda n: of_a_space(Nested, n, gauge), args.levels),
        "trials": (lambda n: of_trials(n, gauge), args.trials),
    }
    result = {name: {"sizes": sizes, **table(measure, sizes)} for name, (measure, sizes) in measured.items()}
    if args.json:
        print(json.dumps(result))
        return
    for name, rows in result.items():
        print(f"\n{name:28}" + "".join(f"{size:>10,}" for size in rows.pop("sizes")) + "  exponent")
        for operation, row in rows.items():
            print(
                f"{operation:28}"
                + "".join(f"{t:10.4f}" if gauge is seconds else f"{t:10,}" for t in row["taken"])
                + f"{row['exponent']:10.2f}"
            )


if __name__ == "__main__":
    main()
