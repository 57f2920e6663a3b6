"""Early stops against the oracles of sections 12 and 17, and whole searches that they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, Experiment, LayerChoice, ModelSpace, SpaceError, Supernet
from spacelang.files import load_yaml
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import (
    DARTS,
    Extra,
    Moment,
    RandomOneShot,
    StopOnEigenvalue,
    StopOnSkips,
    StopOnStableRanking,
    top_architectures,
)
from spacelang.strategies.extras import early_stop as module
from spacelang.strategies.extras.early_stop import is_stable, local_averages
from spacelang.testing.toy_evaluators import Fit

from ..toys.search_script import outcome

GENOTYPES = {  # normal cells, as published
    "DARTS_V1": "sep3 1 sep3 0 | skip 0 sep3 1 | skip 0 sep3 1 | sep3 0 skip 2",
    "DARTS_V2": "sep3 0 sep3 1 | sep3 0 sep3 1 | sep3 1 skip 0 | skip 0 dil3 2",
    "PDARTS": "skip 0 dil3 1 | skip 0 sep3 1 | sep3 1 sep3 3 | sep3 0 dil5 4",
    "SGAS_Cri1_3": "sep3 0 dil3 1 | sep3 0 sep3 1 | sep5 1 sep5 3 | skip 0 dil5 2",
}
NAMES = {
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}


def architecture(genotype: str) -> dict[str, Any]:
    """Decisions of a normal cell and, the same, of a reduction cell."""
    arch: dict[str, Any] = {}
    for node, text in enumerate(genotype.split("|"), start=2):
        words = text.split()
        for slot in range(2):
            for cell in ("normal", "reduce"):
                arch[f"{cell}/op_{node}_{slot}"] = NAMES[words[2 * slot]]
                arch[f"{cell}/input_{node}_{slot}"] = int(words[2 * slot + 1])
    return arch


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(DartsSpace(2, 3, (1, 8, 10)))


class Stub:
    """What early stops read of a search, and whether they stopped it."""

    def __init__(self, supernet: Supernet, arch: dict[str, Any] | None = None, epoch: int = 5) -> None:
        self.supernet = supernet
        self.strategy = DARTS(warmup_epochs=3)
        self.moment = Moment(epoch, 50, torch.Generator())
        self.records: dict[str, list[float]] = {}
        self.history: dict[str, list[Tensor]] = {}
        self.arch = arch
        self.reason = ""
        self.returned: int | None = None

    def derive(self, count: int = 1) -> list[Any]:
        return [self.arch]

    def stop(self, reason: str) -> None:
        self.reason = reason

    def record(self, name: str, value: float) -> None:
        self.records.setdefault(name, []).append(value)

    def return_to(self, epoch: int) -> None:
        self.returned = epoch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "skips"), [("DARTS_V1", 3), ("DARTS_V2", 2), ("PDARTS", 2), ("SGAS_Cri1_3", 1)]
)
def test_criterion_1(supernet: Supernet, name: str, skips: int) -> None:
    search: Any = Stub(supernet, architecture(GENOTYPES[name]))
    StopOnSkips().epoch_end(search)
    assert bool(search.reason) == (skips > 1)
    assert not skips > 1 or f"'normal' has {skips} skip connections" in search.reason


def test_epochs_that_train_weights_alone_are_not_judged(supernet: Supernet) -> None:
    search: Any = Stub(supernet, architecture(GENOTYPES["DARTS_V1"]), epoch=2)
    StopOnSkips().epoch_end(search)
    assert not search.reason


class Small(ModelSpace):
    """A cell whose first candidate is a skip connection, and two with weights."""

    def __init__(self) -> None:
        super().__init__()
        candidates = {
            "skip": nn.Identity(),
            "small": nn.Conv2d(4, 4, 1),
            "large": nn.Conv2d(4, 4, 3, padding=1),
        }
        self.cell = Cell(candidates, 2, 2, 2, label="normal")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, x.flip(-1)))


def search_small(directory: Path, strategy: DARTS, *, epochs: int = 5, resume: bool = False) -> Experiment:
    experiment = Experiment(Small(), Fit(epochs), strategy, directory=directory)
    experiment.run(resume=resume)
    return experiment


def test_a_search_stops_on_skips_and_stays_stopped(tmp_path: Path) -> None:
    # Uniform probabilities derive the first candidates, and the first epoch trains weights alone.
    strategy = DARTS(init_scale=0, learning_rate=1e-9, warmup_epochs=1, extras=(StopOnSkips(),))
    first: Any = search_small(tmp_path, strategy)
    assert len(first.search.history["normal"]) == 2
    assert first.search.stopped.startswith("cell 'normal' has 4 skip connections after epoch 1")
    summary: Any = load_yaml(first.directory / "search.yaml")
    assert summary["stopped"] == first.search.stopped
    assert outcome(search_small(tmp_path, strategy, resume=True)) == outcome(first)


# -- rankings --------------------------------------------------------------------------------------------


def test_ranking_by_hand() -> None:
    a = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.3, 0.5]])
    b = torch.tensor([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]])  # columns 1 and 2 of row 0 change places
    c = torch.tensor([[0.3, 0.35, 0.35], [0.1, 0.3, 0.6]])  # column 0 of row 0 falls; ties keep their order
    everything = [[0, 1, 2], [0, 1, 2]]
    assert not is_stable([a, b], everything, 1)
    assert is_stable([a, b], [[0, 1], [0, 1, 2]], 1)
    assert is_stable([a, b, c], [[1, 2], []], 1)
    assert not is_stable([a, b, c], [[1, 2], []], 2)
    assert not is_stable([b], everything, 1)  # nothing to compare with


def test_only_operations_with_weights_are_ranked(supernet: Supernet) -> None:
    learnable = module._learnable(supernet)
    assert learnable["normal"] == [[3, 4, 5, 6]] * 14
    # Skips that reduce, from the two inputs, have weights.
    assert [row[0] for row in learnable["reduce"]] == [2, 2, 2, 2, 3, 2, 2, 3, 3, 2, 2, 3, 3, 3]
    with pytest.raises(SpaceError, match="no edge or layer choice of this space has two"):
        StopOnStableRanking().check(DARTS(), Supernet(NoCell()))


def test_a_search_stops_when_its_ranking_is_stable(tmp_path: Path) -> None:
    strategy = DARTS(learning_rate=1e-9, warmup_epochs=1, extras=(StopOnStableRanking(1),))
    search: Any = search_small(tmp_path, strategy).search
    assert len(search.history["normal"]) == 3  # epochs 1 and 2 agree
    assert "did not change for 1 epochs" in search.stopped


# -- eigenvalues -----------------------------------------------------------------------------------------


def measured(
    monkeypatch: pytest.MonkeyPatch, supernet: Supernet, extra: StopOnEigenvalue, values: list[float]
) -> Any:
    """Give the extra one value per measurement until it stops."""
    search = Stub(supernet)
    given = iter(values)
    monkeypatch.setattr(module, "validation_eigenvalue", lambda search: next(given))
    for epoch in range(len(values) * extra.every):
        search.moment = Moment(epoch, 50, torch.Generator())
        extra.epoch_end(search)  # type: ignore[arg-type]
        if search.reason:
            break
    return search


@pytest.mark.parametrize(("last", "stops"), [(0.14, True), (0.129, False)])
def test_eigenvalue_oracle(
    monkeypatch: pytest.MonkeyPatch, supernet: Supernet, last: float, stops: bool
) -> None:
    extra = StopOnEigenvalue(window=1, first_epoch=0)
    search = measured(monkeypatch, supernet, extra, [0.10, 0.11, 0.12, 0.13, last])
    assert (search.returned, bool(search.reason)) == ((0, True) if stops else (None, False))


def test_averages_are_centred() -> None:
    assert local_averages([1, 2], 5) == []
    assert local_averages([1, 2, 3, 6], 5) == [2, 3]
    assert local_averages([1, 2, 3, 6, 8, 11], 5) == [2, 3, 4, 6]
    assert local_averages([1, 2], 1) == [1, 2]


def test_the_first_epoch_to_return_to(monkeypatch: pytest.MonkeyPatch, supernet: Supernet) -> None:
    """Measured in epochs 0, 2, ...; the average of epoch 10 is compared with that of 18, known in 22."""
    search = measured(monkeypatch, supernet, StopOnEigenvalue(), [1.5**i for i in range(20)])
    assert search.moment.epoch == 22
    assert search.returned == 10


def test_a_search_returns_to_an_earlier_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "validation_eigenvalue", lambda search: float(search.moment.epoch + 1))
    stop = StopOnEigenvalue(every=1, window=1, distance=1, first_epoch=0)
    strategy = DARTS(learning_rate=0.3, extras=(stop,))
    first: Any = search_small(tmp_path, strategy)
    search, supernet = first.search, first.supernet
    assert len(search.history["normal"]) == 2
    earlier, later = ({"normal": search.history["normal"][epoch]} for epoch in (0, 1))
    assert top_architectures(supernet, earlier, 1) != top_architectures(supernet, later, 1)
    assert [first.best] == top_architectures(supernet, earlier, 1)
    assert outcome(search_small(tmp_path, strategy, resume=True)) == outcome(first)


# -- refusals --------------------------------------------------------------------------------------------


class NoCell(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")


def test_cells_without_skips_are_named(supernet: Supernet) -> None:
    with pytest.raises(SpaceError, match="cells='cell'; cells with skip connections are 'normal', 'reduce'"):
        DARTS(extras=(StopOnSkips(cells="cell"),)).attach(supernet)
    with pytest.raises(SpaceError, match="no cell of this space has a skip connection"):
        DARTS(extras=(StopOnSkips(),)).attach(Supernet(NoCell()))


@pytest.mark.parametrize("extra", [StopOnSkips(), StopOnStableRanking(), StopOnEigenvalue()])
def test_path_sampling_has_no_probabilities(supernet: Supernet, extra: Extra) -> None:
    with pytest.raises(SpaceError, match=f"{type(extra).__name__} reads the probabilities"):
        RandomOneShot(extras=(extra,)).attach(supernet)


@pytest.mark.parametrize(
    ("make_extra", "message"),
    [
        (lambda: StopOnSkips(-1), "most=-1"),
        (lambda: StopOnStableRanking(0), "epochs=0"),
        (lambda: StopOnEigenvalue(window=4), "window=4 must be odd"),
        (lambda: StopOnEigenvalue(every=0), "every=0"),
        (lambda: StopOnEigenvalue(factor=0), "factor=0"),
    ],
)
def test_bad_settings_are_named(make_extra: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make_extra()
