"""PNAS: how many cells there are, what is extended, what is found, and how levels follow one another."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, Experiment, LayerChoice, ModelSpace, SpaceError, hub, value_choice
from spacelang.evaluators import Functional
from spacelang.language import Architecture
from spacelang.strategies.multi_trial import PNAS, Deduplicate, Repeated, SmallerSpace, SuccessiveHalving
from spacelang.strategies.multi_trial.pnas import Blocks, _Cells, _topologies
from spacelang.strategies.multi_trial.predictors import CellLSTM
from spacelang.trials import Exhausted, Trial, key_of

from ...toys import trials as toy
from .drive import archs, search

pytestmark = pytest.mark.slow


class Tree(ModelSpace):
    """Cells of two inputs whose operations multiply by 1, 2, ...; the mean of the nodes goes on."""

    def __init__(
        self,
        num_nodes: int = 3,
        operations: int = 2,
        labels: Sequence[str] = ("cell",),
        *,
        merge_op: Any = "all",
        distinct_inputs: bool = False,
    ) -> None:
        super().__init__()
        settings: Any = {"merge_op": merge_op, "distinct_inputs": distinct_inputs}
        factors = {f"times{k}": toy.Scale(k) for k in range(1, operations + 1)}
        self.cells = nn.ModuleList(Cell(factors, num_nodes, 2, 2, label=x, **settings) for x in labels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1) -> (B, 1)."""
        for cell in self.cells:
            x = cell(x, x).mean(1, keepdim=True)
        return x


def worth(arch: Mapping[str, Any]) -> float:
    """A sum over slots: of the operation, and less of the input, so that no two slots are worth the same."""
    operations = sum(int(v[5:]) for label, v in arch.items() if "op_" in label)
    inputs = sum(v / 10 for label, v in arch.items() if "input_" in label)
    return float(operations - inputs)


def measured(trial: Trial) -> dict[str, float]:
    return {"value": worth(trial.arch)}


class Knowing:
    """A predictor that knows the answer."""

    def fit(self, archs: Sequence[Architecture], values: Any, rng: np.random.Generator) -> None:
        assert list(values) == [worth(arch) for arch in archs]

    def predict(self, archs: Sequence[Architecture]) -> tuple[Any, Any]:
        return np.array([worth(arch) for arch in archs]), np.zeros(len(archs))


def knowing(beam: int = 5, **settings: Any) -> PNAS:
    return PNAS(beam=beam, predictor=lambda space: Knowing(), **settings)


def levels(history: Any) -> list[tuple[int, int]]:
    """Each level and how many trials it has."""
    return sorted(Counter(trial.note["level"] for trial in history).items())


def grown(space: ModelSpace, level: int) -> tuple[_Cells, list[Blocks]]:
    """Every cell of a level, from nothing."""
    cells = _Cells(_topologies(space, "num_nodes"))
    beam: list[Blocks] = [()]
    for nodes in range(1, level + 1):
        beam = list(cells.extended(beam, nodes, space.rebuild(num_nodes=nodes).decision_space))
    return cells, beam


def all_cells(space: ModelSpace, level: int) -> list[Any]:
    """The same as architectures."""
    cells, beam = grown(space, level)
    return [cells.architecture(cell) for cell in beam]


# -- counts


def test_cells_of_the_paper() -> None:
    """Eight operations: 16 * 17 / 2 = 136 of 2^2 * 8^2 = 256 blocks; 24 * 25 / 2 = 300 of 3^2 * 8^2 = 576."""
    space = Tree(5, 8)
    assert len(grown(space, 1)[1]) == 136 == space.rebuild(num_nodes=1).size()
    assert len(grown(space, 2)[1]) == 136 * 300 == space.rebuild(num_nodes=2).size()


@pytest.mark.parametrize("settings", [{}, {"distinct_inputs": True}, {"merge_op": "loose_end"}])
def test_all_cells_come_once_and_are_canonical(settings: Any) -> None:
    space = Tree(2, **settings)
    assert {key_of(a) for a in all_cells(space, 2)} == {key_of(space.canonical(a)) for a in space.grid()}
    assert len(all_cells(space, 2)) == space.size()


class Constrained(Tree):
    """A node reads later nodes than the one before it."""

    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__(num_nodes)
        read = [
            sum(value_choice(range(node), label=f"cell/input_{node}_{slot}") for slot in (0, 1))
            for node in range(2, 2 + num_nodes)
        ]
        for before, after in itertools.pairwise(read):
            self.constrain(before < after)


def test_constraints_between_nodes_hold() -> None:
    space = Constrained()
    assert 0 < len(all_cells(space, 2)) == space.size() < Tree(2).size()


def test_the_hub_s_space_begins_with_136_cells() -> None:
    """Its normal and reduction cells are alike, as in the paper."""
    space = hub.PNAS(width=4, num_cells=3)
    proposer = PNAS(predictor=lambda space: Knowing()).start(space)
    history = search(knowing(), space, lambda trial: {"value": 0.0}, 3)
    assert len(proposer._chosen(history, {"level": 1})) == 136
    for trial in history:
        assert trial.overrides == {"num_nodes": 1}
        normal = [v for label, v in trial.arch.items() if label.startswith("normal/")]
        reduce = [v for label, v in trial.arch.items() if label.startswith("reduce/")]
        assert normal == reduce
        assert len(normal) == 4


# -- what is found


@pytest.mark.parametrize("beam", [1, 5])
def test_with_a_perfect_predictor_the_optimum_is_found(beam: int) -> None:
    """Brute force: 10 * 21 * 36 cells."""
    space = Tree()
    assert space.size() == 7560
    history = search(knowing(beam), space, measured, 999)
    assert levels(history) == [(1, 10), (2, beam), (3, beam)]
    assert history.best_trial is not None
    assert worth(history.best_trial.arch) == max(map(worth, space.grid()))


def test_each_level_has_the_best_extensions_of_the_last() -> None:
    history = search(knowing(6), Tree(), measured, 999)
    by_level = {b: [t.arch for t in history if t.note["level"] == b] for b in (1, 2, 3)}
    space = Tree().rebuild(num_nodes=3)
    for level in (2, 3):
        below = {key_of(arch) for arch in by_level[level - 1]}
        smaller = space.rebuild(num_nodes=level - 1).decision_space
        every = [
            arch
            for arch in space.rebuild(num_nodes=level).grid()
            if key_of({x: arch[x] for x in arch if x in smaller.by_label}) in below
        ]
        best = sorted(map(worth, every), reverse=True)[:6]
        assert [worth(arch) for arch in by_level[level]] == best


def test_only_whole_cells_are_results() -> None:
    history = search(knowing(4), Tree(), measured, 999)
    assert [trial.overrides for trial in history] == [{"num_nodes": 1}] * 10 + [{"num_nodes": 2}] * 4 + [
        {}
    ] * 4
    assert {t.number for t in history.ranked(99)} == {14, 15, 16, 17}
    proposer = knowing(4).start(Tree())
    with pytest.raises(Exhausted, match="the best cells of 3 nodes were tried"):
        proposer.ask(history, np.random.default_rng(0))


def test_the_lstm_ranks_cells_that_are_wider_than_any_it_has_seen() -> None:
    space = Tree(2, 4)
    small, wide = all_cells(space, 1), all_cells(space, 2)[::29]
    lstm = CellLSTM(space, members=2, width=20, epochs=60)
    lstm.fit(small, np.array([worth(arch) for arch in small]), np.random.default_rng(0))
    mean, std = lstm.predict(wide)
    assert np.corrcoef(mean, [worth(arch) for arch in wide])[0, 1] > 0.7
    assert (std > 0).all()
    again = CellLSTM(space, members=2, width=20, epochs=60)
    again.fit(small, np.array([worth(arch) for arch in small]), np.random.default_rng(0))
    assert (again.predict(wide)[0] == mean).all()


def test_the_lstm_learns_what_it_is_shown() -> None:
    space = Tree(1, 3)
    archs = all_cells(space, 1)
    values = 100 + 10 * np.array([worth(arch) for arch in archs])
    lstm = CellLSTM(space, members=1, width=20, epochs=200)
    lstm.fit(archs, values, np.random.default_rng(0))
    assert np.abs(lstm.predict(archs)[0] - values).mean() < 0.1 * values.std()
    lstm.fit(archs, np.full(len(archs), 3.0), np.random.default_rng(0))
    assert lstm.predict(archs)[0] == pytest.approx(3.0, abs=0.5)


def test_a_search_with_its_own_predictor() -> None:
    """Of the best tenth of the space."""
    space = Tree(2, 3)
    quick = PNAS(beam=6, predictor=lambda space: CellLSTM(space, members=2, width=16, epochs=60))
    history = search(quick, space, measured, 999)
    assert history.best_trial is not None
    better = sum(worth(arch) > worth(history.best_trial.arch) for arch in space.grid())
    assert better < space.size() / 10


# -- how levels follow


def test_what_failed_is_not_extended() -> None:
    """Nor what gave NaN: of 10 cells 8 are."""

    def fragile(trial: Trial) -> dict[str, float] | None:
        return {3: None, 5: {"value": float("nan")}}.get(trial.number, measured(trial))

    history = search(knowing(999), Tree(2), fragile, 999)
    assert levels(history) == [(1, 10), (2, 8 * 21)]
    nowhere = search(knowing(), Tree(2), lambda trial: None, 999)
    assert levels(nowhere) == [(1, 10)]
    with pytest.raises(Exhausted, match="no cell of 1 nodes was measured that could be extended"):
        knowing().start(Tree(2)).ask(nowhere, np.random.default_rng(0))


def test_the_next_level_begins_while_trials_run() -> None:
    history = search(knowing(4), Tree(), measured, 999, workers=3)
    assert levels(history) == [(1, 10), (2, 4), (3, 4)]
    assert history[10].note["running"] == [8, 9]
    assert history[14].note["running"] == [12, 13]


def test_with_nothing_measured_it_waits() -> None:
    """Forty workers: all cells of a level run, and nothing is known of any."""
    history = search(knowing(4), Tree(), measured, 999, workers=40)
    assert levels(history) == [(1, 10), (2, 4), (3, 4)]
    assert history[10].note["running"] == []


def test_a_search_begun_anew_sees_what_was_running() -> None:
    """A cell that fails after the next level began was running then: it stays extended."""
    strategy, space = knowing(4), Tree()
    history = search(strategy, space, measured, 10)
    running = Trial(9, history[9].arch, 9, "running", None, history[9].note, history[9].overrides)
    history.add(running)
    proposer = strategy.start(space)
    for number in range(10, 14):
        rng = np.random.default_rng((0, number))
        first = proposer.ask(history, rng)
        assert strategy.start(space).ask(history, np.random.default_rng((0, number))) == first
        arch = history.decisions(first.overrides).canonical(first.arch)
        history.add(Trial(number, arch, 0, "running", None, first.note, first.overrides))
        if number == 11:
            history.add(Trial(9, running.arch, 9, "failed", None, running.note, running.overrides))
    assert {history[n].note["begin"] for n in range(10, 14)} == {10}


def test_wrapped_strategies() -> None:
    alone = archs(search(knowing(4), Tree(), measured, 999))
    assert archs(search(Deduplicate(knowing(4)), Tree(), measured, 999)) == alone
    twice = search(Repeated(knowing(4), 2), Tree(), measured, 999)
    assert archs(twice)[::2] == archs(twice)[1::2] == alone
    halved = search(SuccessiveHalving(knowing(4), 9, trials=6), Tree(), measured, 60)
    assert {trial.max_epochs for trial in halved} == {3, 9}
    smaller = search(SmallerSpace(knowing(4), {"merge_op": "loose_end"}), Tree(), measured, 999)
    assert archs(smaller) == alone
    assert smaller[0].overrides == {"merge_op": "loose_end", "num_nodes": 1}
    assert smaller[17].overrides == {"merge_op": "loose_end"}


def of_one(model: Any) -> dict[str, float]:
    """What a model makes of a one."""
    return {"default": float(model(torch.ones(1, 1)))}


def test_an_interrupted_experiment_resumes_exactly(tmp_path: Path) -> None:
    """With two cells of other labels in a row, which are alike."""
    strategy = PNAS(beam=3, predictor=lambda space: CellLSTM(space, members=1, width=4, epochs=5))

    def run(folder: str, at: int, resume: bool = False) -> Experiment:
        space = Tree(2, labels=("first", "second"))
        experiment = Experiment(
            space, Functional(toy.Interrupting(at, of_one)), strategy, directory=tmp_path / folder
        )
        experiment.run(resume=resume)
        return experiment

    whole = run("whole", 0)
    assert len(whole.history) == 13
    for at in (2, 12):
        with pytest.raises(KeyboardInterrupt):
            run(str(at), at)
        assert toy.trials_of(run(str(at), 0, resume=True)) == toy.trials_of(whole)
    assert all(whole.best[label.replace("first", "second")] == whole.best[label] for label in whole.best)
    model = whole.export_top_models(formatter="instance")[0]
    assert float(model(torch.ones(1, 1))) == whole.history.ranked()[0].metrics["default"]


# -- refusals


class Mixed(Tree):
    """Something beside the cells."""

    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__(num_nodes)
        self.stem = LayerChoice({"none": nn.Identity()}, label="stem")


class Unlike(ModelSpace):
    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__()
        self.cells = nn.ModuleList(
            Cell([nn.Identity(), toy.Scale(2)], nodes, 2, 2, label=f"cell{nodes}") for nodes in (num_nodes, 4)
        )


class Deaf(Tree):
    """Takes the argument and does not heed it."""

    def __init__(self, num_nodes: int = 2) -> None:
        super().__init__(2)


def test_refusals() -> None:
    with pytest.raises(SpaceError, match=r"cells that are alike; those of Chain are none"):
        PNAS().start(toy.Chain())
    with pytest.raises(SpaceError, match="cells that are alike; those of Unlike are"):
        PNAS().start(Unlike())
    with pytest.raises(SpaceError, match="searches cells alone; Mixed also decides 'stem'"):
        PNAS().start(Mixed())
    with pytest.raises(SpaceError, match=r"by nodes=1: Tree takes no argument 'nodes'.*PNAS\(nodes="):
        PNAS(nodes="nodes").start(Tree())
    with pytest.raises(SpaceError, match=r"Deaf\(num_nodes=1\) should have the same cells with one node"):
        PNAS().start(Deaf())
    with pytest.raises(SpaceError, match="beam=0 must be an integer of at least 1"):
        PNAS(beam=0)
    with pytest.raises(SpaceError, match="nodes=5 must be the name"):
        PNAS(nodes=5)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"CellLSTM reads the cells \['other'\]; Tree has \['cell'\]"):
        CellLSTM(Tree(), ["other"])
