"""Every space is searched by every kind of one-shot strategy, or refused before training with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, ModelSpace, SpaceError
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
)
from spacelang.language import is_frozen
from spacelang.strategies import DARTS as DartsSearch
from spacelang.strategies import GDAS, SGAS, SPOS, RandomOneShot

CLASSES = 3
TINY: dict[str, Any] = {"dataset": (1, 8, CLASSES), "width": 2}
WIDTHS = (8, 8, 8, 8, 8, 8, 8, 8, 8)

SPACES: dict[str, tuple[type[ModelSpace], dict[str, Any]]] = {
    "DARTS": (DARTS, {**TINY, "num_cells": 3, "num_nodes": 2}),
    "DARTS-sizes": (DARTS, {**TINY, "width": [2, 4], "num_cells": [4, 5], "num_nodes": 2}),
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
MIXING = {"DARTS": DartsSearch(), "SGAS": SGAS(first_decision=0, period=1), "GDAS": GDAS()}
PATHS = {
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
REFUSED = {}


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


@pytest.mark.parametrize("strategy", [*MIXING, *PATHS])
@pytest.mark.parametrize("name", SPACES)
def test_two_steps(name: str, strategy: str, tmp_path: Path) -> None:
    kind, arguments = SPACES[name]
    space, evaluator = kind(**arguments), TwoSteps()
    experiment = Experiment(space, evaluator, (MIXING | PATHS)[strategy], directory=tmp_path / "run", seed=0)
    experiment.run()
    assert evaluator.steps == 2
    space.validate(experiment.best)
    model = experiment.export_top_models(formatter="instance")[0]
    assert is_frozen(model)
    assert model.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, CLASSES)
