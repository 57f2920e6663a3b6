"""DARTSPT against its oracle, the number of its measurements, and one whole search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from spacelang import Cell, Experiment, ModelSpace, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTSPT
from spacelang.strategies.one_shot.dartspt import ProjectionSchedule
from spacelang.testing import toy_spaces
from spacelang.testing.toy_evaluators import Fit, example_batch

ENTRIES = torch.arange(3, dtype=torch.float64)
LOGITS = 2 * torch.sin(1 + ENTRIES[:, None] + 4 * ENTRIES + 3 * ENTRIES[:, None] * ENTRIES)
GAINS = torch.tensor([[0.3, 0.9, -0.2], [0.1, 0.4, 0.8], [0.7, -0.5, 0.2]], dtype=torch.float64)


class OneNode(ModelSpace):
    """A node that keeps two of three edges, with three operations each."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({name: nn.Identity() for name in "abc"}, 1, 2, 3, label="cell")


class Toy:
    """A scorer: accuracy 50 + 20 tanh(sum W G), W what the supernet computes with.

    Args:
        supernet: The supernet.
    """

    def __init__(self, supernet: Supernet) -> None:
        self.group = supernet.groups["cell"]
        self.measured: list[float] = []

    def measure(self) -> float:
        runs = torch.tensor([[k in row for k in range(3)] for row in self.group.active])
        weights = torch.where(runs, self.group.weights, 0)  # type: ignore[arg-type]
        self.measured.append(float(50 + 20 * torch.tanh((weights * GAINS).sum())))
        return self.measured[-1]


def toy_search(monkeypatch: pytest.MonkeyPatch, order: list[int]) -> tuple[Any, Toy]:
    """A search with the oracle's logits, which decides places in a given order."""
    supernet = Supernet(OneNode())
    search: Any = DARTSPT(search_epochs=1, interval=1, metric="acc", mode="max").attach(supernet)
    search.parameters.logits["cell"].data = LOGITS.clone()
    toy, places = Toy(supernet), iter(order)

    @contextmanager
    def scorer(**settings: Any) -> Iterator[Toy]:
        assert settings == {"of_batch": True}
        yield toy

    monkeypatch.setattr(search, "scorer", scorer)
    monkeypatch.setattr(torch, "randint", lambda high, *args, **settings: torch.tensor(next(places)))
    return search, toy


@pytest.mark.parametrize(
    ("row", "expected", "kept"),
    [
        (0, (52.53899889, 56.14410447, 57.47530772), 0),
        (1, (55.19710785, 54.57962423, 55.54025973), 1),  # argmax of the logits is 0
        (2, (51.83190474, 61.25846752, 56.27630823), 0),  # argmax of the logits is 1
    ],
)
def test_oracle_15a_of_operations(
    monkeypatch: pytest.MonkeyPatch, row: int, expected: tuple[float, ...], kept: int
) -> None:
    search, toy = toy_search(monkeypatch, [row])
    search.mix("weights")
    assert toy.measure() == pytest.approx(56.4492109859, abs=5e-11)
    schedule = ProjectionSchedule(search.strategy)
    schedule.epoch_end(search, 1)
    (projection,) = schedule.trace
    assert projection.values == pytest.approx(expected, abs=5e-9)
    assert (projection.rows, projection.columns) == ((row,), (kept,))


def test_oracle_15a_of_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    search, _ = toy_search(monkeypatch, [0, 0, 0, 0])
    schedule = ProjectionSchedule(search.strategy)
    for epoch in range(1, 5):
        schedule.epoch_end(search, epoch)
    assert [p.rows for p in schedule.trace] == [(0,), (1,), (2,), (0, 1, 2)]
    assert schedule.trace[-1].values == pytest.approx(
        (66.0099804352, 65.2318831191, 62.0873555423), abs=5e-11
    )
    assert [p.columns for p in schedule.trace] == [(0,), (1,), (0,), (-1, 1, 0)]
    (arch,) = search.derive()
    slots = {arch[f"cell/input_3_{k}"]: arch[f"cell/op_3_{k}"] for k in range(2)}
    assert slots == {1: "b", 2: "a"}


def test_of_equal_operations_the_first_stays_and_of_equal_edges_the_last_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search, toy = toy_search(monkeypatch, [0, 0, 0, 0])
    monkeypatch.setattr(toy, "measure", lambda: 1.0)
    schedule = ProjectionSchedule(search.strategy)
    for epoch in range(1, 5):
        schedule.epoch_end(search, epoch)
    assert [p.columns for p in schedule.trace] == [(0,), (0,), (0,), (0, 0, -1)]


def test_the_darts_cells_take_240_measurements_and_17_decisions() -> None:
    """98 passes for the operations of each cell type, 3 + (4 + 3) + (5 + 4 + 3) for its nodes."""
    strategy = DARTSPT(search_epochs=2, interval=1)
    supernet = strategy.supernet(DartsSpace(2, 3, (1, 8, 10)))
    search: Any = strategy.attach(supernet)
    toy = type("Constant", (), {"measure": lambda self: 0.0})()

    @contextmanager
    def scorer(**settings: Any) -> Iterator[Any]:
        yield toy

    search.scorer = scorer
    search._training = type("Training", (), {"reset_optimizers": lambda self: None})()
    schedule = ProjectionSchedule(strategy)
    assert schedule.epochs_needed(search) == 2 + 16
    for epoch in range(18):
        schedule.epoch_end(search, epoch)
    assert sum(len(p.values) for p in schedule.trace) == 240
    assert [len([p for p in schedule.trace if p.epoch == e]) for e in range(18)] == [0] + [2] * 17


class Moments(pl.Callback):
    """Counts the weights that have momentum when an epoch begins."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(len(trainer.optimizers[0].state))


def test_blank_logits_stay_and_decisions_are_the_architecture(tmp_path: Path) -> None:
    strategy = DARTSPT(search_epochs=1, interval=1, blank=True)
    space = toy_spaces()["Everything"]
    moments = Moments()
    experiment = Experiment(space, Fit(8, [moments]), strategy, directory=tmp_path / "run")
    experiment.run()
    assert [count > 0 for count in moments.seen] == [False, False] + [True] * 6  # again after epoch 0
    initial = strategy.attach(strategy.supernet(space), seed=0).parameters.logits
    for label, logits in experiment.search.parameters.logits.items():
        assert torch.equal(logits, initial[label])
    cell = experiment.supernet.groups["cell"]
    assert sum(map(sum, cell.alive)) == cell.cell.num_ops_per_node * len(cell.cell.nodes)
    x = example_batch()
    frozen = experiment.export_top_models(formatter="instance")[0].double().eval()
    experiment.search.mix("weights")
    assert torch.allclose(experiment.supernet.double().eval()(x), frozen(x), atol=1e-6)


@pytest.mark.parametrize("settings", [{"search_epochs": 0}, {"interval": 0}])
def test_bad_settings_are_named(settings: dict[str, int]) -> None:
    (name,) = settings
    with pytest.raises(SpaceError, match=f"{name}=0"):
        DARTSPT(**settings)  # type: ignore[arg-type]
