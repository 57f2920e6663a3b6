"""Optuna's samplers: what they are told, what they are asked, and that they search."""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from spacelang import Experiment, InputChoice, LayerChoice, ModelSpace, SpaceError, value_choice
from spacelang.evaluators import Functional
from spacelang.language import Categorical
from spacelang.strategies import Deduplicate, Optuna, WarmStart
from spacelang.strategies.multi_trial.optuna import is_number
from spacelang.trials import History, Maximize, Minimize, Trial, warn_of_unused_features

from ...toys.spaces import CASES
from ...toys.trials import Chain, Conditional, Scale
from .drive import archs, search

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Recording(optuna.samplers.RandomSampler):
    """Keeps the studies it was asked with."""

    studies: list[Any] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        self.studies.append(study)
        return super().infer_relative_search_space(study, trial)


def told(space: ModelSpace, measure: Any, trials: int, **settings: Any) -> list[Any]:
    """Trials of the study at the end of a search."""
    Recording.studies = []
    search(Optuna(Recording), space, measure, trials + 1, **settings)
    found: list[Any] = Recording.studies[-1].get_trials()
    return found[:trials]


class Mixed(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"one": Scale(1), "two": Scale(2)}, label="layer")
        self.listed = LayerChoice([Scale(1), Scale(2)], label="listed")
        self.width = value_choice([16, 32, 64], label="width")
        self.inputs = InputChoice(3, n_chosen=None, label="inputs")
        self.two = InputChoice(3, n_chosen=2, label="two")


def test_architectures_from_elsewhere_become_the_same_parameters() -> None:
    """Known ones stand in the study as if they had been suggested."""
    space = Mixed()
    rng = np.random.default_rng(0)
    known = [space.sample(rng) for _ in range(20)]
    proposer: Any = WarmStart(Optuna(), [(arch, {"value": 1.0}) for arch in known]).start(space)
    proposer.ask(History(space.decision_space, [Maximize("value")]), rng)
    for arch, trial in zip(known, proposer.inner.study.get_trials(), strict=False):
        assert trial.params["layer"] == ["one", "two"].index(arch["layer"])
        assert trial.params["width"] == [16, 32, 64].index(arch["width"])
        assert [i for i in range(3) if trial.params[f"inputs[{i}]"]] == arch["inputs"]
        assert trial.params["two"] == [[0, 1], [0, 2], [1, 2]].index(arch["two"])
        assert trial.value == 1.0


def test_parameters_are_positions_of_candidates() -> None:
    for trial in told(Mixed(), lambda trial: {"value": 1.0}, 5):
        assert trial.distributions["layer"] == CategoricalDistribution((0, 1))
        assert trial.distributions["listed"] == CategoricalDistribution((0, 1))
        assert trial.distributions["width"] == IntDistribution(0, 2)
        assert {f"inputs[{i}]" for i in range(3)} < trial.params.keys()
        assert trial.distributions["inputs[2]"] == CategoricalDistribution((0, 1))
        assert trial.distributions["two"] == CategoricalDistribution((0, 1, 2))


def test_only_active_decisions_are_suggested() -> None:
    trials = told(Conditional(), lambda trial: {"value": 1.0}, 20)
    for trial in trials:
        blocks = {label for label in trial.params if label.startswith("block")}
        assert blocks == {f"block{i}" for i in range(trial.params["depth"])}
    assert {trial.params["depth"] for trial in trials} == {0, 1, 2}


def test_what_is_a_number() -> None:
    for candidates, expected in (
        ((16, 32, 64), True),
        ((0.1, 0.01), True),
        ((1, 2, 3), True),
        ((0, 1, 2), False),  # positions of layers or inputs
        ((1, 4, 2), False),
        (("a", "b"), False),
        ((True, False), False),
    ):
        assert is_number(Categorical("x", candidates)) is expected


def test_outcomes_are_told() -> None:
    outcomes: list[Any] = [{"value": 2.0}, None, {"value": math.nan}, {"value": 3.0}]
    trials = told(Chain(), lambda trial: outcomes[trial.number] if trial.number < 4 else {"value": 0.0}, 4)
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.state for trial in trials] == states
    assert [trials[0].value, trials[3].value] == [2.0, 3.0]


def test_directions_are_told() -> None:
    trials = told(
        Chain(),
        lambda trial: {"good": 2.0, "bad": 5.0},
        2,
        objectives=[Maximize("good"), Minimize("bad")],
    )
    study = Recording.studies[-1]
    assert [d.name for d in study.directions] == [
        "MAXIMIZE",
        "MINIMIZE",
    ]
    assert trials[0].values == [2.0, 5.0]


def test_infeasible_trials_violate_a_constraint() -> None:
    from dataclasses import replace

    space = Chain()
    strategy = Optuna(Recording)
    proposer: Any = strategy.start(space)
    history = search(strategy, space, lambda trial: {"value": 1.0}, 2)
    history.add(replace(history[1], state="infeasible", metrics={}))
    proposer.ask(history, np.random.default_rng(0))
    trial = proposer.study.get_trials()[1]
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"infeasible": 1.0}


def summit(trial: Trial) -> dict[str, float]:
    """A sum of digits: 12 at most, and about 6 at random."""
    return {"value": float(sum({"one": 0, "two": 1, "three": 2}[v] for v in trial.arch.values()))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        None,
        functools.partial(optuna.samplers.TPESampler, multivariate=True, group=True),
        functools.partial(optuna.samplers.NSGAIISampler, population_size=8),
        functools.partial(optuna.samplers.GPSampler, n_startup_trials=5),
    ],
    ids=["default", "tpe", "nsga2", "gp"],
)
def test_samplers_search(sampler: Any) -> None:
    gp = getattr(sampler, "func", None) is optuna.samplers.GPSampler
    history = search(Optuna(sampler), Chain(6), summit, 25 if gp else 80)
    late = np.mean([history.score(trial) for trial in history.done[-10:]])
    assert late > 7.5
    assert history.best_trial is not None
    assert history.score(history.best_trial) >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(optuna.samplers.TPESampler, n_startup_trials=5),
        functools.partial(optuna.samplers.NSGAIISampler, population_size=8),
        functools.partial(optuna.samplers.NSGAIIISampler, population_size=8),
        functools.partial(optuna.samplers.CmaEsSampler, n_startup_trials=1, warn_independent_sampling=False),
    ],
    ids=["tpe", "nsga2", "nsga3", "cma"],
)
def test_it_proposes_what_optuna_does(make: Any) -> None:
    """Against a loop of Optuna's own `ask` and `tell` with the samplers' seeds of our trials."""
    space = Numbers()
    measure = lambda arch: -sum((value - 5) ** 2 for value in arch.values())  # noqa: E731
    history = search(Optuna(make), space, lambda trial: {"value": measure(trial.arch)}, 40)
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        seed = history[number].note["seed"]
        study.sampler = make(seed=int(np.random.default_rng(seed).integers(2**31)))
        trial = study.ask()
        arch = {d.label: d.candidates[trial.suggest_int(d.label, 0, 7)] for d in space.decisions}
        assert arch == history[number].arch
        study.tell(trial, measure(arch))


class Numbers(ModelSpace):
    """Three numbers from 1 to 8."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = [value_choice(list(range(1, 9)), label=f"n{i}") for i in range(3)]


def test_several_objectives() -> None:
    """The front of (threes, ones) is a line; NSGA-II finds more than half of its seven points."""

    def measure(trial: Trial) -> dict[str, float]:
        values = list(trial.arch.values())
        return {"threes": float(values.count("three")), "ones": float(values.count("one"))}

    sampler = functools.partial(optuna.samplers.NSGAIISampler, population_size=10)
    history = search(
        Optuna(sampler), Chain(6), measure, 120, objectives=[Maximize("threes"), Maximize("ones")]
    )
    points = {history.scores(trial) for trial in history.pareto()}
    assert len([p for p in points if sum(p) == 6]) >= 4


class OwnGenetic(optuna.samplers.NSGAIISampler):
    """A user's: the last four trials of a generation are parents."""

    def select_parent(self, study: Any, generation: int) -> Any:
        return self.get_population(study, generation - 1)[-4:]


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.NSGAIISampler, optuna.samplers.NSGAIIISampler, OwnGenetic]
)
def test_genetic_samplers_inherit_conditional_decisions(sampler: Any) -> None:
    """Without mutation children have what some parent has: here blocks are always two, and the bias 3."""
    space = Conditional()
    known = [
        {"depth": 0, "bias": 3},
        {"depth": 1, "block0": "two", "bias": 3},
        {"depth": 2, "block0": "two", "block1": "two", "bias": 3},
        {"depth": 2, "block0": "two", "block1": "two", "bias": 3},
    ]
    make = functools.partial(sampler, population_size=4, mutation_prob=0.0)
    strategy = WarmStart(Optuna(make), [(arch, {"value": 1.0}) for arch in known])
    history = search(strategy, space, lambda trial: {"value": 1.0}, 24)
    depths = {arch["depth"] for arch in archs(history)}
    assert depths == {0, 1, 2}
    for arch in archs(history):
        blocks = {f"block{i}": "two" for i in range(arch["depth"])}
        assert arch == {"depth": arch["depth"], "bias": 3, **blocks}


def test_genetic_samplers_cross_what_only_one_parent_has() -> None:
    """Parents without a second block never say what it is; the one with it does."""
    space = Conditional()
    deep = {"depth": 2, "block0": "two", "block1": "two", "bias": 3}
    known = [deep, *({"depth": 1, "block0": "one", "bias": bias} for bias in (0, 1, 2))]
    make = functools.partial(optuna.samplers.NSGAIISampler, population_size=4, mutation_prob=0.0)
    strategy = WarmStart(Optuna(make), [(arch, {"value": 1.0}) for arch in known])
    children = archs(search(strategy, space, lambda trial: {"value": 1.0}, 40))
    assert {arch["block1"] for arch in children if arch["depth"] == 2} == {"two"}
    assert {arch["block0"] for arch in children if arch["depth"] == 2} == {"one", "two"}  # both have it


def test_what_no_parent_has_is_drawn() -> None:
    """All parents are of depth 1; a mutation of the depth leads to second blocks of both kinds."""
    known = [({"depth": 1, "block0": "two", "bias": bias}, {"value": 1.0}) for bias in range(4)]
    make = functools.partial(optuna.samplers.NSGAIISampler, population_size=4, mutation_prob=0.5)
    history = search(WarmStart(Optuna(make), known), Conditional(), lambda trial: {"value": 0.0}, 40)
    assert {arch.get("block1") for arch in archs(history)} == {None, "one", "two"}


def test_cma_es_has_one_objective(tmp_path: Path) -> None:
    objectives = [Maximize("value"), Minimize("params")]
    make = functools.partial(optuna.samplers.CmaEsSampler, warn_independent_sampling=False)
    run = Experiment(
        Numbers(), Functional(never), Optuna(make), objectives=objectives, directory=tmp_path, max_trials=3
    )
    with pytest.raises(
        SpaceError, match=r"got 2: maximize value, minimize params. Write Optuna\(NSGAIISampler\)"
    ):
        run.run()
    assert len(run.history) == 0


def never(model: Any) -> dict[str, float]:
    raise AssertionError("nothing is trained")


class Own(optuna.samplers.BaseSampler):
    """A user's: depth and first block together, the highest of what it is asked besides."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return {"depth": CategoricalDistribution((0, 1, 2)), "block0": CategoricalDistribution((0, 1))}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        told = len(study.get_trials(states=[TrialState.COMPLETE]))
        return {"depth": told % 3, "block0": told % 2}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[-1]
        return distribution.high


def test_a_sampler_of_ones_own() -> None:
    """What it says is proposed, and what is not active is dropped."""
    history = search(Optuna(Own), Conditional(), lambda trial: {"value": 1.0}, 6)
    assert archs(history) == [
        {"depth": 0, "bias": 3},
        {"depth": 1, "block0": "two", "bias": 3},
        {"depth": 2, "block0": "one", "block1": "two", "bias": 3},
        {"depth": 0, "bias": 3},
        {"depth": 1, "block0": "one", "bias": 3},
        {"depth": 2, "block0": "two", "block1": "two", "bias": 3},
    ]


def test_qmc_walks_one_sequence() -> None:
    """Eight points of a Sobol sequence on two numbers of four candidates fall into eight different fields."""

    class Square(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.x = value_choice([1, 2, 3, 4], label="x")
            self.y = value_choice([1, 2, 3, 4], label="y")

    history = search(Optuna(optuna.samplers.QMCSampler), Square(), lambda trial: {"value": 0.0}, 9)
    assert len({str(arch) for arch in archs(history)[1:]}) == 8  # the first is independent


def test_constraints_of_the_space_hold() -> None:
    space = next(c.space() for c in CASES.values() if c.space().decision_space.constraints)
    history = search(Optuna(), space, lambda trial: {"value": 1.0}, 15)
    for arch in archs(history):
        space.validate(arch)


def test_it_learns_from_a_warm_start() -> None:
    """No first random trials: with a good and many bad architectures known, TPE is near the good one."""
    space = Chain(6)
    rng = np.random.default_rng(0)
    known = [(arch, summit(Trial(0, arch, 0))) for arch in (space.sample(rng) for _ in range(100))]
    strategy = WarmStart(Deduplicate(Optuna(functools.partial(optuna.samplers.TPESampler))), known)
    history = search(strategy, space, summit, 10)
    assert np.mean([history.score(trial) for trial in history.done]) > 8.5


def test_it_warns_where_a_sampler_draws_at_random() -> None:
    samplers = optuna.samplers
    for sampler in (samplers.GPSampler, samplers.QMCSampler):
        (sentence,) = Optuna(sampler).unused_features(Conditional())
        assert sentence.startswith(f"{sampler.__name__} draws 2 of 4 decisions at random")
    with pytest.warns(UserWarning, match="Optuna: CmaEsSampler draws 4 of 4 decisions at random"):
        warn_of_unused_features(Optuna(samplers.CmaEsSampler), Conditional())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unused_features(Optuna(samplers.TPESampler), Conditional())
        warn_of_unused_features(Optuna(samplers.NSGAIISampler), Conditional())
        Optuna(optuna.samplers.GPSampler).start(Chain())


def test_errors_say_what_to_write() -> None:
    with pytest.raises(SpaceError, match=r"Write Optuna\(functools.partial\(TPESampler, ...\)\)"):
        Optuna(optuna.samplers.TPESampler())  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="which is not a sampler of Optuna"):
        Optuna(lambda seed: 3)  # type: ignore[arg-type, return-value]


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SpaceError, match=r"pip install 'spacelang-nas\[optuna\]'"):
        Optuna()
