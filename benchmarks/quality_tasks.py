"""Tasks of the quality benchmarks: a space, data, searches with a supernet, and trainings from scratch."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import train_digits_table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Cell, Experiment, ModelSpace, model_context
from spacelang.evaluators import DartsTrainingModule, Lightning
from spacelang.evaluators.data import help_pages, small_mnist
from spacelang.hub import DigitsCells
from spacelang.trials import key_of

Part = tuple[Tensor, Tensor]
WINDOW = 8  # characters that a text network sees


@dataclass(frozen=True)
class Task:
    """A problem to search on.

    Args:
        name: Short name.
        make: Builds the space, or under `model_context` an architecture.
        data: Returns inputs and targets for training, validation and test.
        batch: Batch size of a training from scratch.
        search_batch: Batch size of a search with a supernet.
        table: File with trainings of all architectures, if there is one.
        trainings: Trainings whose mean test accuracy is the result of an architecture.
    """

    name: str
    make: Callable[[], ModelSpace]
    data: Callable[[], list[Part]]
    batch: int = train_digits_table.BATCH
    search_batch: int = 64
    table: Path | None = None
    trainings: int = 2


class Training(NamedTuple):
    """Accuracies of one training from scratch, and its seconds of processor time."""

    validation: float
    test: float
    seconds: float


def train(task: Task, data: list[Part], arch: Mapping[str, Any], seed: int) -> Training:
    """Train an architecture from scratch."""
    torch.manual_seed(seed)
    start = time.process_time()
    with model_context(arch):
        model = task.make()
    metrics = train_digits_table.fit(model, data, lambda metrics, epoch: None, task.batch)
    return Training(metrics["val_acc"], metrics["test_acc"], time.process_time() - start)


def search(task: Task, data: list[Part], strategy: Any, epochs: int, seed: int, folder: Path) -> Experiment:
    """Return a finished search with a supernet: weights on the training data, logits on the validation data.

    Args:
        task: The task.
        data: Its data.
        strategy: A one-shot strategy; several stages divide the epochs.
        epochs: Epochs of the training data.
        seed: Seed of the search.
        folder: Folder of the run.
    """
    train_set, val_set, _ = (TensorDataset(*part) for part in data)
    epochs //= strategy.stages
    evaluator = Lightning(
        DartsTrainingModule(learning_rate=0.1, auxiliary_loss_weight=0.0, max_epochs=epochs),
        train_dataloaders=DataLoader(train_set, task.search_batch, shuffle=True, drop_last=True),
        val_dataloaders=DataLoader(val_set, task.search_batch, shuffle=True),
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        gradient_clip_val=5.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    experiment = Experiment(task.make(), evaluator, strategy, directory=folder, seed=seed)
    experiment.run()
    return experiment


class Trainings:
    """Trainings from scratch, each done when it is asked for first and then kept in a file.

    Args:
        task: The task; its own table is read where it has one.
        data: Its data.
        path: File for the trainings of a task without a table.
    """

    def __init__(self, task: Task, data: list[Part], path: Path) -> None:
        self.task, self.data = task, data
        self.path = task.table or path
        self._space = task.make()
        self._known: dict[tuple[str, int], Training] = {}
        if self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    values = (row[name] for name in ("val_acc", "test_acc", "seconds") if name in row)
                    if task.table:
                        values = (row[train_digits_table.CURVE[-1]], row["test_acc"], row["seconds"])
                    key = key_of(json.loads(row["arch"])), int(row["seed"])
                    self._known[key] = Training(*map(float, values))

    def of(self, arch: Mapping[str, Any]) -> list[Training]:
        """Return the trainings of an architecture."""
        canonical = self._space.canonical(arch)
        return [self._training(canonical, seed) for seed in range(self.task.trainings)]

    def all(self) -> list[list[Training]]:
        """Return the trainings of every architecture of the space that is in the task's table."""
        keys = {key_of(arch) for arch in self._space.grid()}
        return [[self._known[key, seed] for seed in range(self.task.trainings)] for key in sorted(keys)]

    def _training(self, arch: Mapping[str, Any], seed: int) -> Training:
        key = key_of(arch), seed
        if key not in self._known and not self.task.table:
            self._known[key] = training = train(self.task, self.data, arch, seed)
            new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow(("arch", "seed", "val_acc", "test_acc", "seconds"))
                writer.writerow((json.dumps(arch, sort_keys=True), seed, *training))
        return self._known[key]


# -- MNIST -----------------------------------------------------------------------------------------------


def mnist() -> list[Part]:
    """Return 1,000 images for training, 400 for validation and 1,000 for the test, shrunk to 7x7."""
    splits = small_mnist()
    (images, labels), (tests, answers) = splits.train.tensors, splits.test.tensors
    parts = [(images[:1000], labels[:1000]), (images[1000:1400], labels[1000:1400]), (tests, answers)]
    return [(F.avg_pool2d(images, 4), labels) for images, labels in parts]


# -- text ------------------------------------------------------------------------------------------------


class TextCells(ModelSpace):
    """The cells of `DigitsCells` along a text: 825 architectures that see eight characters.

    Args:
        characters: Number of different characters.
        width: Number of channels.
    """

    def __init__(self, characters: int, width: int = 8) -> None:
        super().__init__()
        candidates = {name: partial(_along_text, name, width) for name in _OPERATIONS}
        self.stem = nn.Embedding(characters, width)
        self.cell1 = Cell(candidates, num_nodes=2, num_ops_per_node=2, label="cell")
        self.reduction = nn.Sequential(nn.AvgPool1d(2), *_convolution(2 * width, width, 1))
        self.cell2 = Cell(candidates, num_nodes=2, num_ops_per_node=2, label="cell")
        self.head = nn.Sequential(nn.Flatten(1), nn.Linear(2 * width * WINDOW // 2, len(KINDS) + 1))

    def forward(self, text: Tensor) -> Tensor:
        """Return logits of the kind of the next character, (B, 8) -> (B, 5)."""
        x = self.stem(text).transpose(1, 2)
        logits: Tensor = self.head(self.cell2(self.reduction(self.cell1(x))))
        return logits


class _Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _convolution(inputs: int, outputs: int, size: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv1d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.ReLU(), conv, nn.BatchNorm1d(outputs)


_OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: _Zero(),
    "skip_connect": lambda width: nn.Identity(),
    "conv_1": lambda width: nn.Sequential(*_convolution(width, width, 1)),
    "conv_3": lambda width: nn.Sequential(*_convolution(width, width, 3)),
    "avg_pool_3": lambda width: nn.AvgPool1d(3, 1, 1),
}
KINDS: tuple[Callable[[str], bool], ...] = (
    lambda c: c == " ",
    lambda c: c in "aeiou",
    str.isalpha,
    lambda c: c != "\n",
)
"""Kinds of characters: the first that holds counts, and a line's end is the last."""


def _along_text(name: str, width: int, node: int, slot: int | None, source: int) -> nn.Module:
    return _OPERATIONS[name](width)


def text() -> list[Part]:
    """Return windows of Python's help pages and the kind of the next character: 4,000, 1,000 and 2,000."""
    pages = help_pages(60_000)
    kinds = torch.tensor(
        [next((i for i, holds in enumerate(KINDS) if holds(c)), len(KINDS)) for c in pages.words]
    )
    parts = []
    for part, count in ((pages.train, 4000), (pages.val, 1000), (pages.test, 2000)):
        windows = part.unfold(0, WINDOW + 1, 1)
        windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:count]]
        parts.append((windows[:, :-1], kinds[windows[:, -1]]))
    return parts


TASKS = {
    task.name: task
    for task in (
        Task("digits", DigitsCells, train_digits_table.load, table=DigitsCells.table, trainings=3),
        Task("mnist", DigitsCells, mnist),
        Task("text", lambda: TextCells(len(help_pages(60_000).words)), text, batch=32, search_batch=256),
    )
}
