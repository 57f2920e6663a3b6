"""SGAS against the static and history oracles, and one whole search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from spacelang import Cell, ModelSpace, SpaceError, Supernet
from spacelang.files import load_yaml
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import SGAS
from spacelang.strategies.one_shot.sgas import (
    certainty,
    decide,
    edge_scores,
    importance,
    next_edge,
    normalised,
    stability,
    without_none,
)
from spacelang.testing import toy_spaces

from ..toys.search_script import make, outcome


def table(rows: list[list[float]]) -> torch.Tensor:
    """Softmax with none in column 0, which is then left out."""
    return torch.tensor(rows, dtype=torch.float64).softmax(dim=1)[:, 1:]


ALPHA = table([[0, 1, 0.5, -0.5], [0.3, 0.2, 0.1, 1.5], [-0.4, 0.6, 0.6, 0.6], [1, 0, -1, 2], [-1, 2, 0, 0]])
HISTORY = [
    without_none(table(rows))
    for rows in (
        [
            [0.1, 0.8, 0.6, -0.2],
            [0.2, 0.4, 0.3, 1],
            [-0.1, 0.5, 0.7, 0.4],
            [0.8, 1.5, -0.5, 0.5],
            [-1, 0, 2, 0],
        ],
        [
            [0.05, 0.9, 0.55, -0.3],
            [0.25, 0.3, 0.2, 1.2],
            [-0.2, 0.55, 0.65, 0.5],
            [0.9, 0.5, -0.8, 1.2],
            [-1, 0, 0, 2],
        ],
    )
]


class FiveEdges(ModelSpace):
    """Nodes with two and three inputs, two kept of each, three operations."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell({"a": nn.Identity(), "b": nn.ReLU(), "c": nn.Tanh()}, 2, 2, 2, label="cell")


def run_order(criterion: int) -> tuple[list[tuple[int, int]], Supernet]:
    """Decide until nothing is open, logits and history held fixed."""
    supernet = Supernet(FiveEdges())
    group, order = supernet.groups["cell"], []
    while any(sum(row) > 1 for row in group.alive):
        open_rows = [r for r, row in enumerate(group.alive) if sum(row) > 1]
        row = next_edge(edge_scores([ALPHA], [HISTORY], criterion).score, open_rows)  # type: ignore[arg-type]
        operation = int(ALPHA[row].argmax())
        order.append((row, operation + 1))
        supernet.prune({"cell": decide(group, row, operation)})
    return order, supernet


def test_static_oracle() -> None:
    assert importance(ALPHA).tolist() == pytest.approx(
        [0.8325949, 0.83453804, 0.89076823, 0.76311718, 0.9622956], abs=5e-8
    )
    assert certainty(ALPHA).tolist() == pytest.approx(
        [0.13271718, 0.20024915, 0, 0.52279196, 0.39416964], abs=5e-9
    )
    assert normalised(importance(ALPHA)).tolist() == pytest.approx(
        [0.34882154, 0.35857729, 0.64088795, 0, 1], abs=5e-9
    )
    scores = edge_scores([ALPHA], [[]], 1)
    assert scores.score.tolist() == pytest.approx([0.08855265, 0.1373487, 0, 0, 0.75397035], abs=5e-8)


def test_static_run_order() -> None:
    order, supernet = run_order(1)
    assert order == [(4, 1), (1, 3), (0, 1), (2, 1)]
    assert supernet.groups["cell"].alive[3] == [False] * 3


def test_history_oracle() -> None:
    assert stability(ALPHA, HISTORY).tolist() == pytest.approx(
        [0.93138192, 0.86795687, 0.95719025, 0.58495696, 0.31952094], abs=5e-9
    )
    scores = edge_scores([ALPHA], [HISTORY], 2)
    assert scores.score.tolist() == pytest.approx([0.08496866, 0.11812857, 0, 0, 0], abs=5e-9)
    order, supernet = run_order(2)
    assert order == [(1, 3), (0, 1), (2, 1), (3, 3)]
    assert supernet.groups["cell"].alive[4] == [False] * 3


def test_without_history_stability_is_zero_and_the_first_edge_wins() -> None:
    assert stability(ALPHA, []).tolist() == [0] * 5
    scores = edge_scores([ALPHA], [[]], 2).score
    assert scores.tolist() == [0] * 5
    assert next_edge(scores, [1, 2, 4]) == 1


@pytest.mark.slow
def test_a_search_decides_on_schedule_and_frees_what_it_prunes(tmp_path: Path) -> None:
    strategy = SGAS(learning_rate=0.01, first_decision=0, period=1)
    experiment = make(tmp_path / "run", epochs=5, method=strategy)
    experiment.run()
    trace = experiment.search.schedule.trace
    # Two nodes of two slots in each of two cells: one decision per cell label and epoch.
    assert [d.epoch for d in trace] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [d.group for d in trace] == ["normal", "reduce"] * 4
    for label, group in experiment.supernet.groups.items():
        assert sum(sum(row) for row in group.alive) == 4
        for d in (d for d in trace if d.group == label):
            assert group.alive[d.row][d.operation]
            source, node = group.topology.edges[d.row]
            slots = [
                (experiment.best[f"{label}/input_{node}_{k}"], experiment.best[f"{label}/op_{node}_{k}"])
                for k in range(2)
            ]
            assert (source, group.columns[d.operation]) in slots
    # The trace is in the run folder, with names.
    written = load_yaml(experiment.directory / "search.yaml")["decisions"]  # type: ignore[index, call-overload]
    for line, d in zip(written, trace, strict=True):
        group = experiment.supernet.groups[d.group]
        assert (line["row"], line["operation"]) == (group.rows[d.row], group.columns[d.operation])
        assert (line["epoch"], line["score"], line["importance"]) == (d.epoch, d.score, d.importance)
    # Decided everywhere, the supernet is its architecture: weight one on each decided edge.
    frozen = experiment.export_top_models(formatter="instance")[0].eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(experiment.supernet.eval()(x), frozen(x), atol=1e-6)
    before = sum(p.numel() for p in Supernet(experiment.space).parameters())
    assert sum(p.numel() for p in experiment.supernet.parameters()) < before / 2


class Sizes(pl.Callback):
    """Record the sizes of training batches, by epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def __deepcopy__(self, memo: object) -> Sizes:
        return self  # evaluators copy callbacks; the test wants to read this one

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.setdefault(trainer.current_epoch, []).append(len(batch[0]))


@pytest.mark.slow
def test_batches_grow_with_decisions_also_after_a_resume(tmp_path: Path) -> None:
    """96 training images in batches of 32; decisions after epochs 0 and 1 add 16 each."""
    strategy = SGAS(learning_rate=0.01, first_decision=0, period=1, batch_growth=16)
    whole, resumed = Sizes(), Sizes()
    experiment = make(tmp_path / "whole", epochs=3, method=strategy, callbacks=[whole])
    experiment.run()
    assert whole.seen == {0: [32] * 3, 1: [48] * 2, 2: [64, 32]}
    for loader in (experiment.evaluator.train_dataloaders, experiment.evaluator.val_dataloaders):
        assert loader.batch_sampler.batch_size == 32  # the user's again

    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 2:
                raise InterruptedError

    stopped = make(tmp_path / "run", epochs=3, method=strategy, callbacks=[Stop()])
    with pytest.raises(InterruptedError):
        stopped.run()
    assert stopped.evaluator.train_dataloaders.batch_sampler.batch_size == 32
    again = make(tmp_path / "run", epochs=3, method=strategy, callbacks=[resumed])
    again.run(resume=True)
    assert resumed.seen == {2: [64, 32]}
    assert outcome(again) == outcome(experiment)


@pytest.mark.slow
def test_decided_logits_do_not_move(tmp_path: Path) -> None:
    strategy = SGAS(learning_rate=0.1, weight_decay=1.0, first_decision=0, period=1)
    experiment = make(tmp_path / "run", epochs=3, method=strategy)
    experiment.run()
    (first, *_) = experiment.search.schedule.trace
    tables = experiment.search.history[first.group]
    settled = [table[first.row] for table in tables]
    # Pruned to one operation after epoch 0, its share against none keeps the value it had then.
    assert torch.equal(settled[1], settled[2])


@pytest.mark.parametrize("settings", [{"criterion": 3}, {"period": 0}, {"window": 0}, {"first_decision": -1}])
def test_bad_settings_are_named(settings: dict[str, int]) -> None:
    (name,) = settings
    with pytest.raises(SpaceError, match=f"{name}="):
        SGAS(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_too_few_epochs_are_named(tmp_path: Path) -> None:
    """The paper's cells of 14 edges take 8 decisions: after epochs 9, 14, ..., 44, so 45 epochs."""
    strategy = SGAS()
    assert needed(strategy, DartsSpace(2, 3, (1, 8, 10))) == 45
    assert needed(SGAS(first_decision=0, period=1), DartsSpace(2, 3, (1, 8, 10))) == 8
    assert needed(SGAS(first_decision=2, period=3), toy_spaces()["Layers"]) == 2 + 2 * 3 + 1  # one at a time
    assert needed(strategy, toy_spaces()["Values"]) is not None
    quick = SGAS(first_decision=1, period=2)  # two nodes of two slots: 1 + 3 * 2 + 1
    with pytest.warns(UserWarning, match=r"SGAS needs 8 epochs to decide everything, and the Trainer has 1"):
        make(tmp_path / "run", epochs=1, method=quick).run()


def needed(strategy: SGAS, space: ModelSpace) -> int | None:
    search = strategy.attach(strategy.supernet(space))
    return search.schedule.epochs_needed(search)  # type: ignore[attr-defined]
