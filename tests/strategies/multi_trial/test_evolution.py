"""Regularised evolution: the deque oracle, and what is in the population."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spacelang import SpaceError
from spacelang.strategies import RegularizedEvolution
from spacelang.testing import check_strategy
from spacelang.trials import History, Maximize, Minimize, Trial

from ...toys.trials import Chain
from .drive import search


class Names:
    """A space whose mutations append the number of the step."""

    step = 0
    bound = 100

    def canonical(self, arch: Any) -> Any:
        return dict(arch)

    def mutate(self, arch: Any, rng: Any) -> Any:
        self.step += 1
        return {"name": f"{arch['name']}{self.step - 1}"}


class Scripted:
    """A generator that draws what the oracle drew."""

    draws = iter([(0, 1), (1, 2), (0, 2)])

    def integers(self, high: int, size: int) -> Any:
        assert (high, size) == (3, 2)
        return next(self.draws)


def test_deque_oracle() -> None:
    """The best dies when it is the oldest."""
    space: Any = Names()
    history = History(space, [Maximize("value")])
    for name, value in (("a", 0.1), ("b", 0.9), ("c", 0.3)):
        history.add(Trial(len(history), {"name": name}, 0, "done", metrics={"value": value}))
    strategy, rng, parents, populations = RegularizedEvolution(population=3, sample=2), Scripted(), [], []
    for step in range(3):
        proposal = strategy.ask(history, rng)  # type: ignore[arg-type]
        parent = history[proposal.note["parent"]]
        parents.append(parent.arch["name"])
        value = parent.metrics["value"] - 0.05 * (step + 1)
        history.add(Trial(len(history), proposal.arch, 0, "done", metrics={"value": value}))
        populations.append([trial.arch["name"] for trial in history.done[-3:]])
    assert parents == ["b", "b0", "b01"]
    assert populations == [["b", "c", "b0"], ["c", "b0", "b01"], ["b0", "b01", "b012"]]
    assert [t.metrics["value"] for t in history.done[-3:]] == pytest.approx([0.85, 0.75, 0.6])


def measured(history: History, count: int) -> None:
    for number in range(count):
        arch = history.space.at(number)
        history.add(Trial(number, arch, 0, "done", metrics={"value": float(number)}))


def test_the_best_of_a_sample_is_mutated_in_one_decision() -> None:
    for objective, best in ((Maximize("value"), 5), (Minimize("value"), 2)):
        history = History(Chain().decision_space, [objective])
        measured(history, 6)
        proposal = RegularizedEvolution(population=4, sample=1000).ask(history, np.random.default_rng(0))
        assert proposal.note["parent"] == best
        assert sum(proposal.arch[label] != value for label, value in history[best].arch.items()) == 1


def test_failed_trials_are_not_in_the_population() -> None:
    history = History(Chain().decision_space, [Maximize("value")])
    measured(history, 6)
    for number in range(3):
        history.add(replace(history[number], number=6 + number, state="failed", metrics={}))
    strategy = RegularizedEvolution(population=6, sample=100)
    assert strategy.ask(history, np.random.default_rng(0)).note == {"parent": 5}
    more = RegularizedEvolution(population=7)
    assert more.ask(history, np.random.default_rng(0)).note == {}  # six are measured


def test_evolution_climbs() -> None:
    """On the sum of digits it beats random search, which needs 3 ** 6 / 2 trials for the best."""
    space = Chain(6)
    digits = {"one": 1.0, "two": 2.0, "three": 3.0}
    for seed in range(5):
        history = search(
            RegularizedEvolution(population=10, sample=5),
            space,
            lambda trial: {"value": sum(digits[v] for v in trial.arch.values())},
            100,
            seed=seed,
        )
        assert history.best_trial is not None
        assert history.best_trial.metrics["value"] == 18


def test_settings_are_checked() -> None:
    with pytest.raises(SpaceError, match="sample=0 must be"):
        RegularizedEvolution(sample=0)


def test_each_decision_may_mutate_with_a_probability() -> None:
    """With probability 1 all six are drawn again; 2 of 3 values then differ, 4 of 6."""
    history = History(Chain(6).decision_space, [Maximize("value")])
    measured(history, 6)
    strategy = RegularizedEvolution(population=4, sample=100, mutation_prob=1.0)
    changed = []
    for seed in range(200):
        proposal = strategy.ask(history, np.random.default_rng(seed))
        assert proposal.note == {"parent": 5}
        changed.append(sum(proposal.arch[label] != value for label, value in history[5].arch.items()))
    assert np.mean(changed) == pytest.approx(4, abs=5 * (6 * 2 / 9 / 200) ** 0.5)


def test_crossover_mixes_two_parents_and_mutates() -> None:
    """Of parents that differ everywhere, a child has each label from one of them, except the mutated one."""
    history = History(Chain(6).decision_space, [Maximize("value")])
    ones, twos = ({f"layer{i}": name for i in range(6)} for name in ("one", "two"))
    for number, arch in enumerate((ones, twos)):
        history.add(Trial(number, arch, 0, "done", metrics={"value": 1.0}))
    strategy = RegularizedEvolution(population=2, sample=1, crossover=True)
    seen = set()
    for seed in range(40):
        proposal = strategy.ask(history, np.random.default_rng(seed))
        names = list(proposal.arch.values())
        seen.add((proposal.note["parent"], proposal.note["other"]))
        assert names.count("three") <= 1
        if proposal.note["parent"] == proposal.note["other"]:
            assert sum(name != names[0] for name in names) in (1, 5)
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"mutation_prob": 0.3}, {"crossover": True}])
def test_options_keep_the_promises(settings: Any) -> None:
    check_strategy(RegularizedEvolution(population=4, sample=2, **settings), trials=12)
