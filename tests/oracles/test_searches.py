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

from spacelang import LayerChoice, ModelSpace
from spacelang.hub import DARTS as DartsSpace
from spacelang.hub import to_genotype
from spacelang.strategies import DARTS, GDAS, PCDARTS, PDARTS, SGAS, DrNAS, ProxylessNAS
from spacelang.strategies.framework import Differentiable, GradientSearch
from spacelang.strategies.one_shot import gumbel, proxyless

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


class Draws:
    """What random draws give, by formula: the n-th is the same here and in the authors' code."""

    def __init__(self) -> None:
        self.number = -1

    def table(self, shape: torch.Size, generator: object = None) -> Tensor:
        """Gumbel noise, (rows, columns)."""
        self.number += 1
        e, k = (torch.arange(float(n), dtype=torch.float64) for n in shape)
        e = e[:, None]
        return 2 * torch.sin(1 + self.number + e + 4 * k + 3 * e * k)

    def simplex(self, beta: Tensor, generator: object = None) -> Tensor:
        """A sample of a Dirichlet distribution, a row each."""
        return self.table(beta.shape).softmax(dim=1)

    def dropout(self, x: Tensor, p: float, training: bool) -> Tensor:
        """Dropout."""
        if not training or p == 0:
            return x
        self.number += 1
        kept = (torch.sin(1 + self.number + 0.9 * torch.arange(x.numel()).double()) + 1) / 2 >= p
        return x * kept.view(x.shape) / (1 - p)


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw by formula."""
    made = Draws()
    for module in (gumbel, proxyless):
        monkeypatch.setattr(module, "gumbel", made.table)
    monkeypatch.setattr(torch, "_sample_dirichlet", made.simplex)
    monkeypatch.setattr(nn.functional, "dropout", made.dropout)


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


class Mobile(ModelSpace):
    """Three blocks of four inverted residuals each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        sizes = ((3, 1), (5, 1), (3, 2), (5, 2))
        self.blocks = nn.ModuleList(
            LayerChoice([inverted(*size) for size in sizes], label=f"block_{i}") for i in range(3)
        )
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def inverted(kernel: int, expand: int) -> nn.Module:
    """Return the layers of an inverted residual of four channels."""
    inner = 4 * expand
    return nn.Sequential(
        nn.Conv2d(4, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, inner, kernel, 1, kernel // 2, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, 4, 1, bias=False),
        nn.BatchNorm2d(4),
    )


def search(
    strategy: Differentiable,
    directory: Path,
    *,
    width: int = 4,
    epochs: int = 1,
    steps: int = 4,
    space: ModelSpace | None = None,
    execution: Any = None,
) -> list[Any]:
    """Search a network of three cells with two nodes each, or `space`; return the search of every stage."""
    space = space or DartsSpace(
        width, 3, (3, 8, 3), num_nodes=2, distinct_inputs=not isinstance(strategy, GDAS)
    )
    searches: list[Any] = []
    for stage in range(strategy.stages):
        supernet = strategy.supernet(space, stage).double()
        if execution is not None:
            supernet.execute(execution)
        previous = searches[-1] if searches else None
        searches.append(strategy.attach(supernet, stage=stage, previous=previous))
        filled(supernet.network)
        for table, (label, parameter) in enumerate(searches[-1].parameters.logits.items()):
            parameter.data = first_logits(strategy, label, table + 2 * stage)
        fit(searches[-1], directory, epochs, steps)
    return searches


def first_logits(strategy: Differentiable, label: str, table: int) -> Tensor:
    """Return the logits that a search begins with."""
    values = logits(table)
    if isinstance(strategy, PCDARTS):
        return torch.cat([values, torch.cos(2 * torch.arange(5.0).double() + table)[:, None]], dim=1)
    if isinstance(strategy, DrNAS):
        return values[:, 1:]  # without "none"
    if isinstance(strategy, PDARTS):
        values[:, 3] += 0.6  # skip connections, so that there are too many
    return values[:1, :4] if label.startswith("block") else values


def fit(search: GradientSearch, directory: Path, epochs: int, steps: int) -> None:
    """Train a stage; in the end its supernet computes with a mixture for the weights."""
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
    trainer.fit(Classifier(search.supernet), *loaders)
    search.mix("weights")


GATES = {"learning_rate": 0.05, "warmup_epochs": 0, "update_every": 2}
STRATEGIES: dict[str, tuple[Differentiable, dict[str, Any]]] = {
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
    "drnas": (DrNAS(learning_rate=0.01, warmup_epochs=0), {}),
    "drnas_kl": (
        DrNAS(learning_rate=0.01, warmup_epochs=0, partial_channels=(2,), weight_decay=0.0, kl_weight=1e-3),
        {"width": 8},
    ),
    "gdas": (GDAS(learning_rate=0.01), {"epochs": 2, "execution": "plain"}),
    "proxyless_full": (ProxylessNAS(**GATES), {"space": Mobile()}),
    "proxyless_two": (ProxylessNAS(gates="two", **GATES), {"space": Mobile()}),
    "pdarts": (
        PDARTS(
            learning_rate=0.01,
            overrides=({}, {}, {"num_cells": 4}),
            skip_dropout=(0.0, 0.4, 0.7),
            warmup_epochs=1,
            most_skips=1,
        ),
        {"epochs": 2, "steps": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_logits_outputs_and_cells(name: str, tmp_path: Path) -> None:
    strategy, settings = STRATEGIES[name]
    wanted, stages = ORACLES[name], search(strategy, tmp_path, **settings)
    found = stages[-1]
    for i, kept in enumerate(wanted.get("kept", ())):
        assert [survivors(stages[i + 1], label) for label in ("normal", "reduce")] == kept
    for label, parameter in found.parameters.logits.items():
        table = parameter.detach()
        if f"{label}_edges" in wanted:
            close(table[:, -1], wanted[f"{label}_edges"])
            table = table[:, :-1]
        if "kept" in wanted:
            alive = found.relaxation.survivors(found.supernet.groups[label], table)
            table = table[alive].view(len(table), -1)
        close(table, wanted[label])
    if "outputs" in wanted:
        with torch.no_grad():
            close(found.supernet.eval()(batch(99)[0]), wanted["outputs"])
    (arch,) = found.derive()
    if "chosen" in wanted:
        assert [arch[f"block_{i}"] for i in range(3)] == wanted["chosen"]
        return
    cells = to_genotype(arch)
    if "cells" in wanted:
        for slots, kind in zip(wanted["cells"], (cells.normal, cells.reduce), strict=True):
            assert [tuple(slot) for slot in slots] == list(kind)
    else:
        for kind, slots in (("normal", cells.normal), ("reduce", cells.reduce)):
            decided = {(edge, operation) for _, cell, edge, operation in wanted["decisions"] if cell == kind}
            assert {(edge_of(i // 2, source), name) for i, (name, source) in enumerate(slots)} == decided


def survivors(search: Any, label: str) -> list[list[str]]:
    """Return the operations that earlier stages of P-DARTS have left on each edge."""
    group = search.supernet.groups[label]
    alive = search.relaxation.survivors(group, search.parameters.logits[label])
    names = ("none", *group.columns)
    return [[name for name, is_left in zip(names, row, strict=True) if is_left] for row in alive.tolist()]


def edge_of(node: int, source: int) -> int:
    """Number of an edge of a cell, node by node."""
    return 2 * node + source


def close(found: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10)
