"""Fewer epochs and a smaller space: what is tried, and what the wrapped strategy sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import (
    ASHA,
    Bananas,
    Deduplicate,
    FewerEpochs,
    Filter,
    Grid,
    Hyperband,
    LocalSearch,
    Random,
    RegularizedEvolution,
    Repeated,
    Retry,
    SmallerSpace,
    SuccessiveHalving,
    WarmStart,
)
from spacelang.trials import Trial

from ...toys import trials as toy
from ...toys.trials import Chain
from .drive import archs, search
from .test_predictor_search import quick_mlp

EVOLUTION = RegularizedEvolution(population=4, sample=2)


class Scaled(Chain):
    """A chain with a factor in front, and fewer layers or names if one wants."""

    def __init__(self, layers: int = 4, *, factor: float = 1.0) -> None:
        super().__init__(layers)
        self.factor = factor

    def forward(self, x: Any) -> Any:
        return self.factor * super().forward(x)


def value(trial: Trial) -> dict[str, float]:
    names = {"one": 1, "two": 2, "three": 3}
    return {"value": float(sum(names[v] * (i + 1) for i, v in enumerate(trial.arch.values())))}


# -- FewerEpochs -------------------------------------------------------------------------------------------


def test_trials_end_early(tmp_path: Path) -> None:
    run = Experiment(Chain(2), Functional(toy.curve), FewerEpochs(Grid(), 3), directory=tmp_path)
    run.run()
    assert [len(trial.reports) for trial in run.history] == [3] * 9
    assert run.best == {"layer0": "three", "layer1": "three"}
    assert run.history.ranked()[0].metrics["default"] == pytest.approx(9 * 3 / 10)


def test_proposals_are_those_of_the_strategy() -> None:
    """Budgets apart; one that the strategy gives holds where it is smaller."""
    for strategy in (EVOLUTION, Repeated(Deduplicate(EVOLUTION), 2), Hyperband(Random(), 9)):
        shorter = search(FewerEpochs(strategy, 3), Chain(4), value, 25)
        longer = search(strategy, Chain(4), value, 25)
        assert archs(shorter) == archs(longer)
        assert [t.max_epochs for t in shorter] == [min(3, t.max_epochs or 3) for t in longer]


def test_a_strategy_that_stops_trials_still_does(tmp_path: Path) -> None:
    run = Experiment(Chain(3), Functional(toy.curve), FewerEpochs(ASHA(Random(), 10), 5), directory=tmp_path)
    run.run()
    assert {len(trial.reports) for trial in run.history} == {1, 3, 5}  # rungs are at 1, 3 and 9


def test_it_may_stand_inside() -> None:
    history = search(Deduplicate(FewerEpochs(EVOLUTION, 2)), Chain(2), value, 9)
    assert (history.distinct, {trial.max_epochs for trial in history}) == (9, {2})


# -- SmallerSpace ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        EVOLUTION,
        LocalSearch(),
        Bananas(initial=9, round_size=12, predictor=quick_mlp),
        SuccessiveHalving(Deduplicate(EVOLUTION), 9, trials=9),
        Retry(Random(), 2),
        WarmStart(Grid(), [({f"layer{i}": "one" for i in range(4)}, {"value": 3.0})]),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_it_searches_as_the_strategy_does_in_the_smaller_space(strategy: Any, workers: int) -> None:
    wrapped = search(SmallerSpace(strategy, {"factor": 0.5}), Scaled(), value, 30, workers=workers)
    alone = search(strategy, Scaled(factor=0.5), value, 30, workers=workers)
    assert archs(wrapped) == archs(alone)
    assert [trial.note["inner"] for trial in wrapped] == [trial.note for trial in alone]
    assert all(trial.overrides == {"factor": 0.5} for trial in wrapped)


@pytest.mark.parametrize("wrap", [Deduplicate, Retry, Repeated, lambda s: SuccessiveHalving(s, 9, trials=9)])
def test_what_goes_around_it_keeps_the_arguments(wrap: Any) -> None:
    history = search(wrap(SmallerSpace(EVOLUTION, {"factor": 0.5})), Scaled(), value, 30)
    assert len(history) == 30
    assert all(trial.overrides == {"factor": 0.5} for trial in history)
    expected = search(wrap(EVOLUTION), Scaled(), value, 30)
    assert archs(history) == archs(expected)


def test_nothing_is_tried_twice_with_the_same_arguments() -> None:
    strategy = Deduplicate(SmallerSpace(EVOLUTION, {"factor": 0.5}))
    history = search(strategy, Scaled(2), value, 99)
    assert len({str(arch) for arch in archs(history)}) == len(history) == 9


def test_the_innermost_arguments_hold() -> None:
    inner = SmallerSpace(Grid(), {"factor": 0.5})
    history = search(SmallerSpace(inner, {"factor": 2.0, "layers": 4}), Scaled(), value, 2)
    assert [dict(trial.overrides) for trial in history] == [{"factor": 0.5, "layers": 4}] * 2


def test_with_fewer_epochs_in_an_experiment(tmp_path: Path) -> None:
    """A tenth of the value an epoch, of half the product."""
    strategy = SmallerSpace(FewerEpochs(Deduplicate(EVOLUTION), 2), {"factor": 0.5})
    run = Experiment(
        Scaled(2),
        Functional(toy.curve),
        Filter(strategy, lambda arch: arch["layer0"] != "three"),
        directory=tmp_path,
    )
    run.run()
    assert run.best == {"layer0": "two", "layer1": "three"}
    assert run.history.ranked()[0].metrics["default"] == pytest.approx(0.5 * 6 * 2 / 10)
    assert len(run.history) == 6
    assert run.export_top_models(formatter="instance")[0].factor == 1


@pytest.mark.slow
def test_an_interrupted_search_resumes_exactly(tmp_path: Path) -> None:
    strategy = SmallerSpace(Deduplicate(EVOLUTION), {"factor": 0.5})

    def run(folder: str, at: int, resume: bool = False) -> Experiment:
        experiment = Experiment(
            Scaled(), Functional(toy.Interrupting(at)), strategy, directory=tmp_path / folder, max_trials=12
        )
        experiment.run(resume=resume)
        return experiment

    whole = run("whole", 0)
    for at in (2, 9):
        with pytest.raises(KeyboardInterrupt):
            run(str(at), at)
        assert toy.trials_of(run(str(at), 0, resume=True)) == toy.trials_of(whole)


def test_an_earlier_search_is_known_without_its_proxies() -> None:
    earlier = search(SmallerSpace(Grid(), {"factor": 0.5}), Scaled(2), value, 5)
    assert WarmStart(Grid(), earlier).known == ()


# -- refusals ----------------------------------------------------------------------------------------------


def test_refusals() -> None:
    for wrong in (0, 2.5, None):
        with pytest.raises(SpaceError, match=r"epochs=.* must be an integer of at least 1"):
            FewerEpochs(Random(), wrong)  # type: ignore[arg-type]
    for empty in ({}, None, "factor"):
        with pytest.raises(SpaceError, match="expected constructor arguments"):
            SmallerSpace(Random(), empty)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="must be numbers, texts"):
        SmallerSpace(Random(), {"factor": object()})
    with pytest.raises(SpaceError, match="takes no argument 'width'"):
        SmallerSpace(Random(), {"width": 4}).start(Scaled())
    with pytest.raises(SpaceError, match=r"Scaled rebuilt with \{'layers': 2\} has .*'layer2' is missing"):
        SmallerSpace(Random(), {"layers": 2}).start(Scaled())
    with pytest.raises(SpaceError, match="SmallerSpace wraps a multi-trial strategy"):
        SmallerSpace(Random, {"factor": 1})  # type: ignore[arg-type]
