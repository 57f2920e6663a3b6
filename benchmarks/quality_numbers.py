"""What the quality benchmarks share: intervals, the best of k, a file of results, tables, options."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

PAGE = Path(__file__).parent.parent / "docs" / "quality.md"

Pool = Sequence[tuple[float, float]]
"""Trainings of random architectures: (validation, test)."""


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean and half the width of its confidence interval, by Student's t; NaN for fewer than 3."""
    n = len(values)
    if n < 3:  # of two, the interval is 18 standard errors wide
        return statistics.mean(values), math.nan
    half = student.ppf((1 + level) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return statistics.mean(values), float(half)


def best_of(pool: Pool, k: float) -> float:
    """Return the expected test value of the best of k draws by validation.

    Draws are with replacement, so the best is at most v in validation with probability F(v)^k, F being the
    share of the pool that is. Equal validations are equally likely to be chosen.

    Args:
        pool: Pairs (validation, test).
        k: Number of draws, at least 1; a fraction interpolates.
    """
    by_value: dict[float, list[float]] = {}
    for validation, test in pool:
        by_value.setdefault(validation, []).append(test)
    seen, expected = 0, 0.0
    for value in sorted(by_value):
        tests = by_value[value]
        chance = ((seen + len(tests)) / len(pool)) ** k - (seen / len(pool)) ** k
        expected += chance * statistics.mean(tests)
        seen += len(tests)
    return expected


def bootstrap(pool: Pool, statistic: Callable[[Pool], float], draws: int = 1000) -> float:
    """Return half the width of the 95 % interval of a statistic when the pool is drawn again from itself."""
    rng = np.random.default_rng(0)
    values = [statistic([pool[i] for i in rng.integers(len(pool), size=len(pool))]) for _ in range(draws)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(high - low) / 2


class Log:
    """Results in a file of JSON lines; each is written when it is known.

    Args:
        path: File, which need not exist.
        key: Names of the entries that tell results apart.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, key
        self.runs: list[dict[str, Any]] = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        self._done = {self._of(run) for run in self.runs}

    def has(self, **key: Any) -> bool:
        """Return whether a result is there."""
        return self._of(key) in self._done

    def add(self, run: dict[str, Any]) -> None:
        """Append a result."""
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        self.runs.append(run)
        self._done.add(self._of(run))

    def _of(self, run: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(run[name] for name in self.key)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: float, half: float) -> str:
    """Return a mean and its interval; a mean alone if there is none."""
    return f"{value:.1f}" if math.isnan(half) else f"{value:.1f} ± {half:.1f}"


def replaced(page: str, name: str, table: str) -> str:
    """Return a page with a new table between its two markers.

    Raises:
        ValueError: The page has no such markers.
    """
    first, last = f"<!-- quality: {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(first)
    _, closed, after = rest.partition(last)
    if not (found and closed):
        raise ValueError(f"the page has no lines {first!r} and {last!r} around a table")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


def options(
    description: str | None, choices: Mapping[str, Iterable[str]], *, seeds: int
) -> argparse.Namespace:
    """Return the options of the command line; the folder for results is there.

    Args:
        description: Documentation of the script, of which the first line is shown.
        choices: Names to choose from by option; all by default.
        seeds: Number of seeds by default.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="folder for all results")
    for option, names in choices.items():
        parser.add_argument(option, nargs="*", choices=list(names), default=list(names))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--table", action="store_true", help="run nothing; write the tables into the page")
    parser.add_argument("--page", type=Path, default=PAGE, help="page of --table")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    return args
