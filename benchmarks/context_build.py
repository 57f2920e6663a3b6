"""Time building one architecture under `model_context` against building the whole space.

    python benchmarks/context_build.py --width 16 --cells 8

The whole space has every candidate operation on every edge; under `model_context` only the chosen operations
are built. Each pair builds both, one after the other, in one process, with a new random architecture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from spacelang import model_context
from spacelang.hub import DARTS as DartsSpace
from spacelang.language import is_frozen


def measure(width: int, cells: int, pairs: int) -> dict[str, Any]:
    """Return the milliseconds to build each, and their ratio, over all pairs except the first."""
    rng = np.random.default_rng(0)
    archs = [DartsSpace(width, cells, "cifar").sample(rng) for _ in range(pairs + 1)]
    measured = [(seconds_to_build(width, cells), seconds_to_build(width, cells, arch)) for arch in archs][1:]
    ratios = [whole / chosen for whole, chosen in measured]
    return {
        "width": width,
        "cells": cells,
        "pairs": pairs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "space_ms": 1e3 * statistics.median(whole for whole, _ in measured),
        "model_context_ms": 1e3 * statistics.median(chosen for _, chosen in measured),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def seconds_to_build(width: int, cells: int, arch: dict[str, Any] | None = None) -> float:
    """Return the seconds to build the space, or a model of `arch`."""
    start = time.perf_counter()
    if arch is None:
        model = DartsSpace(width, cells, "cifar")
    else:
        with model_context(arch):
            model = DartsSpace(width, cells, "cifar")
    seconds = time.perf_counter() - start
    assert is_frozen(model) == (arch is not None)
    return seconds


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.width, args.cells, args.pairs)
    lines = (f"{name:18} {f'{v:.4g}' if isinstance(v, float) else v}" for name, v in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
