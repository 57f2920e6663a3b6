"""P-DARTS against the numbers of section 2, with what is dropped worked by hand, and whole searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, Experiment, ModelSpace, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTS, PDARTS, SkipDropout, Softmax, top_architectures
from spacelang.strategies.one_shot.pdarts import SurvivorSoftmax, keep_most_probable
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit

from ..toys.search_script import outcome

pytestmark = pytest.mark.slow


def test_the_first_stage_has_the_published_number_of_weights() -> None:
    supernet = PDARTS(overrides=({"num_cells": 5},), drops=(), skip_dropout=(0.0,)).supernet(DartsSpace())
    assert sum(p.numel() for p in supernet.parameters()) == 1_275_834


def test_the_published_defaults() -> None:
    strategy = PDARTS()
    assert strategy.stages == 3
    assert (strategy.learning_rate, strategy.warmup_epochs, strategy.gradient_clip) == (6e-4, 10, 5.0)


# -- dropping --------------------------------------------------------------------------------------------


def test_dropping_by_hand() -> None:
    """Of 8 with none first: 3 go, then 2 of those left. Ties go to the lowest index."""
    logits = torch.tensor(
        [
            [0.0, 0.3, -0.1, 0.9, 0.2, -0.4, 0.5, 0.1],  # 5, 2, none | 7, 4
            [0.9, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3],  # 1, 2, 3 | 4, 5
        ]
    )
    first = keep_most_probable(logits, torch.ones(2, 8, dtype=torch.bool), 3, none=True)
    assert [row.nonzero()[:, 0].tolist() for row in first] == [[1, 3, 4, 6, 7], [0, 4, 5, 6, 7]]
    second = keep_most_probable(logits, first, 2, none=True)
    assert [row.nonzero()[:, 0].tolist() for row in second] == [[1, 3, 6], [0, 6, 7]]


@pytest.mark.parametrize("none", [True, False])
def test_two_operations_are_left(none: bool) -> None:
    every = torch.ones(1, 4, dtype=torch.bool)
    left = keep_most_probable(torch.tensor([[0.0, 0.3, 0.1, 0.2]]), every, 3, none=none)
    assert left.tolist() == [[False, True, False, True]]


class Row(ModelSpace):
    """One edge of three operations."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"a": nn.ReLU(), "b": nn.Tanh(), "c": nn.Sigmoid()}, 1, label="normal")


def second_stage(logits: list[float]) -> Any:
    """Search of the second stage, from the logits of none, a, b, c after the first; one is dropped."""
    strategy = PDARTS(overrides=({}, {}), drops=(1,), skip_dropout=(0.0, 0.4))
    space = Row()
    first = strategy.attach(strategy.supernet(space, 0))
    first.parameters.logits["normal"].data = torch.tensor([logits])
    supernet = strategy.supernet(space, 1)
    second = strategy.attach(supernet, stage=1, previous=first)
    second.parameters.logits["normal"].data = torch.tensor([[0.0, math.log(2), math.log(3), math.log(4)]])
    return second


@pytest.mark.parametrize(
    ("logits", "probabilities"),
    [
        ([0.0, -1.0, 1.0, 1.0], [0, 3 / 8, 4 / 8]),  # a is dropped, none keeps 1 / 8
        ([-1.0, 0.0, 1.0, 1.0], [2 / 9, 3 / 9, 4 / 9]),  # none is dropped
    ],
)
def test_the_softmax_is_over_survivors(logits: list[float], probabilities: list[float]) -> None:
    search = second_stage(logits)
    assert search.probabilities()["normal"][0].tolist() == pytest.approx(probabilities)
    assert search.supernet.groups["normal"].alive == [[p > 0 for p in probabilities]]


def test_each_stage_begins_anew_with_its_own_dropout() -> None:
    search = second_stage([0.0, -1.0, 1.0, 1.0])
    assert [extra for extra in search.extras if isinstance(extra, SkipDropout)] == [SkipDropout(0.4)]
    strategy = PDARTS(overrides=({}, {}), drops=(1,), skip_dropout=(0.0, 0.4))
    first = strategy.attach(strategy.supernet(Row()), seed=3)
    second = strategy.attach(strategy.supernet(Row(), 1), seed=3, stage=1, previous=first)
    a, b = (s.parameters.logits["normal"] for s in (first, second))
    assert not torch.equal(a, b)
    assert first.extras == (SkipDropout(0.0),)


def test_a_stage_needs_the_one_before() -> None:
    strategy = PDARTS(overrides=({}, {}), drops=(1,), skip_dropout=(0.0, 0.4))
    with pytest.raises(SpaceError, match="needs the search of the stage before"):
        strategy.attach(Supernet(Row()), stage=1)


# -- skip connections ------------------------------------------------------------------------------------


class Skipping(ModelSpace):
    """Two nodes of two slots; edges 0->2, 1->2 | 0->3, 1->3, 2->3."""

    def __init__(self) -> None:
        super().__init__()
        candidates = {"skip": nn.Identity(), "x": nn.ReLU(), "y": nn.Tanh()}
        self.cell = Cell(candidates, 2, 2, 2, label="normal", distinct_inputs=True)


TABLE = torch.tensor(
    [
        [0.6, 0.3, 0.1],
        [0.5, 0.2, 0.3],  # the smallest skip of the first cell: then y
        [0.7, 0.1, 0.1],
        [0.55, 0.4, 0.0],  # the next: then x, and edge 2->3 with 0.45 is better
        [0.0, 0.2, 0.45],
    ]
)


def slots(arch: dict[str, Any]) -> list[list[tuple[str, int]]]:
    return [
        [(arch[f"normal/op_{node}_{k}"], arch[f"normal/input_{node}_{k}"]) for k in range(2)]
        for node in (2, 3)
    ]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (None, [[("skip", 0), ("skip", 1)], [("skip", 0), ("skip", 1)]]),
        (3, [[("skip", 0), ("y", 1)], [("skip", 0), ("skip", 1)]]),
        (2, [[("skip", 0), ("y", 1)], [("skip", 0), ("y", 2)]]),
        (1, [[("x", 0), ("y", 1)], [("skip", 0), ("y", 2)]]),
        (0, [[("x", 0), ("y", 1)], [("y", 2), ("x", 1)]]),
    ],
)
def test_skip_restriction_by_hand(most: int | None, expected: Any) -> None:
    strategy, supernet = PDARTS(most_skips=most), Supernet(Skipping())
    (arch,) = strategy.architectures(supernet, {"normal": TABLE}, 1)
    assert slots(arch) == expected
    assert TABLE[1, 0] == 0.5  # what it was given is left alone


def test_every_architecture_is_restricted() -> None:
    strategy, supernet = PDARTS(most_skips=1), Supernet(Skipping())
    found = strategy.architectures(supernet, {"normal": TABLE}, 20)
    assert len(found) == 20
    assert len({str(supernet.decision_space.canonical(arch)) for arch in found}) == 20
    assert all(str(slots(arch)).count("skip") <= 1 for arch in found)


def test_a_restriction_that_cannot_be_met_ends() -> None:
    supernet = Supernet(Skipping())
    supernet.prune({"normal": [[True, False, False]] * 5})
    (arch,) = PDARTS().architectures(supernet, {"normal": torch.tensor([[1.0, 0, 0]] * 5)}, 1)
    assert str(slots(arch)).count("skip") == 4


def test_the_last_drop_removes_none_first() -> None:
    """The derivation of one operation an edge is that of DARTS on the survivors' softmax."""
    supernet = Supernet(Skipping())
    group = supernet.groups["normal"]
    supernet.prune({"normal": [[False, True, True]] * 5})
    logits = torch.tensor([[5.0, 9.0, 0.3, 0.1]] * 5)  # none is the largest and never derived
    table = SurvivorSoftmax().probabilities(group, logits)
    assert torch.equal(table, Softmax().probabilities(group, logits))
    (arch,) = PDARTS().architectures(supernet, {"normal": table}, 1)
    assert {operation for node in slots(arch) for operation, _ in node} == {"x"}
    assert [arch] == top_architectures(supernet, {"normal": table}, 1)


# -- whole searches --------------------------------------------------------------------------------------


class Deep(ModelSpace):
    """A chain of cells of one label."""

    def __init__(self, depth: int = 1, kinds: int = 4) -> None:
        super().__init__()

        def conv(size: int) -> nn.Sequential:
            return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, size, padding=size // 2), nn.BatchNorm2d(4))

        candidates = {"skip": nn.Identity(), "pool": nn.MaxPool2d(3, 1, 1), "one": conv(1), "three": conv(3)}
        chosen = dict(list(candidates.items())[:kinds])
        self.cells = nn.ModuleList(Cell(chosen, 2, 2, 2, label="normal") for _ in range(depth))
        self.joins = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(depth))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for cell, join in zip(self.cells, self.joins, strict=True):
            before, x = x, join(cell(before, x))
        return self.head(x)


STRATEGY = PDARTS(
    overrides=tuple({"depth": depth} for depth in (1, 2, 3)),
    drops=(1, 1),
    skip_dropout=(0.1, 0.4, 0.7),
    warmup_epochs=1,
    learning_rate=0.05,
    most_skips=1,
)


class StopAt(pl.Callback):
    """Raise in one stage: before the second batch of an epoch, or before its first checkpoint."""

    def __init__(self, depth: int, epoch: int) -> None:
        self.depth, self.epoch = depth, epoch

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if len(pl_module.model.network.cells) == self.depth and self.epoch < 0:
            raise InterruptedError

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        at = len(pl_module.model.network.cells), trainer.current_epoch, batch_idx
        if at == (self.depth, self.epoch, 1):
            raise InterruptedError


def run(directory: Path, *callbacks: pl.Callback, resume: bool = False) -> Any:
    experiment = Experiment(Deep(), Fit(3, callbacks), STRATEGY, directory=directory)
    experiment.run(resume=resume)
    return experiment


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("whole"))


def test_a_search_deepens_and_narrows(whole: Any) -> None:
    assert len(whole.supernet.network.cells) == 3
    search = whole.search
    alive = torch.tensor(search.supernet.groups["normal"].alive)
    survivors = search.relaxation.survivors(search.supernet.groups["normal"], alive)
    assert survivors.sum(dim=1).tolist() == [3] * 5  # of 5 with none
    assert len(search.history["normal"]) == 3
    assert torch.equal(search.history["normal"][0] > 0, alive)
    whole.space.validate(whole.best)
    assert sum(v == "skip" for label, v in whole.best.items() if "/op_" in label) <= 1
    assert len(whole.space.cells) == 1  # as it was
    assert len(list((whole.directory / "checkpoints").glob("**/*.ckpt"))) == 3


@pytest.mark.parametrize(
    ("depth", "epoch"), [(1, 1), (2, -1), (2, 0), (3, 2)], ids=["first", "between", "second", "third"]
)
def test_a_stop_in_any_stage(tmp_path: Path, whole: Any, depth: int, epoch: int) -> None:
    with pytest.raises(InterruptedError):
        run(tmp_path, StopAt(depth, epoch))
    assert outcome(run(tmp_path, resume=True)) == outcome(whole)


def test_early_stops_of_a_stage_go_with_it(tmp_path: Path) -> None:
    from spacelang.strategies import StopOnStableRanking

    strategy = PDARTS(
        overrides=({}, {}),
        drops=(0,),
        skip_dropout=(0.0, 0.0),
        warmup_epochs=0,
        learning_rate=1e-9,
        extras=(StopOnStableRanking(1),),
    )
    experiment = Experiment(Deep(), Fit(4), strategy, directory=tmp_path)
    experiment.run()
    search: Any = experiment.search
    assert len(search.history["normal"]) == 2


# -- refusals --------------------------------------------------------------------------------------------


def test_a_space_without_the_argument_is_refused() -> None:
    with pytest.raises(SpaceError) as error:
        Experiment(Deep(), Fit(1), PDARTS())
    assert "stage 2 of 3 with {'num_cells': 11}" in str(error.value)
    assert "it takes 'depth', 'kinds'" in str(error.value)
    assert "PDARTS(overrides=...)" in str(error.value)


def test_other_decisions_are_refused_before_the_first_stage() -> None:
    strategy = PDARTS(overrides=({}, {"kinds": 3}), drops=(1,), skip_dropout=(0.0, 0.0))
    with pytest.raises(SpaceError, match=r"has others in 'normal/op_2_0', 'normal/op_2_1'"):
        Experiment(Deep(), Fit(1), strategy)


def test_cells_without_a_limit_are_named() -> None:
    settings: dict[str, Any] = {"overrides": ({}, {}), "drops": (1,), "skip_dropout": (0.0, 0.0)}
    space = toy_spaces()["LooseEnds"]
    with pytest.raises(SpaceError, match=r"Write cells='cell'"):
        Experiment(space, Fit(1), PDARTS(**settings))
    for more in ({"cells": "cell"}, {"most_skips": None}):
        Experiment(space, Fit(1), PDARTS(**settings, **more))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drops": (3, 2, 2)}, r"drops=\(3, 2, 2\) 4"),
        ({"skip_dropout": (0.0, 0.4)}, "set n, n - 1 and n entries"),
        ({"drops": (3, -1)}, r"drops\[1\]=-1 must be"),
        ({"most_skips": -1}, "most_skips=-1"),
        ({"skip_dropout": (0.0, 0.4, 1.0)}, "p=1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        PDARTS(**settings)


def test_one_stage_without_dropping_is_darts(tmp_path: Path) -> None:
    """The same logits and weights, step by step."""
    common: dict[str, Any] = {"learning_rate": 0.05, "gradient_clip": 5.0}
    one = PDARTS(overrides=({},), drops=(), skip_dropout=(0.0,), warmup_epochs=0, most_skips=None, **common)
    found = []
    for name, strategy in (("pdarts", one), ("darts", DARTS(**common))):
        experiment = Experiment(Deep(2), Fit(2), strategy, directory=tmp_path / name)
        experiment.run()
        found.append(outcome(experiment))
    assert found[0] == found[1]
