"""Measure what `import spacelang` adds to `import torch`.

    python benchmarks/import_time.py

Fresh interpreters import torch and then spacelang, with a clock around each. (Whole processes with and
without spacelang differ by the same time, but vary too much to show it.) The names of spacelang are loaded
when they are first used; `all_names` is the cost of importing every name of `spacelang.__all__`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

STATEMENTS = {"import": "import spacelang", "all_names": "from spacelang import *"}
SCRIPT = """
from time import perf_counter
start = perf_counter()
import torch
middle = perf_counter()
{statement}
print(middle - start, perf_counter() - middle)
"""


def seconds(statement: str) -> tuple[float, float]:
    """Return the seconds of `import torch`, and of `statement` after it, in a fresh interpreter."""
    command = [sys.executable, "-c", SCRIPT.format(statement=statement)]
    torch, added = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(torch), float(added)


def measure(runs: int) -> dict[str, Any]:
    """Return the median seconds of each statement over `runs` interpreters, not counting a first one."""
    result: dict[str, Any] = {"runs": runs, "python": sys.version.split()[0]}
    alone: list[float] = []
    for name, statement in STATEMENTS.items():
        torch, added = zip(*[seconds(statement) for _ in range(runs + 1)][1:], strict=True)
        alone += torch
        result[f"{name}_adds_s"] = statistics.median(added)
        result[f"{name}_adds_s_lowest"], result[f"{name}_adds_s_highest"] = min(added), max(added)
    return result | {"torch_s": statistics.median(alone)}


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.runs)
    lines = (f"{name:24} {f'{v:.3f}' if isinstance(v, float) else v}" for name, v in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
