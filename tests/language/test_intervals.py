"""Ranges: numbers of an interval, drawn, changed, encoded, counted and searched."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor

from spacelang import (
    LayerChoice,
    ModelSpace,
    SpaceError,
    Supernet,
    model_context,
    nn,
    value_choice,
    value_range,
)
from spacelang.costs import expected_cost
from spacelang.language import Interval, Repeat, Tunable
from spacelang.strategies import (
    DARTS,
    ENAS,
    SETN,
    SPOS,
    Grid,
    LocalSearch,
    Opening,
    Optuna,
    PolicyGradient,
    ProgressiveShrinking,
    Random,
    RandomOneShot,
    RegularizedEvolution,
    Sandwich,
)
from spacelang.strategies.framework import Controller
from spacelang.strategies.multi_trial import Reinforce
from spacelang.supernet import Group

from ..strategies.multi_trial.drive import search
from ..toys.paths import Anything, rows, trainer


class Net(ModelSpace):
    """A rate of dropout, a weight on a logarithmic scale, a number with a step, and a width."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 4], label="width")
        drop = nn.Dropout(value_range(0, 0.5, label="drop"))
        self.layers = nn.Sequential(nn.Linear(3, width), drop, nn.Linear(width, 2))
        self.weight = value_range(1e-4, 1e-2, log=True, label="weight", default=1e-3)
        self.count = value_range(2, 11, step=3, label="count")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


ARCH = {"width": 4, "drop": 0.125, "weight": 3e-4, "count": 8}


def test_values_of_each_scale() -> None:
    plain, log, steps = Interval("a", 1, 5), Interval("b", 1e-4, 1e-2, log=True), Interval("c", 2, 12, step=3)
    assert plain.points(3) == list(plain.values())[::2] == [1.0, 3.0, 5.0]
    assert log.points(3) == pytest.approx([1e-4, 1e-3, 1e-2], rel=1e-12)
    assert log.points(1) == pytest.approx([1e-3], rel=1e-12)
    assert list(steps.values()) == [2, 5, 8, 11]
    assert [decision.cardinality for decision in (plain, log, steps)] == [math.inf, math.inf, 4]
    assert (plain.default, log.default, steps.default) == (3.0, pytest.approx(1e-3, rel=1e-12), 8)
    assert Interval("d", 0.5, 1.5, step=0.25).parse(1) == 1.0
    assert plain.parse(2) == 2.0
    assert type(plain.parse(2)) is float
    assert type(steps.parse(5.0)) is int
    assert log.indicator(1e-3) == pytest.approx([0.5])
    assert steps.indicator(5) == pytest.approx([1 / 3])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"low": 1, "high": 1}, "'x': high=1 must be a number above 1"),
        ({"low": 0, "high": 1, "log": True}, "with log=True low=0 must be positive"),
        ({"low": 1, "high": 2, "log": True, "step": 0.5}, "and step=0.5 None"),
        ({"low": 0, "high": 1, "step": 2}, "'x': step=2 must be a number above 0 and of at most 1"),
        ({"low": 0, "high": 1, "default": 2}, "'x' got 2; expected a number from 0 to 1"),
        ({"low": 0, "high": math.inf}, "'x': high=inf must be a number above 0"),
    ],
)
def test_bounds_that_make_no_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        value_range(**given, label="x")


def test_a_space_with_ranges() -> None:
    space = Net()
    assert space.size() == math.inf
    assert space.size_is_exact
    assert space.default() == {"width": 2, "drop": 0.25, "weight": 1e-3, "count": 8}
    weight, count, width, drop = math.log(3) / math.log(100), 2 / 3, [0, 1], 0.25
    assert space.encode(ARCH).tolist() == pytest.approx([weight, count, *width, drop])
    with pytest.raises(SpaceError, match=r"'weight', 'drop' take infinitely many values; .* points=5"):
        next(space.grid())
    grid = list(space.grid(points=3))
    assert len(grid) == 2 * 3 * 3 * 4
    assert {arch["drop"] for arch in grid} == {0.0, 0.25, 0.5}
    for arch in itertools.islice(grid, 0, None, 7):
        space.validate(arch)
    for wrong in ({"drop": 0.6}, {"drop": True}, {"weight": "small"}, {"count": 4}, {"weight": math.nan}):
        with pytest.raises(SpaceError, match="expected a number from"):
            space.validate(ARCH | wrong)
    near = [arch for arch in space.neighbours(ARCH) if arch["drop"] != ARCH["drop"]]
    assert [arch["drop"] for arch in near] == [0, 0.25, 0.375, 0.5]
    assert space.hash(ARCH) != space.hash(ARCH | {"drop": 0.126})


def test_numbers_are_drawn_evenly_on_their_scale_and_mutated_near() -> None:
    space, rng = Net(), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(2000)]
    below = sum(arch["weight"] < 1e-3 for arch in drawn)  # half of the logarithmic scale
    assert abs(below - 1000) < 5 * math.sqrt(500)  # standard deviations
    counts = Counter(arch["count"] for arch in drawn)
    assert counts.keys() == {2, 5, 8, 11}
    assert all(abs(n - 500) < 5 * math.sqrt(375) for n in counts.values())
    weight = space.decision_space.by_label["weight"]
    assert isinstance(weight, Interval)
    changes = [weight.place(weight.near(1e-3, rng)) - 0.5 for _ in range(2000)]
    assert np.mean(changes) == pytest.approx(0, abs=5 * 0.1 / math.sqrt(2000))
    assert np.std(changes) == pytest.approx(0.1, rel=0.1)
    assert all(1e-4 <= weight.near(x, rng) <= 1e-2 for x in (1e-4, 1e-2) for _ in range(200))
    child = space.mutate(ARCH, rng)
    assert sum(child[label] != ARCH[label] for label in ARCH) == 1
    other = space.sample(rng)
    crossed = space.crossover(ARCH, other, rng)
    assert all(crossed[label] in (ARCH[label], other[label]) for label in ARCH)


def test_selected_frozen_and_built_it_is_one_model() -> None:
    space, x = Net().double(), torch.randn(5, 3, dtype=torch.float64)
    supernet = Supernet(space)
    for drop in (0.125, 0.25, 0.125):
        arch = ARCH | {"drop": drop}
        with model_context(arch):
            built = Net().double()
        frozen = space.freeze(arch)
        built.load_state_dict(frozen.state_dict())
        assert (built.weight, built.count, built.layers[1].p) == (3e-4, 8, drop)
        supernet.select(arch)
        outputs = []
        for model in (supernet, supernet.freeze(arch), frozen, built):
            torch.manual_seed(0)
            outputs.append(model.train()(x))
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        assert expected_cost(space, "params").of(arch) == sum(p.numel() for p in frozen.parameters())
        assert expected_cost(space, "flops", x).of(arch) == 2 * 5 * (3 * 4 + 4 * 2)
    with supernet.mixture_kept():
        supernet.select(ARCH | {"drop": 0.5})
    assert supernet.groups["drop"].selected == 0.125
    assert supernet.soft_refusals() == [
        "'drop': Dropout(p=drop) depends on the range 'drop', of which there is no mixture (at layers.1)"
    ]
    report = str(space.report(x))
    assert "infinitely many architectures" in report
    assert "0.0001 to 0.01 (log)" in report


def test_a_range_is_no_shape() -> None:
    with pytest.raises(SpaceError, match="A range is for what is no size; use value_choice"):
        nn.Linear(2, value_range(4, 8, label="width"))
    with pytest.raises(SpaceError, match="a depth depends on the range 'depth'"):
        Repeat(lambda i: nn.Identity(), value_range(1, 3, step=1, label="depth"))


def test_a_range_under_a_choice_and_in_a_constraint() -> None:
    class Conditional(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            drop = value_range(0, 1, label="drop")
            self.layer = LayerChoice({"drop": lambda: nn.Dropout(drop), "none": nn.Identity()}, label="layer")
            self.scale = value_range(0, 1, label="scale")
            self.least = value_choice([0.25, 0.5], label="least")
            self.constrain(self.scale > self.least)

    space, rng = Conditional(), np.random.default_rng(0)
    assert space.size() == math.inf
    assert "drop" not in space.canonical({"layer": "none", "scale": 0.75, "least": 0.5, "drop": 0.1})
    for _ in range(50):
        arch = space.sample(rng)
        assert arch["scale"] > arch["least"]
        assert ("drop" in arch) == (arch["layer"] == "drop")
    # Constrained are the points 0.5 and 1 (above 0.25) and 1 (above 0.5): 3, with 3 points of drop or none.
    assert len(list(space.grid(points=3))) == 3 * (3 + 1)


def test_settings_of_an_evaluator() -> None:
    class Training(Tunable):
        def __init__(self, learning_rate: Any) -> None:
            self.learning_rate = learning_rate

    training = Training(value_range(1e-4, 1e-1, log=True, label="lr"))
    assert training.decided({"lr": 0.01}).learning_rate == 0.01
    with pytest.raises(SpaceError, match=r"'lr' got 1\.0; expected a number from 0\.0001 to 0\.1 \(log\)"):
        training.decided({"lr": 1.0})


# -- searches ----------------------------------------------------------------------------------------------


def distance(trial: Any) -> dict[str, float]:
    """Return how far a trial is from a weight of 2e-3 and a rate of 0.1."""
    return {"value": -abs(math.log(trial.arch["weight"] / 2e-3)) - abs(trial.arch["drop"] - 0.1)}


def test_samplers_of_optuna_get_distributions_of_numbers() -> None:
    class Recording(optuna.samplers.RandomSampler):
        studies: ClassVar[list[Any]] = []

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            self.studies.append(study)
            return super().infer_relative_search_space(study, trial)

    history = search(Optuna(Recording), Net(), distance, 5)
    told = Recording.studies[-1].get_trials()[3]
    assert told.distributions["weight"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert told.distributions["drop"] == FloatDistribution(0, 0.5)
    assert told.distributions["count"] == IntDistribution(2, 11, step=3)
    assert type(told.params["count"]) is int
    arch = history[3].arch
    assert all(told.params[label] == arch[label] for label in ("weight", "drop", "count"))


@pytest.mark.parametrize("strategy", [Optuna(), RegularizedEvolution(), LocalSearch(), Random()])
def test_strategies_by_trials_search_ranges(strategy: Any) -> None:
    history, again = (search(strategy, Net(), distance, 40) for _ in range(2))
    assert len({trial.arch["drop"] for trial in history.done}) > 3
    for trial, same in zip(history.done, again.done, strict=True):
        Net().validate(trial.arch)
        assert trial.arch == same.arch


def test_a_grid_has_points() -> None:
    history = search(Grid(points=2), Net(), distance, 999)
    assert len(history.done) == 2 * 2 * 2 * 4
    assert {trial.arch["drop"] for trial in history.done} == {0, 0.5}
    with pytest.raises(SpaceError, match="points=5"):
        search(Grid(), Net(), distance, 1)


def test_a_controller_draws_a_part_of_a_range_and_a_number_in_it() -> None:
    space = Net().decision_space
    groups = [Group(d.label, (d.label,), tuple(d.candidates), (d,)) for d in space.by_label.values()]
    generator = torch.Generator().manual_seed(0)
    controller = Controller(space, groups, hidden=4, tanh_constant=2.5, generator=generator)
    with torch.no_grad():
        for head in controller.heads:
            cast(Any, head).weight.zero_()  # all parts are as likely
    drawn = [controller.sample(generator) for _ in range(200)]
    for sample in drawn[:20]:
        Net().validate(sample.arch)
        again = controller.sample(draws=sample.draws)
        assert (again.arch, again.log_prob) == (sample.arch, sample.log_prob)
        # two ranges of ten parts, one of four numbers, a width of two
        assert sample.log_prob.item() == pytest.approx(-math.log(10 * 10 * 4 * 2), rel=1e-6)
    assert set(Counter(sample.arch["count"] for sample in drawn)) == {2, 5, 8, 11}
    parts = Counter(int(10 * math.log10(sample.arch["weight"] / 1e-4) / 2) for sample in drawn)
    assert set(parts) == set(range(10))
    assert len({sample.arch["drop"] for sample in drawn}) > 190


def test_a_controller_learns_where_in_a_range_it_is_best() -> None:
    strategy = PolicyGradient(update=Reinforce(), batch=5, hidden=16, learning_rate=0.05, entropy_weight=0)
    history = search(strategy, Net(), lambda trial: {"value": trial.arch["drop"]}, 120)
    drops = [history[number].arch["drop"] for number in range(120)]
    assert sum(drops[:20]) / 20 < 0.3 < 0.36 < sum(drops[-20:]) / 20  # 0.25 of a uniform draw


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (DARTS(), "'drop', of which there is no mixture.*RandomOneShot, SPOS, ENAS; so can trials"),
        (SETN(), "'drop', of which there is no mixture.*RandomOneShot, SPOS, ENAS; so can trials"),
        (ProgressiveShrinking(phases=(Opening("width"),)), "'drop'\nThey are no sizes.*or use Sandwich"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_a_search_that_cannot_have_ranges_says_which_can(strategy: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=f"(?s){message}"):
        strategy.attach(Supernet(Dropped()), seed=0)


class Dropped(ModelSpace):
    """A rate of dropout and a width."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([2, 4], label="width")
        drop = nn.Dropout(value_range(0, 0.5, label="drop"))
        self.layers = nn.Sequential(nn.Linear(3, width), drop, nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


FEW = {"calibration_batches": 1}


@pytest.mark.parametrize(
    "strategy",
    [
        RandomOneShot(candidates=6, finalists=2, **FEW),
        SPOS(population=4, generations=2, parents=2, mutations=1, crossovers=1, **FEW),
        ENAS(candidates=3, controller_steps=2, samples=2, **FEW),
        Sandwich(candidates=3, **FEW),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_search_that_samples_paths(strategy: Any, tmp_path: Path) -> None:
    supernet = Supernet(Dropped())
    search = strategy.attach(supernet, seed=0)
    trainer(tmp_path, search).fit(Anything(supernet), rows(4, 1), rows(3, 2))
    (best,) = search.derive()
    Dropped().validate(best)
    assert best["drop"] not in {0, 0.125, 0.25, 0.375, 0.5}
