"""Whole searches end where those of the authors' code, retyped, end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spacelang.hub import DARTS as DartsSpace
from spacelang.hub import to_genotype
from spacelang.strategies import DARTS, PCDARTS, SGAS
from spacelang.strategies.framework import Differentiable, GradientSearch

ORACLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("searches.yaml").read_text())
NONE_AND = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")


def filled(network: nn.Module) -> None:
    """Weights by formula, parameter by parameter."""
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            j = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.3 * torch.sin(1 + i + 0.7 * j)).view_as(parameter))


def logits(table: int) -> Tensor:
    """Logits of five edges and eight operations, "none" first, of the normal (0) or reduction cell (1)."""
    e, k = torch.arange(5.0).double()[:, None], torch.arange(8.0).double()[None]
    return 0.5 * torch.sin(1 + table + e + 4 * k + 3 * e * k)


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Four images of 3x8x8 and their classes."""
    j = torch.arange(4 * 3 * 8 * 8, dtype=torch.float64)
    return torch.sin(0.37 * j + number * 1.3).view(4, 3, 8, 8), torch.arange(4) * (number + 1) % 3


class Classifier(pl.LightningModule):
    """The authors' weights' step: SGD with momentum and weight decay."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)


def search(
    strategy: Differentiable, directory: Path, *, width: int = 4, epochs: int = 1, steps: int = 4
) -> GradientSearch:
    """Search a network of three cells with two nodes each."""
    supernet = strategy.supernet(DartsSpace(width, 3, (3, 8, 3), num_nodes=2)).double()
    filled(supernet.network)
    search: Any = strategy.attach(supernet)
    for table, label in enumerate(("normal", "reduce")):
        values = logits(table)
        if isinstance(strategy, PCDARTS):
            edges = torch.cos(2 * torch.arange(5.0).double() + table)
            values = torch.cat([values, edges[:, None]], dim=1)
        search.parameters.logits[label].data = values
    loaders = [
        DataLoader([batch(2 * step + part) for step in range(steps)], batch_size=None) for part in (0, 1)
    ]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        precision="64-true",
        gradient_clip_val=5.0,
        callbacks=[search],
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Classifier(supernet), *loaders)
    search.mix("weights")
    return search


STRATEGIES: dict[str, tuple[Differentiable, dict[str, int]]] = {
    "darts_first": (DARTS(learning_rate=0.01), {}),
    "darts_second": (DARTS(order=2, learning_rate=0.01), {}),
    "pcdarts": (PCDARTS(learning_rate=0.01, warmup_epochs=0), {"width": 8}),
    "sgas_criterion_1": (
        SGAS(learning_rate=0.01, first_decision=1, period=1),
        {"epochs": 5, "steps": 2},
    ),
    "sgas_criterion_2": (
        SGAS(criterion=2, learning_rate=0.01, first_decision=1, period=1),
        {"epochs": 5, "steps": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_logits_outputs_and_cells(name: str, tmp_path: Path) -> None:
    strategy, settings = STRATEGIES[name]
    wanted, found = ORACLES[name], search(strategy, tmp_path, **settings)
    for label in ("normal", "reduce"):
        table = found.parameters.logits[label].detach()
        if f"{label}_edges" in wanted:
            close(table[:, -1], wanted[f"{label}_edges"])
            table = table[:, :-1]
        close(table, wanted[label])
    if "outputs" in wanted:
        with torch.no_grad():
            close(found.supernet.eval()(batch(99)[0]), wanted["outputs"])
    (arch,) = found.derive()
    cells = to_genotype(arch)
    if "cells" in wanted:
        for slots, kind in zip(wanted["cells"], (cells.normal, cells.reduce), strict=True):
            assert [tuple(slot) for slot in slots] == list(kind)
    else:
        for kind, slots in (("normal", cells.normal), ("reduce", cells.reduce)):
            decided = {(edge, operation) for _, cell, edge, operation in wanted["decisions"] if cell == kind}
            assert {(edge_of(i // 2, source), name) for i, (name, source) in enumerate(slots)} == decided


def edge_of(node: int, source: int) -> int:
    """Number of an edge of a cell, node by node."""
    return 2 * node + source


def close(found: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10)
