"""Train a published cell on the data of its paper, which you bring: PPI or Penn Treebank.

    python benchmarks/train_published.py ppi ppi/ --entry sgas-cri2-ppi-2 --width 64     # unpacked ppi.zip
    python benchmarks/train_published.py ptb simple-examples/data --entry darts-rnn-v2   # ptb.train.txt, ...

The recipes are those of the papers: SGAS (arXiv:1912.00195) for graphs, with its linear drop path but without
its cosine schedule, and DARTS (arXiv:1806.09055) for texts. They take days: 2,000 epochs on PPI, and up to
8,000 on Penn Treebank, so have a GPU, or pass --epochs. The last line is the test F1 or perplexity.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from spacelang.evaluators import AverageOnPlateau, Language, Nodes, RateByLength
from spacelang.evaluators.data import Windows, penn_treebank, ppi, side_by_side
from spacelang.hub import load


class LinearDropPath(Callback):
    """Drop path that rises from 0 to its rate over the epochs."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module.model
        model.set_drop_path_prob(model.drop_path_prob * trainer.current_epoch / trainer.max_epochs)


def train_ppi(folder: Path, entry: str, width: int, epochs: int) -> dict[str, float]:
    """Train on the graphs for training; return the metrics of the test graphs."""
    graphs = ppi(folder)
    first = graphs.train[0]
    model = load(
        entry, width=width, in_features=first.x.shape[1], num_classes=first.y.shape[1], drop_path_prob=0.2
    )
    evaluator = Nodes(
        learning_rate=2e-3,
        train_dataloaders=DataLoader(graphs.train, 1, shuffle=True, collate_fn=side_by_side),
        val_dataloaders=DataLoader(graphs.test, 1, collate_fn=side_by_side),
        gradient_clip_val=5.0,
        callbacks=[LinearDropPath()],
        max_epochs=epochs,
    )
    return _of_test(evaluator.evaluate(model))


def train_ptb(folder: Path, entry: str, width: int, epochs: int) -> dict[str, float]:
    """Train on the text for training, averaged once validation rests; return the metrics of the test."""
    text = penn_treebank(folder)
    model = load(entry, vocabulary=len(text.words), width=width)
    settings = {"learning_rate": 20.0, "weight_decay": 8e-7, "optimizer": torch.optim.SGD, "slowness": 1e-3}
    training = Language(
        **settings,
        train_dataloaders=Windows(text.train, batch_size=64, varied=True),
        val_dataloaders=Windows(text.val, batch_size=10),
        callbacks=[RateByLength(), AverageOnPlateau()],
        gradient_clip_val=0.25,
        max_epochs=epochs,
    )
    trainer = training.fit(model)
    tested: Any = trainer.validate(trainer.lightning_module, Windows(text.test, batch_size=1), verbose=False)
    return _of_test(tested[0])


def _of_test(metrics: Mapping[str, float]) -> dict[str, float]:
    """Name the metrics of a validation on test data for what they are."""
    return {name.replace("val_", "test_"): value for name, value in metrics.items() if "val_" in name}


RUNS = {"ppi": (train_ppi, "sgas-cri2-ppi-2", 512, 2_000), "ptb": (train_ptb, "darts-rnn-v2", 850, 8_000)}


def main() -> None:
    """Train, and print the metrics."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=RUNS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entry")
    parser.add_argument("--width", type=int)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    run, entry, width, epochs = RUNS[options.data]
    metrics = run(options.folder, options.entry or entry, options.width or width, options.epochs or epochs)
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
