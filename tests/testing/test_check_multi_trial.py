"""Every multi-trial strategy keeps the promises of `check_strategy`, and those that break one are caught."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.linear_model import Ridge

from spacelang import ModelSpace
from spacelang.strategies.multi_trial import (
    ASHA,
    PNAS,
    PPO,
    Deduplicate,
    FewerEpochs,
    Filter,
    Grid,
    Hyperband,
    LearningCurveStopping,
    LocalSearch,
    Optuna,
    PolicyGradient,
    Random,
    RegularizedEvolution,
    Reinforce,
    Repeated,
    Retry,
    SmallerSpace,
    SuccessiveHalving,
    TournamentEvolution,
    WarmStart,
)
from spacelang.strategies.multi_trial.predictors import MLPEnsemble, partial_one_hot
from spacelang.testing import check_strategy, toy_spaces
from spacelang.trials import Exhausted, History, Proposal, Trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:.* decisions at random, whatever it has learnt"),
]

EVERY = set(toy_spaces())
SMALL = {name for name, space in toy_spaces().items() if space.size() <= 30}
LARGE = {name for name, space in toy_spaces().items() if space.size() > 8}

CONTROLLER: dict[str, Any] = {"batch": 6, "hidden": 4, "learning_rate": 0.01}
EVOLUTION = RegularizedEvolution(population=5, sample=3)
TPE = functools.partial(optuna.samplers.TPESampler, n_startup_trials=5, multivariate=True, group=True)
SAMPLERS = optuna.samplers
CURVES = LearningCurveStopping(Random(), min_curves=5, regressor=Ridge())

STRATEGIES: dict[str, Any] = {
    "random": Random(),
    "grid": Grid(),
    "grid-shuffled": Grid(shuffle=True),
    "local": LocalSearch(),
    "deduplicated": Deduplicate(EVOLUTION),
    "deduplicated-controller": Deduplicate(PolicyGradient(update=Reinforce(), **CONTROLLER)),
    "hyperband": Hyperband(Random(), 9),
    "halving": SuccessiveHalving(Deduplicate(EVOLUTION), 9, trials=9),
    "asha": ASHA(Random(), 9),
    "curves": CURVES,
    "curves-asha": LearningCurveStopping(ASHA(Random(), 9), min_curves=3, regressor=Ridge()),
    "deduplicated-curves": Deduplicate(CURVES),
    "retried": Retry(Grid(), times=2),
    "repeated": Repeated(Grid(), times=2),
    "shortened": FewerEpochs(Deduplicate(EVOLUTION), 3),
    "stacked": Repeated(
        Deduplicate(Filter(LocalSearch(), lambda arch: sum(str(arch).encode()) % 4 > 0)), times=2
    ),
}
REPEATING: dict[str, Any] = {
    "evolution": EVOLUTION,
    "tournaments": TournamentEvolution(population=5, tournament=0.4, mutations=9),
    "mutations": TournamentEvolution(population=5, tournament=None, mutations=9),
    "ppo": PolicyGradient(update=PPO(steps=2), **CONTROLLER),
    "reinforce": PolicyGradient(update=Reinforce(), **CONTROLLER),
    "optuna-tpe": Optuna(TPE),
    "optuna-nsga2": Optuna(functools.partial(SAMPLERS.NSGAIISampler, population_size=4)),
    "optuna-nsga3": Optuna(functools.partial(SAMPLERS.NSGAIIISampler, population_size=4)),
    "optuna-random": Optuna(SAMPLERS.RandomSampler),
    "retried-optuna": Retry(Optuna(TPE)),
    "hyperband-optuna": Hyperband(Optuna(TPE), 9),
}
INDEPENDENT: dict[str, Any] = {
    "optuna-cma": functools.partial(
        SAMPLERS.CmaEsSampler, n_startup_trials=2, warn_independent_sampling=False
    ),
    "optuna-qmc": functools.partial(SAMPLERS.QMCSampler, warn_independent_sampling=False),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_conforms(name: str) -> None:
    result = check_strategy(STRATEGIES[name])
    assert set(result.searched) == EVERY
    assert set(result.exhausted) == SMALL
    stops = "asha" in name or "curves" in name
    assert set(result.stopped) >= LARGE if stops else not result.stopped


@pytest.mark.parametrize("name", REPEATING)
def test_strategies_that_repeat_conform(name: str) -> None:
    """They may try an architecture again, and end when there is no other."""
    result = check_strategy(REPEATING[name], trials=16)
    assert set(result.searched) == EVERY
    assert set(result.exhausted) <= SMALL


def test_random_search_that_repeats_never_ends() -> None:
    assert check_strategy(Random(distinct=False)).exhausted == ()


@pytest.mark.filterwarnings("ignore:.*CmaEsSampler will not use them")
@pytest.mark.parametrize("name", INDEPENDENT)
def test_samplers_for_numbers_conform(name: str) -> None:
    assert set(check_strategy(Optuna(INDEPENDENT[name])).searched) == EVERY


def test_a_warm_start_conforms_on_its_space_and_refuses_the_others() -> None:
    known = [(space.default(), {"value": 0.5}) for space in [toy_spaces()["Cells"]]]
    result = check_strategy(WarmStart(Deduplicate(EVOLUTION), known))
    assert result.searched == ("Cells",)
    assert "not a label of this space" in result.refused["Layers"]


CELLS = {"Cells", "LooseEnds"}  # take num_nodes, and decide nothing but cells


@pytest.mark.parametrize(
    "wrap", [lambda strategy: strategy, lambda strategy: Repeated(Deduplicate(strategy), 2)]
)
def test_pnas_conforms_on_cells_and_refuses_the_others(wrap: Any) -> None:
    """21 cells of one node and 4 of two: a search ends by itself, also where failures are."""
    result = check_strategy(wrap(PNAS(beam=4, predictor=quick_predictor)), trials=60)
    assert set(result.searched) == set(result.exhausted) == CELLS
    assert "Everything also decides 'stem', 'depth'" in result.refused["Everything"]
    assert "those of Layers are none" in result.refused["Layers"]


def quick_predictor(space: ModelSpace) -> MLPEnsemble:
    return MLPEnsemble(partial_one_hot(space), members=2, depth=1, epochs=5)


def test_a_smaller_space_conforms_and_is_refused_where_it_cannot_be() -> None:
    result = check_strategy(SmallerSpace(Deduplicate(EVOLUTION), {"num_nodes": 2}))
    assert set(result.searched) == CELLS
    assert "Layers takes no argument 'num_nodes'" in result.refused["Layers"]
    with pytest.raises(AssertionError, match=r"it refuses every space.*do not belong to the space itself"):
        check_strategy(SmallerSpace(Random(), {"num_nodes": 1}))


# -- strategies that break a promise -------------------------------------------------------------------------


class Base:
    def start(self, space: ModelSpace) -> Any:
        return self

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal(history.space.sample(rng))


class GlobalDraws(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal(history.space.sample(np.random.default_rng(random.randrange(2**32))))


class Forgetful(Base):
    """Counts its proposals itself."""

    def start(self, space: ModelSpace) -> Any:
        return _Counting()


class _Counting:
    count = 0

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        self.count += 1
        return Proposal(history.space.at(self.count % history.space.size()))


class Waiting(Base):
    """Keeps in mind what was running, which nobody can know later."""

    def start(self, space: ModelSpace) -> Any:
        return _Waiting()


class _Waiting:
    seen = 0

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        self.seen += len(history.running)
        return Proposal(history.space.at(self.seen % history.space.size()))


class Invalid(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal({"nothing": 0})


class Bare(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Any:
        return history.space.sample(rng)


class Unwritable(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal(history.space.sample(rng), overrides={"num_nodes": np.zeros(2)})


class Rich(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        return Proposal(history.space.sample(rng), note={"array": np.zeros(2)})


class Meddling(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        if history.done:
            history.add(history.done[0].__class__(len(history), history.done[0].arch, 0))
        return super().ask(history, rng)


class Idle(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        raise Exhausted("tired")


class Silent(Base):
    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        if history.done:
            raise Exhausted
        return super().ask(history, rng)


@dataclass
class Adaptive(Base):
    rate: float = 1.0

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        self.rate *= 0.5
        return super().ask(history, rng)


class Fragile(Base):
    """Counts on a score for every trial."""

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        for trial in history:
            history.score(trial)
        return super().ask(history, rng)


class Stopping(Base):
    def start(self, space: ModelSpace) -> Any:
        return type(self)()


class Fickle(Stopping):
    """Stops every third trial it is asked about, and counts how often that was."""

    count = 0

    def goes_on(self, trial: Trial, history: History) -> bool:
        self.count += 1
        return self.count % 3 > 0


class Mindful(Stopping):
    """Stops trials by how many it has proposed since it was begun."""

    seen = 0

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        self.seen += 1
        return super().ask(history, rng)

    def goes_on(self, trial: Trial, history: History) -> bool:
        return self.seen < 5


class Ruthless(Stopping):
    def goes_on(self, trial: Trial, history: History) -> bool:
        return False


class Vague(Stopping):
    def goes_on(self, trial: Trial, history: History) -> Any:
        """Nothing."""


class Tampering(Stopping):
    def goes_on(self, trial: Trial, history: History) -> bool:
        history.add(replace(trial, note={"seen": True}))
        return True


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (GlobalDraws(), "it proposed something else|the same seed gave two searches"),
        (Forgetful(), "resumed before trial 1 it proposed something else"),
        (Waiting(), "resumed before trial .* it proposed something else"),
        (Bare(), "which is not a Proposal"),
        (Rich(), "its note holds more than plain values"),
        (Unwritable(), "its overrides holds more than plain values"),
        (Meddling(), "it changed the history"),
        (Idle(), "it proposes nothing"),
        (Silent(), "it ended without saying why"),
        (Adaptive(), "settings changed"),
        (Fickle(), "asked again whether trial 0 goes on it changed its mind"),
        (Mindful(), "resumed in trial 4 it decided otherwise whether it goes on"),
        (Ruthless(), "it stops every trial before its end"),
        (Vague(), "goes_on returned None"),
        (Tampering(), "goes_on changed the history"),
    ],
)
def test_a_broken_promise_is_caught(strategy: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)


@pytest.mark.parametrize(("strategy", "error"), [(Invalid(), "nothing"), (Fragile(), "3")])
def test_errors_name_the_space(strategy: Any, error: str) -> None:
    with pytest.raises(Exception, match=error) as caught:
        check_strategy(strategy)
    assert "space 'Layers'" in str(caught.value.__notes__)
