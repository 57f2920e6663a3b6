"""Every space is searched by every kind of one-shot strategy, or refused before training with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, ModelSpace, SpaceError, hub
from spacelang.hub import (
    DARTS,
    ENAS,
    PNAS,
    AmoebaNet,
    AutoFormer,
    ENASMacro,
    FairDARTS,
    MobileNetV3Space,
    NASBench101,
    NASBench201,
    NASNet,
    ProxylessNAS,
    ShuffleNetSpace,
    shufflenet,
)
from spacelang.language import is_frozen
from spacelang.strategies import DARTS as DartsSearch
from spacelang.strategies import GDAS, SGAS, SPOS, RandomOneShot

CLASSES = 3
TINY: dict[str, Any] = {"dataset": (1, 8, CLASSES), "width": 2}
WIDTHS = (8, 8, 8, 8, 8, 8, 8, 8, 8)

SPACES: dict[str, tuple[type[ModelSpace], dict[str, Any]]] = {
    "DARTS": (DARTS, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "DARTS-sizes": (
        DARTS,
        {
            **TINY,
            "width": [2, 4],
            "num_cells": [4, 5],
            "num_nodes": 1,
            "operations": ["sep_conv_3x3", "skip_connect"],
        },
    ),
    "NASNet": (NASNet, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "ENAS": (ENAS, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "AmoebaNet": (AmoebaNet, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "PNAS": (PNAS, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "FairDARTS": (FairDARTS, {**TINY, "num_cells": 2, "num_nodes": 2}),
    "NASBench101": (NASBench101, {**TINY, "width": 4, "num_cells": 1, "num_stacks": 2, "max_vertices": 5}),
    "NASBench201": (NASBench201, {**TINY, "num_cells": 1}),
    "ENASMacro": (ENASMacro, {**TINY, "num_layers": 4}),
    "ProxylessNAS": (ProxylessNAS, {"num_classes": CLASSES, "base_widths": WIDTHS, "in_channels": 1}),
    "MobileNetV3Space": (
        MobileNetV3Space,
        {
            "num_classes": CLASSES,
            "base_widths": WIDTHS,
            "width_multipliers": (1.0, 2.0),
            "depth_range": (1, 2),
            "in_channels": 1,
        },
    ),
    "ShuffleNetSpace": (ShuffleNetSpace, {"num_classes": CLASSES, "in_channels": 1}),
    "ShuffleNetSpace-channels": (
        ShuffleNetSpace,
        {"num_classes": CLASSES, "in_channels": 1, "channel_search": True},
    ),
    "AutoFormer": (
        AutoFormer,
        {
            "search_embed_dim": (8, 12),
            "search_mlp_ratio": (1.0, 2.0),
            "search_num_heads": (1, 2),
            "search_depth": (1, 2),
            "num_classes": CLASSES,
            "image_size": 8,
            "patch_size": 4,
            "in_channels": 1,
            "head_dim": 4,
        },
    ),
}
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
MIXING = ("DARTS", "SGAS", "GDAS")  # compute with several candidates at once
REFUSALS = {
    "DARTS-sizes": (
        "'num_cells': a network computes one number of cells",
        "'width': .* one choice at a time",
    ),
    "NASBench101": ("'cell/num_vertices': channels follow from the graph, which is computed one at a time",),
}
SEARCHES = [(n, s) for n in SPACES for s in STRATEGIES if not (n in REFUSALS and s in MIXING)]


@pytest.fixture(autouse=True)
def narrow_shuffle_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one space whose constructor has no sizes."""
    monkeypatch.setattr(shufflenet, "STAGES", ((20, 2), (40, 2), (60, 2), (80, 2)))


class Classifier(pl.LightningModule):
    """Cross-entropy of a model that maps (B, 1, 8, 8) to (B, CLASSES)."""

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
        strategy_hint: str | None = None,
    ) -> pl.Trainer:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=self.max_epochs,
            default_root_dir=directory,
            callbacks=list(callbacks),
            plugins=[checkpoint_io],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(self.lightning_module(model), random_batches(0), random_batches(1), ckpt_path=ckpt_path)
        self.steps = trainer.global_step
        return trainer


def random_batches(seed: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 1, 8, 8, generator=generator)
    classes = torch.randint(CLASSES, (4,), generator=generator)
    return DataLoader(TensorDataset(images, classes), batch_size=2)


def experiment(name: str, strategy: str, folder: Path) -> Experiment:
    kind, arguments = SPACES[name]
    return Experiment(kind(**arguments), TwoSteps(), STRATEGIES[strategy], directory=folder, seed=0)


@pytest.mark.parametrize(("name", "strategy"), SEARCHES, ids=map("-".join, SEARCHES))
def test_two_steps(name: str, strategy: str, tmp_path: Path) -> None:
    search = experiment(name, strategy, tmp_path / "run")
    search.run()
    assert search.evaluator.steps == 2
    search.space.validate(search.best)
    model = search.export_top_models(formatter="instance")[0]
    assert is_frozen(model)
    assert model.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)


@pytest.mark.parametrize("strategy", MIXING)
@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_training(name: str, strategy: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"(?s)mixes candidates, so it cannot search.*SPOS") as refusal:
        experiment(name, strategy, tmp_path / "run")
    for reason in REFUSALS[name]:
        assert re.search(reason, str(refusal.value))
    assert not (tmp_path / "run").exists()


def test_every_space_is_searched() -> None:
    spaces = {item for item in vars(hub).values() if isinstance(item, type) and issubclass(item, ModelSpace)}
    assert {kind for kind, _ in SPACES.values()} == spaces
