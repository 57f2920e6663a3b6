"""Searches whose trials take no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spacelang import ModelSpace
from spacelang.trials import Exhausted, History, Maximize, Objective, Proposal, Rebuilt, Trial

Measure = Callable[[Trial], "dict[str, float] | None"]
"""Metrics of a trial; None where it fails."""


def search(
    strategy: Any,
    space: ModelSpace,
    measure: Measure,
    trials: int,
    *,
    seed: int = 0,
    workers: int = 1,
    objectives: Sequence[Objective] = (Maximize("value"),),
) -> History:
    """Search until there are `trials` or the strategy ends."""
    proposer = strategy.start(space)
    history = History(space.search_space, objectives, rebuilt=Rebuilt(space, lambda s: s.search_space))
    running: list[Trial] = []
    ended = False
    while len(history) < trials and not ended:
        waits = False
        try:
            proposal = proposer.ask(history, np.random.default_rng((seed, len(history))))
        except Exhausted:
            waits, ended = True, not running
        else:
            running.append(enter(history, proposal))
        while running and (len(running) >= workers or waits):
            finish(history, running.pop(0), measure)
    return history


def enter(history: History, proposal: Proposal) -> Trial:
    """Begin a trial."""
    number, arch = len(history), history.decisions(proposal.overrides).canonical(proposal.arch)
    trial = Trial(number, arch, number, "running", proposal.max_epochs, proposal.note, proposal.overrides)
    history.add(trial)
    return trial


def finish(history: History, trial: Trial, measure: Measure) -> None:
    """End a trial."""
    metrics = measure(trial)
    state: Any = "failed" if metrics is None else "done"
    history.add(replace(trial, state=state, metrics=metrics or {}))


def archs(history: History) -> list[Any]:
    """Architectures in the order of their trials."""
    return [trial.arch for trial in history]
