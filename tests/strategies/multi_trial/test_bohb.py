"""BOHB: the budget that is modelled, what the model sees, and resumption."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.strategies import BOHB, Hyperband, Random
from spacelang.strategies.multi_trial.wrappers.bohb import _Modelled
from spacelang.testing import check_strategy
from spacelang.trials import History, Maximize, Trial

from ...toys.trials import Chain
from . import drive

VALUE = {"one": 0.0, "two": 1.0, "three": 2.0}


def total(trial: Trial) -> dict[str, float]:
    return {"value": sum(VALUE[value] for value in trial.arch.values())}


def with_budgets(*budgets: int) -> History:
    """A history of measured trials with these budgets."""
    space = Chain(3)
    history = History(space.decision_space, [Maximize("value")])
    for number, budget in enumerate(budgets):
        arch = space.decision_space.at(number)
        trial = Trial(number, arch, number, "done", budget)
        history.add(Trial(number, arch, number, "done", budget, metrics=total(trial)))
    return history


@pytest.mark.parametrize(
    ("budgets", "informed"),
    [((1, 1), math.inf), ((1, 1, 1), 1), ((1, 3, 1, 3), 1), ((1, 3, 3, 1, 9), 3), ((9, 9, 9, 1, 1), 9)],
)
def test_the_largest_budget_with_enough_trials_is_modelled(budgets: Any, informed: float) -> None:
    proposer: Any = _Modelled(BOHB(max_epochs=9, min_points=3, random_fraction=0.0)).start(Chain(3))
    history = with_budgets(*budgets)
    proposal = proposer.ask(history, np.random.default_rng(0))
    assert proposer.budget == informed
    assert bool(proposal.note) == (informed < math.inf)
    if proposal.note:
        shown = {trial.number: trial.state for trial in proposer.view}
        assert shown == {n: "done" if b >= informed else "failed" for n, b in enumerate(budgets)}


def test_a_share_is_random_and_all_until_a_budget_has_enough() -> None:
    history = drive.search(BOHB(max_epochs=9, random_fraction=0.5), Chain(4), total, 40)
    new = [trial for trial in history if trial.note["rung"] == 0]
    modelled = ["inner" in trial.note["inner"] for trial in new]
    assert not any(modelled[:5])  # one more than the decisions must be measured, and the first rung has nine
    assert 0 < sum(modelled) < len(modelled)
    plain = drive.search(Hyperband(Random(), 9), Chain(4), total, 40)
    assert [t.max_epochs for t in plain] == [t.max_epochs for t in history]


@pytest.mark.slow
def test_it_finds_more_than_hyperband_alone() -> None:
    """The mean of what is newly proposed, once enough is known."""

    def later(strategy: Any) -> float:
        history = drive.search(strategy, Chain(6), total, 90)
        return float(np.mean([t.metrics["value"] for t in list(history)[40:] if t.note["rung"] == 0]))

    assert later(BOHB(max_epochs=9)) > later(Hyperband(Random(), 9)) + 1


@pytest.mark.slow
def test_it_keeps_the_promises_of_a_strategy() -> None:
    check_strategy(BOHB(max_epochs=4, eta=2, min_points=3), trials=16)


def test_refusals() -> None:
    for settings in ({"random_fraction": 2}, {"candidates": 0}, {"min_points": 0}, {"max_epochs": 0}):
        with pytest.raises(SpaceError, match=str(next(iter(settings)))):
            BOHB(**{"max_epochs": 9, **settings})  # type: ignore[arg-type]
