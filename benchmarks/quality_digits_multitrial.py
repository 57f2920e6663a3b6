"""Search the space DigitsCells with every multi-trial strategy, and compare with chance.

    python benchmarks/quality_digits_multitrial.py --directory multitrial                  # in the table
    python benchmarks/quality_digits_multitrial.py --directory multitrial --plot regret.svg
    python benchmarks/quality_digits_multitrial.py --directory multitrial --train          # real training

A trial looks one training of an architecture up in the table that ships with the hub; with `--train` it
trains. What a search holds best is what `experiment.best` would return: the architecture of the highest
validation accuracy it has seen. Its regret is the test accuracy of the best architecture less its own, both
the mean over all trainings in the table. Strategies that end trials early are compared by the epochs they
spend: the unit is one training, of 3 epochs. Every finished run is kept in DIRECTORY/runs.jsonl, so that a
benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr

from spacelang import Experiment, ModelSpace
from spacelang.evaluators import Functional, Tabular
from spacelang.hub import DigitsCells
from spacelang.quiet import quiet
from spacelang.strategies import multi_trial as m
from spacelang.trials import Exhausted, History, Maximize, Proposal, Proposer, Stopper, Trial, key_of

Run = dict[str, Any]
Array = np.ndarray[Any, Any]

EPOCHS = 3  # of a training
DEAD = 0.2  # validation accuracy below which nothing was learnt; chance is 0.1
POINTS = {"table": (10, 25, 50, 100, 150), "train": (5, 10, 20, 30)}  # trainings after which is looked
SEEDS = {"table": 50, "train": 5}


def optuna(sampler: str, **arguments: Any) -> m.Optuna:
    """A sampler of Optuna by name."""
    from optuna import samplers

    return m.Optuna(partial(getattr(samplers, sampler), **arguments))


# Populations, batches and rates of the papers are for thousands of trials. NATS-Bench has P = 10, S = 3.
_evolution = partial(m.RegularizedEvolution, population=10, sample=3)
_controller = partial(m.PolicyGradient, batch=10, learning_rate=0.01)
GROUPS: dict[str, dict[str, Callable[[], Any]]] = {
    "Nothing is learnt": {
        "Grid, shuffled": lambda: m.Grid(shuffle=True),
        "Optuna, QMC": lambda: optuna("QMCSampler"),
        "Optuna, CMA-ES": lambda: optuna("CmaEsSampler"),  # draws categories at random
    },
    "Neighbours": {
        "Evolution": _evolution,
        "Evolution, no repetition": lambda: m.Deduplicate(_evolution()),
        "Local search": m.LocalSearch,
    },
    "A controller": {
        "REINFORCE": lambda: _controller(update=m.Reinforce()),
        "PPO": lambda: _controller(update=m.PPO()),
    },
    "Samplers of Optuna": {
        "Optuna, TPE": lambda: optuna("TPESampler"),
        "Optuna, GP": lambda: optuna("GPSampler"),
        "Optuna, NSGA-II": lambda: optuna("NSGAIISampler", population_size=10),
    },
    "Predictors": {"BANANAS": m.Bananas, "BOGCN": m.BOGCN},
    "Few epochs first": {
        "Successive halving": lambda: m.SuccessiveHalving(m.Random(), EPOCHS),
        "Hyperband": lambda: m.Hyperband(m.Random(), EPOCHS),
        "ASHA": lambda: m.ASHA(m.Random(), EPOCHS),
    },
}
BASELINE = "Random"
STRATEGIES: dict[str, Callable[[], Any]] = {
    BASELINE: m.Random,
    **{name: make for group in GROUPS.values() for name, make in group.items()},
}


# -- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Every architecture's trainings.

    Attributes:
        name: tells this table from others.
        place: of an architecture in the arrays, by its key.
        validation: accuracy of each training, (architectures, seeds).
        test: the same on test images.
    """

    name: str
    place: dict[str, int]
    validation: Array
    test: Array

    @classmethod
    def read(cls, path: Path) -> Table:
        """From a file as `train_digits_table.py` writes it."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            pair = float(row[f"val_accuracy@{EPOCHS - 1}"]), float(row["test_accuracy"])
            found.setdefault(key_of(json.loads(row["arch"])), []).append(pair)
        values = np.array(list(found.values()))  # (architectures, seeds, 2)
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return cls(name, {key: i for i, key in enumerate(found)}, values[..., 0], values[..., 1])

    @property
    def regrets(self) -> Array:
        """Mean test accuracy of the best architecture less that of each, in percentage points."""
        means = self.test.mean(1)
        return np.asarray(100 * (means.max() - means))

    def regret(self, key: str) -> float:
        """Of one architecture."""
        return float(self.regrets[self.place[key]])

    def summary(self) -> dict[str, Any]:
        """How much architectures and seeds matter, with and without networks that learn nothing."""
        alive = self.validation.mean(1) >= DEAD
        return {
            "architectures": len(alive),
            "dead": int((~alive).sum()),
            "all": _variation(self.validation),
            "without dead": _variation(self.validation[alive]),
            "regret of trying all": self._regret_of_trying_all(),
        }

    def _regret_of_trying_all(self) -> float:
        """Of a search that tries every architecture once, on average: what the noise of validation costs."""
        rng = np.random.default_rng(0)
        seen = rng.permuted(np.broadcast_to(self.validation, (1000, *self.validation.shape)), axis=2)[..., 0]
        return float(self.regrets[seen.argmax(1)].mean())


def _variation(accuracy: Array) -> dict[str, float]:
    """Standard deviations between architectures and between seeds, and the rank correlation of two seeds.

    Args:
        accuracy: (architectures, seeds).
    """
    pairs = combinations(accuracy.T, 2)
    return {
        "between architectures": float(accuracy.mean(1).std(ddof=1)),
        "between seeds": float(np.sqrt(accuracy.var(1, ddof=1).mean())),
        "rank correlation": statistics.mean(spearmanr(a, b).statistic for a, b in pairs),
    }


# -- searching -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Within:
    """A strategy, and how many epochs it may spend."""

    strategy: Any
    epochs: int

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Within(self.strategy.start(space), self.epochs)


class _Within:
    def __init__(self, inner: Proposer, epochs: int) -> None:
        self.inner = inner
        self.epochs = epochs

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        if sum(len(trial.reports) for trial in history) >= self.epochs:
            raise Exhausted(f"{self.epochs} epochs were spent")
        return self.inner.ask(history, rng)

    def goes_on(self, trial: Trial, history: History) -> bool:
        return not isinstance(self.inner, Stopper) or self.inner.goes_on(trial, history)


def search(name: str, seed: int, evaluator: Any, trainings: int) -> Run:
    """One search; of the result only what was best when.

    Returns:
        "best" lists [epochs spent, validation accuracy seen, key of the architecture], each time it changes.
    """
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        experiment = Experiment(
            DigitsCells(),
            evaluator,
            Within(STRATEGIES[name](), EPOCHS * trainings),
            objectives=[Maximize("val_accuracy")],
            max_failures=0,
            seed=seed,
            directory=Path(folder) / "run",
            keep_weights=0,
        )
        experiment.run()
    epochs, best = 0, list[tuple[int, float, str]]()
    for trial in experiment.history:
        if trial.state != "done":
            raise RuntimeError(f"{name}, seed {seed}, trial {trial.number}: {trial.error}")
        epochs += len(trial.reports)
        accuracy = trial.metrics["val_accuracy"]
        if not best or accuracy > best[-1][1]:
            best.append((epochs, accuracy, key_of(trial.arch)))
    return {"strategy": name, "seed": seed, "best": best, "seconds": time.process_time() - start}


def evaluator_of(mode: str, path: Path) -> Any:
    """The table, or what it was made with."""
    if mode == "table":
        return Tabular(path)
    from train_digits_table import fit, load

    return Functional(fit, data=load())


def at(run: Run, trainings: float) -> Sequence[Any]:
    """The entry of "best" after so many trainings."""
    entries: list[Sequence[Any]] = run["best"]
    return next((entry for entry in reversed(entries) if entry[0] <= EPOCHS * trainings), entries[0])


# -- showing ---------------------------------------------------------------------------------------------


def by_strategy(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each strategy, the baseline first."""
    found = {name: [run for run in runs if run["strategy"] == name] for name in STRATEGIES}
    return {name: mine for name, mine in found.items() if mine}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.mean(values), error


def row(mine: Sequence[Run], points: Sequence[int], table: Table) -> dict[str, Any]:
    """Mean and standard error over seeds after each number of trainings, in %."""
    return {
        "seeds": len(mine),
        "accuracy": {n: mean_and_error([100 * at(run, n)[1] for run in mine]) for n in points},
        "regret": {n: mean_and_error([table.regret(at(run, n)[2]) for run in mine]) for n in points},
        "seconds": statistics.mean(run["seconds"] for run in mine),
    }


def markdown(rows: dict[str, dict[str, Any]], shown: str) -> str:
    """One row a strategy, best at the end first.

    Args:
        rows: by strategy.
        shown: "accuracy" or "regret".
    """
    points = list(next(iter(rows.values()))[shown])
    sign = 1 if shown == "regret" else -1
    ranked = sorted(rows.items(), key=lambda item: sign * item[1][shown][points[-1]][0])
    lines = [("strategy (seeds)", *map(str, points), "a run, CPU s"), ("---", *["---:"] * (len(points) + 1))]
    for name, found in ranked:
        cells = (f"{mean:.2f} ± {error:.2f}" for mean, error in found[shown].values())
        lines.append((f"{name} ({found['seeds']})", *cells, f"{found['seconds']:.1f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def described(summary: dict[str, Any]) -> str:
    """Markdown: what the table is like."""
    kinds = ("between architectures", "between seeds", "rank correlation")
    lines = [("validation accuracy", "networks", *kinds), ("---", *["---:"] * 4)]
    for name, count in (("all", 0), ("without dead", summary["dead"])):
        values = (f"{summary[name][kind]:.3f}" for kind in kinds)
        lines.append((name, str(summary["architectures"] - count), *values))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nRegret of trying all once: {summary['regret of trying all']:.2f}"


def plot(runs: Sequence[Run], table: Table, trainings: int, path: Path) -> None:
    """Regret against trainings: a panel a group of strategies, the baseline and its like in each."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "regret", "font.size": 9})
    known = by_strategy(runs)
    xs = np.unique(np.geomspace(4, trainings, 40).round())
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.6), sharex=True, sharey=True, layout="constrained")
    for axis, (title, group) in zip(axes.flat, GROUPS.items(), strict=True):
        for i, name in enumerate([BASELINE, *group]):
            if name in known:
                values = [[table.regret(at(run, x)[2]) for x in xs] for run in known[name]]
                mean, error = np.array([mean_and_error(column) for column in zip(*values, strict=True)]).T
                color = "0.45" if name == BASELINE else f"C{i - 1}"
                style = "--" if name == BASELINE else "-"
                axis.plot(xs, mean, style, color=color, label=name, linewidth=1.4)
                axis.fill_between(xs, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        axis.set(title=title, xscale="log", yscale="log")
        axis.set_xticks([5, 10, 25, 50, 100], labels=["5", "10", "25", "50", "100"])
        axis.set_yticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
        axis.minorticks_off()
        axis.legend(frameon=False, loc="lower left")
    figure.supxlabel("trainings of 3 epochs", fontsize=10)
    figure.supylabel("regret: test accuracy below the best, percentage points", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


# -- the benchmark ---------------------------------------------------------------------------------------


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="for the finished runs")
    parser.add_argument("--table", type=Path, default=DigitsCells.table)
    parser.add_argument("--train", dest="mode", action="store_const", const="train", default="table")
    parser.add_argument("--strategies", nargs="*", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, help="default: 50 in the table, 5 with --train")
    parser.add_argument("--trials", type=int, help="trainings of a search; default: 150, 30 with --train")
    parser.add_argument("--plot", type=Path, help="draw the regret against trainings, an .svg or .png file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small for more
    args.directory.mkdir(parents=True, exist_ok=True)
    trainings = args.trials or POINTS[args.mode][-1]
    points = [*(n for n in POINTS[args.mode] if n < trainings), trainings]
    table = Table.read(args.table)
    problem = {"problem": table.name if args.mode == "table" else "training", "trainings": trainings}
    log = args.directory / "runs.jsonl"
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    runs = [run for run in runs if problem.items() <= run.items()]
    done = {(run["strategy"], run["seed"]) for run in runs}
    seeds = range(args.seeds or SEEDS[args.mode])
    todo = [(name, seed) for seed in seeds for name in args.strategies if (name, seed) not in done]
    evaluator = evaluator_of(args.mode, args.table)
    with quiet(("optuna",), logging.WARNING):
        for name, seed in track(todo, description="Searching", console=Console(file=sys.stderr)):
            run = {**problem, **search(name, seed, evaluator, trainings)}
            with log.open("a") as file:
                file.write(json.dumps(run) + "\n")
            runs.append(run)
    rows = {name: row(mine, points, table) for name, mine in by_strategy(runs).items()}
    if args.plot:
        plot(runs, table, trainings, args.plot)
    if args.json:
        print(json.dumps({**problem, "summary": table.summary(), "strategies": rows}))
    else:
        print(markdown(rows, "accuracy" if args.mode == "train" else "regret"))
        print(f"\n{described(table.summary())}")


if __name__ == "__main__":
    main()
