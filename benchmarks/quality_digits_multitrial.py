"""Search the space DigitsCells with every multi-trial strategy, and compare with chance.

    python benchmarks/quality_digits_multitrial.py --directory multitrial                  # in the table
    python benchmarks/quality_digits_multitrial.py --directory multitrial --mean --plot regret.svg
    python benchmarks/quality_digits_multitrial.py --directory multitrial --train          # real training

A trial reads one training of an architecture from the table that ships with the hub. The result of a search
is the architecture that `experiment.best` would return, chosen by the validation accuracy it has seen. Its
regret is the test accuracy of the best architecture minus its own, both as means over all trainings in the
table. With `--mean` a trial returns the mean over an architecture's trainings, and regret is measured in
the same mean: without noise, only the search is compared. With `--train` a trial trains.

Strategies that end trials early are compared by the epochs they spend; the unit is one training of 3 epochs.
Every finished run is kept in DIRECTORY/runs.jsonl, so a benchmark that was stopped continues from there.
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
from collections.abc import Callable, Iterable, Sequence
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
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import BayesianRidge

from spacelang import Experiment, ModelSpace
from spacelang.evaluators import Functional, Tabular
from spacelang.hub import DigitsCells
from spacelang.quiet import quiet
from spacelang.strategies import multi_trial as m
from spacelang.trials import Exhausted, History, Maximize, Proposal, Proposer, Stopper, Trial, key_of

Run = dict[str, Any]
Value = Callable[[Sequence[Any]], float]
Array = np.ndarray[Any, Any]

EPOCHS = 3  # of a training
DEAD = 0.2  # validation accuracy below which nothing was learnt; chance is 0.1
POINTS = {"table": (10, 25, 50, 100, 150), "mean": (10, 25, 50, 100, 150), "train": (5, 10, 20, 30)}
SEEDS = {"table": 50, "mean": 50, "train": 5}


def optuna(sampler: str, **arguments: Any) -> m.Optuna:
    """Return a sampler of Optuna by its name."""
    from optuna import samplers

    return m.Optuna(partial(getattr(samplers, sampler), **arguments))


# Populations, batches and rates of the papers are for thousands of trials. NATS-Bench has P = 10, S = 3.
_evolution = partial(m.RegularizedEvolution, population=10, sample=3)
_controller = partial(m.PolicyGradient, batch=10, learning_rate=0.01)
_rounds: dict[str, Any] = {"initial": 20, "round_size": 10, "parents": 10}
GROUPS: dict[str, dict[str, Callable[[], Any]]] = {
    "Nothing is learnt": {
        "Grid, shuffled": lambda: m.Grid(shuffle=True),
        "Optuna, QMC": lambda: optuna("QMCSampler", scramble=True),
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
        "TransferNeuralAutoML": lambda: m.TransferNeuralAutoML(learning_rate=0.01),
    },
    "Samplers of Optuna": {
        "Optuna, TPE": lambda: optuna("TPESampler"),
        "Optuna, GP": lambda: optuna("GPSampler"),
        "Optuna, NSGA-II": lambda: optuna("NSGAIISampler", population_size=10),
    },
    "Predictors": {
        "BANANAS": m.Bananas,
        "BANANAS, authors": m.Bananas.authors,
        "BOGCN": m.BOGCN,
        "PNAS": m.PNAS,
        "NAO": lambda: m.NAO(**_rounds),
        "SemiNAS": lambda: m.SemiNAS(**_rounds),
        "Predicted evolution": lambda: m.PredictedEvolution(initial=20, population=50, generations=20),
        "Evolution, screened": lambda: m.Promising(_evolution(), RandomForestRegressor(50)),
    },
    "Fewer epochs": {
        "Learning curves": lambda: m.LearningCurveStopping(m.Random(), regressor=BayesianRidge()),
        "Successive halving": lambda: m.SuccessiveHalving(m.Random(), EPOCHS),
        "Hyperband": lambda: m.Hyperband(m.Random(), EPOCHS),
        "ASHA": lambda: m.ASHA(m.Random(), EPOCHS),
        "BOHB": lambda: m.BOHB(max_epochs=EPOCHS),
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
    """Trainings of every architecture of the space; the file's smaller architectures are left out.

    Attributes:
        name: Name of the table.
        keys: Keys of the architectures.
        validation: Validation accuracy of each training, (architectures, seeds).
        test: Test accuracy of each training, (architectures, seeds).
    """

    name: str
    keys: tuple[str, ...]
    validation: Array
    test: Array

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a file that `train_digits_table.py` wrote."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        archs = {row["arch"]: json.loads(row["arch"]) for row in rows}
        decisions = max(map(len, archs.values()))
        found: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            pair = float(row[f"val_acc@{EPOCHS - 1}"]), float(row["test_acc"])
            if len(archs[row["arch"]]) == decisions:
                found.setdefault(key_of(archs[row["arch"]]), []).append(pair)
        values = np.array(list(found.values()))  # (architectures, seeds, 2)
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return cls(name, tuple(found), values[..., 0], values[..., 1])

    def regrets(self, mode: str) -> dict[str, float]:
        """Return how far each architecture is below the best, in percentage points, by its key."""
        means = (self.validation if mode == "mean" else self.test).mean(1)
        return dict(zip(self.keys, (100 * (means.max() - means)).tolist(), strict=True))

    def summary(self) -> dict[str, Any]:
        """Return the variation of architectures and seeds, with and without networks that learn nothing."""
        alive = self.validation.mean(1) >= DEAD
        return {
            "architectures": len(alive),
            "dead": int((~alive).sum()),
            "all": _variation(self.validation),
            "without dead": _variation(self.validation[alive]),
            "regret of trying all": self._regret_of_trying_all(),
        }

    def _regret_of_trying_all(self) -> float:
        """Return the mean regret of trying every architecture once: the cost of validation noise."""
        rng = np.random.default_rng(0)
        seen = rng.permuted(np.broadcast_to(self.validation, (1000, *self.validation.shape)), axis=2)[..., 0]
        means = self.test.mean(1)
        return float(100 * (means.max() - means[seen.argmax(1)].mean()))


def _variation(accuracy: Array) -> dict[str, float]:
    """Return standard deviations between architectures and between seeds, and the rank correlation of seeds.

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
    """A strategy and the number of epochs it may spend."""

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
    """Run one search."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        experiment = Experiment(
            DigitsCells(),
            evaluator,
            Within(STRATEGIES[name](), EPOCHS * trainings),
            objectives=[Maximize("val_acc")],
            max_failures=0,
            seed=seed,
            directory=Path(folder) / "run",
            keep_weights=0,
        )
        experiment.run()
    for trial in experiment.history:
        if trial.error:
            raise RuntimeError(f"{name}, seed {seed}, trial {trial.number}: {trial.error}")
    best = found(experiment.history)
    return {"strategy": name, "seed": seed, "best": best, "seconds": time.process_time() - start}


def found(history: History) -> list[tuple[int, float, str]]:
    """Return the best architecture after so many epochs, at each change: validation accuracy and key."""
    seen, epochs, best, keys = history.of(), 0, list[tuple[int, float, str]](), set[str]()
    for trial in history:
        seen.add(trial)
        epochs += len(trial.reports)
        key, accuracy = key_of(trial.arch), trial.metrics["val_acc"]
        if key in keys or not best or accuracy > best[-1][1]:  # else nothing can have changed
            for first in seen.ranked(1):
                best.append((epochs, first.metrics["val_acc"], key_of(first.arch)))
        keys.add(key)
    return best


def evaluator_of(mode: str, path: Path) -> Any:
    """Return an evaluator that reads the table, or trains like the table's networks."""
    if mode != "train":
        return Tabular(path, average=mode == "mean")
    from train_digits_table import fit, load

    return Functional(fit, data=load())


def at(run: Run, trainings: float) -> Sequence[Any] | None:
    """Return the best architecture after so many trainings, or None."""
    entries: list[Sequence[Any]] = run["best"]
    return next((entry for entry in reversed(entries) if entry[0] <= EPOCHS * trainings), None)


# -- showing ---------------------------------------------------------------------------------------------


def by_strategy(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each strategy, the baseline first."""
    each = {name: [run for run in runs if run["strategy"] == name] for name in STRATEGIES}
    return {name: mine for name, mine in each.items() if mine}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.mean(values), error


def course(runs: Sequence[Run], points: Iterable[float], value: Value) -> dict[float, tuple[float, float]]:
    """Return mean and standard error over runs, at the points where every run has a result."""
    entries = {n: [at(run, n) for run in runs] for n in points}
    return {n: mean_and_error([value(x) for x in each if x]) for n, each in entries.items() if all(each)}


def markdown(rows: dict[str, dict[str, Any]], points: Sequence[int], shown: str) -> str:
    """Return a Markdown table with one row for each strategy, sorted by the last column.

    Args:
        rows: Results by strategy.
        points: Numbers of trainings, the columns.
        shown: "accuracy" or "regret".
    """
    sign = 1 if shown == "regret" else -1
    ranked = sorted(rows.items(), key=lambda item: sign * item[1][shown][points[-1]][0])
    lines = [("strategy (seeds)", *map(str, points), "a run, CPU s"), ("---", *["---:"] * (len(points) + 1))]
    for name, row in ranked:
        cells = ("{:.2f} ± {:.2f}".format(*row[shown][n]) if n in row[shown] else "" for n in points)
        lines.append((f"{name} ({row['seeds']})", *cells, f"{row['seconds']:.1f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def described(summary: dict[str, Any]) -> str:
    """Return a Markdown table that describes the table of trainings."""
    kinds = ("between architectures", "between seeds", "rank correlation")
    lines = [("validation accuracy", "networks", *kinds), ("---", *["---:"] * 4)]
    for name, count in (("all", 0), ("without dead", summary["dead"])):
        values = (f"{summary[name][kind]:.3f}" for kind in kinds)
        lines.append((name, str(summary["architectures"] - count), *values))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nRegret of trying all once: {summary['regret of trying all']:.2f}"


def plot(runs: dict[str, list[Run]], value: Value, trainings: int, path: Path) -> None:
    """Draw regret against trainings: a panel for each group of strategies, with the baseline in each."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "regret", "font.size": 9})
    points = np.unique(np.geomspace(4, trainings, 20).round())
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.6), sharex=True, sharey=True, layout="constrained")
    for axis, (title, group) in zip(axes.flat, GROUPS.items(), strict=True):
        for i, name in enumerate([BASELINE, *group]):
            if name in runs:
                curve = course(runs[name], points, value)
                mean, error = np.array(list(curve.values())).T
                color, style = ("0.45", "--") if name == BASELINE else (f"C{i - 1}", "-")
                axis.plot(list(curve), mean, style, color=color, label=name, linewidth=1.4)
                axis.fill_between(
                    list(curve), mean - error, mean + error, color=color, alpha=0.2, linewidth=0
                )
        axis.set(title=title, xscale="log", ylim=(0, 15))
        axis.set_yscale("symlog", linthresh=0.5, linscale=0.6)  # the best is at 0
        axis.set_xticks([5, 10, 25, 50, 100], labels=["5", "10", "25", "50", "100"])
        axis.set_yticks([0, 0.5, 1, 2, 5, 10], labels=["0", "0.5", "1", "2", "5", "10"])
        axis.minorticks_off()
        axis.legend(frameon=False, loc="lower left")
    figure.supxlabel("trainings of 3 epochs", fontsize=10)
    figure.supylabel("regret: percentage points below the best", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


# -- the benchmark ---------------------------------------------------------------------------------------


def main() -> None:
    """Run the missing runs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="folder for the finished runs")
    parser.add_argument("--table", type=Path, default=DigitsCells.table)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--mean", dest="mode", action="store_const", const="mean", help="trials without noise")
    how.add_argument(
        "--train",
        dest="mode",
        action="store_const",
        const="train",
        help="train; do not read the table",
    )
    parser.set_defaults(mode="table")
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
    problem = {"mode": args.mode, "table": "" if args.mode == "train" else table.name, "trainings": trainings}
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
    regrets = table.regrets(args.mode)
    known = by_strategy(runs)
    rows = {
        name: {
            "seeds": len(mine),
            "accuracy": course(mine, points, lambda entry: 100 * float(entry[1])),
            "regret": course(mine, points, lambda entry: regrets[entry[2]]),
            "seconds": statistics.mean(run["seconds"] for run in mine),
        }
        for name, mine in known.items()
    }
    if args.plot:
        plot(known, lambda entry: regrets[entry[2]], trainings, args.plot)
    if args.json:
        print(json.dumps({**problem, "summary": table.summary(), "strategies": rows}))
    else:
        print(markdown(rows, points, "accuracy" if args.mode == "train" else "regret"))
        print(f"\n{described(table.summary())}")


if __name__ == "__main__":
    main()
