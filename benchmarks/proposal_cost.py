"""Processor time that each multi-trial strategy itself takes for a trial; no trial is trained.

A search of 100 trials on `DigitsCells` with values from its table, or for `EAS` on `PlainCNN` with the share
of wide layers as value. Only the calls of `ask` are timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from spacelang import ModelSpace
from spacelang.evaluators import Tabular
from spacelang.hub import DigitsCells, PlainCNN
from spacelang.strategies import multi_trial as strategies
from spacelang.trials import Exhausted, History, Maximize, Rebuilt, Trial, key_of


def optuna(sampler: str, **settings: Any) -> strategies.Optuna:
    """Return a sampler of Optuna by its name."""
    from optuna import samplers

    return strategies.Optuna(partial(getattr(samplers, sampler), **settings))


STRATEGIES: dict[str, Callable[[], Any]] = {
    "Random": strategies.Random,
    "Grid": strategies.Grid,
    "RegularizedEvolution": lambda: strategies.RegularizedEvolution(population=20, sample=5),
    "TournamentEvolution": lambda: strategies.TournamentEvolution(population=20),
    "LocalSearch": strategies.LocalSearch,
    "PolicyGradient": strategies.PolicyGradient,
    "TransferNeuralAutoML": strategies.TransferNeuralAutoML,
    "EAS": strategies.EAS,
    "PNAS": strategies.PNAS,
    "Bananas": strategies.Bananas,
    "PredictedEvolution": lambda: strategies.PredictedEvolution(initial=20),
    "BOGCN": strategies.BOGCN,
    "NAO": strategies.NAO,
    "SemiNAS": strategies.SemiNAS,
    "BOHB": lambda: strategies.BOHB(max_epochs=3),
    "Optuna, TPE": lambda: optuna("TPESampler"),
    "Optuna, GP": lambda: optuna("GPSampler"),
    "Optuna, NSGA-II": lambda: optuna("NSGAIISampler", population_size=20),
    "Optuna, CMA-ES": lambda: optuna("CmaEsSampler", warn_independent_sampling=False),
    "Optuna, QMC": lambda: optuna("QMCSampler", scramble=True, warn_independent_sampling=False),
}


def search(strategy: Any, space: ModelSpace, value: Callable[[Any], float], trials: int) -> list[float]:
    """Return the processor seconds of each proposal of a search."""
    history = History(
        space.decision_space, [Maximize("value")], rebuilt=Rebuilt(space, lambda s: s.decision_space)
    )
    proposer, seconds = strategy.start(space), []
    for number in range(trials):
        begin = time.process_time()
        try:
            proposal = proposer.ask(history, np.random.default_rng((0, number)))
        except Exhausted:
            break
        finally:
            seconds.append(time.process_time() - begin)
        arch = history.decisions(proposal.overrides).canonical(proposal.arch)
        metrics = {"value": value(arch)}
        made = proposal.max_epochs, proposal.note, proposal.overrides
        history.add(Trial(number, arch, number, "done", *made, metrics=metrics))
    return seconds


def values(name: str) -> tuple[ModelSpace, Callable[[Any], float]]:
    """Return the space on which a strategy is timed, and a value for each architecture."""
    if name == "EAS":
        plain = PlainCNN((1, 8, 10), num_blocks=3)
        return plain, lambda arch: sum(v > 20 for k, v in arch.items() if "width" in k) / len(arch)
    cells = DigitsCells()
    table = Tabular(DigitsCells.table)
    means = {key_of(cells.canonical(arch)): table.mean(arch)["val_acc"] for arch in cells.grid()}
    middle = float(np.mean(list(means.values())))
    return cells, lambda arch: means.get(key_of(arch), middle)  # smaller cells of PNAS are not in the table


def main() -> None:
    """Time the strategies and print a table, or a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in arguments.only:
        seconds = search(STRATEGIES[name](), *values(name), arguments.trials)
        found[name] = {"trials": len(seconds), "ms_a_trial": 1000 * sum(seconds) / len(seconds)}
        if not arguments.json:
            print(f"{name:24} {found[name]['ms_a_trial']:10.1f} ms a trial", flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
