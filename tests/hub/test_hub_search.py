"""Every space of images is searched by every kind of strategy, or refused before training with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, SpaceError
from spacelang.evaluators import Functional
from spacelang.language import is_frozen
from spacelang.strategies import DARTS as DartsSearch
from spacelang.strategies import (
    GDAS,
    SGAS,
    SPOS,
    ZODARTS,
    MetAdapt,
    Random,
    RandomOneShot,
    ZODARTSPlus,
    ZODARTSPlusPlus,
)
from spacelang.testing.toy_evaluators import quiet_trainer

from ..toys.hub import SMALL, small_space

pytestmark = pytest.mark.slow

STRATEGIES: dict[str, Any] = {
    "DARTS": DartsSearch(),
    "SGAS": SGAS(first_decision=0, period=1),
    "GDAS": GDAS(),
    "SPOS": SPOS(
        population=2,
        generations=2,
        parents=1,
        mutations=1,
        crossovers=1,
        calibration_batches=1,
        validation_batches=1,
    ),
    "RandomOneShot": RandomOneShot(
        candidates=2, first_batches=1, finalists=1, calibration_batches=1, validation_batches=1
    ),
}
OF_MOTIFS: dict[str, Any] = {  # strategies tried here on cells of motifs alone
    "ZODARTS": ZODARTS(rounds=1),
    "ZODARTSPlus": ZODARTSPlus(rounds=1),
    "ZODARTSPlusPlus": ZODARTSPlusPlus(rounds=1, opened=0),
    "MetAdapt": MetAdapt(embedding=3),
}
MIXING = ("DARTS", "SGAS", "GDAS")  # compute with several candidates at once
REFUSALS = {
    "DARTS-sizes": (
        "'num_cells': a network computes one number of cells",
        "'width': .* one choice at a time",
    ),
    "NASBench101": (
        "'cell/num_vertices': channels follow from the graph, and graphs are computed one at a time",
    ),
}
SPACES = [
    *(name for name, small in SMALL.items() if name == small.kind.__name__ and small.given is None),
    *("DARTS-sizes", "ShuffleNetSpace-channels"),
]


def searches() -> Iterator[Any]:
    """Spaces and strategies: one that samples paths searches every space each time, the others a few."""
    for name, strategy in product(SPACES, STRATEGIES):
        if not (name in REFUSALS and strategy in MIXING):
            is_few = strategy == "SGAS" and name in ("MobileNetV3Space", "AutoFormer", "HierarchicalCells")
            marks = [] if strategy == "SPOS" or is_few or name == "DARTS" else [pytest.mark.exhaustive]
            yield pytest.param(name, strategy, marks=marks, id=f"{name}-{strategy}")
    for strategy in OF_MOTIFS:
        marks = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore:.* matches sizes")]
        yield pytest.param("HierarchicalCells", strategy, marks=marks, id=f"HierarchicalCells-{strategy}")


class Classifier(pl.LightningModule):
    """Cross-entropy of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TwoSteps:
    """Evaluator that trains on two batches of random images."""

    max_epochs = 1
    steps = 0

    def __init__(self, image: tuple[int, int, int]) -> None:
        self.image = image

    def lightning_module(self, model: nn.Module) -> Classifier:
        return Classifier(model)

    def fit(
        self,
        model: nn.Module,
        *,
        callbacks: Sequence[pl.Callback] = (),
        directory: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        checkpoint_io: Any = None,
        unused_parameters: bool = False,
    ) -> pl.Trainer:
        trainer = quiet_trainer(self.max_epochs, directory, callbacks, plugins=[checkpoint_io])
        train, val = (random_batches(self.image, seed) for seed in (0, 1))
        trainer.fit(self.lightning_module(model), train, val, ckpt_path=ckpt_path)
        self.steps = trainer.global_step
        return trainer


def random_batches(image: tuple[int, int, int], seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, *image, generator=generator)
    classes = torch.randint(3, (4,), generator=generator)
    return DataLoader(TensorDataset(images, classes), batch_size=2)


def experiment(name: str, strategy: str, folder: Path) -> Experiment:
    small, space = SMALL[name], SMALL[name].make().float()
    return Experiment(
        space, TwoSteps(small.image), (STRATEGIES | OF_MOTIFS)[strategy], directory=folder, seed=0
    )


@pytest.mark.filterwarnings("ignore:.* derived a dead network")  # two steps may keep zeros
@pytest.mark.parametrize(("name", "strategy"), list(searches()))
def test_two_steps(name: str, strategy: str, tmp_path: Path) -> None:
    search = experiment(name, strategy, tmp_path / "run")
    search.run()
    assert search.evaluator.steps == 2
    search.space.validate(search.best)
    model = search.export_top_models(formatter="instance")[0]
    assert is_frozen(model)
    assert len(model.eval()(torch.zeros(2, *SMALL[name].image))) == 2


@pytest.mark.parametrize("name", SPACES)
def test_two_trials(name: str, tmp_path: Path) -> None:
    def logits(model: nn.Module) -> float:
        assert is_frozen(model)
        return model.eval()(*(x.float() for x in SMALL[name].inputs(2))).abs().sum().item()

    search = Experiment(
        small_space(name), Functional(logits), Random(), directory=tmp_path / "run", seed=0, max_trials=2
    )
    search.run()
    search.space.validate(search.best)
    assert search.history.count("failed") == 0


@pytest.mark.parametrize("strategy", MIXING)
@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_training(name: str, strategy: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"(?s)mixes candidates, so it cannot search.*SPOS") as refusal:
        experiment(name, strategy, tmp_path / "run")
    for reason in REFUSALS[name]:
        assert re.search(reason, str(refusal.value))
    assert not (tmp_path / "run").exists()
