"""Declare your own space, search it with DARTS on real digits, train the result, and export it to ONNX.

python examples/custom_space.py
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from spacelang import (
    Cell,
    Experiment,
    InputChoice,
    LayerChoice,
    ModelSpace,
    Repeat,
    export_onnx,
    model_context,
)
from spacelang.evaluators import Classification
from spacelang.evaluators.data import digits, retrain_loaders, search_loaders
from spacelang.strategies import DARTS


def conv(channels, kernel, groups=1):
    """Build ReLU, convolution, batch norm; the map keeps its size."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


class DigitsSpace(ModelSpace):
    """Classifier of images (B, 1, 8, 8): a stem, up to two blocks, a cell, and a shortcut past the cell."""

    def __init__(self, width=8):
        super().__init__()
        stems = {"conv3": nn.Conv2d(1, width, 3, padding=1), "conv5": nn.Conv2d(1, width, 5, padding=2)}
        self.stem = LayerChoice(stems, label="stem")
        # Every block chooses its own layer; a block beyond the chosen depth has nothing to choose.
        self.blocks = Repeat(lambda index: self.block(width, f"block_{index}"), depth=(0, 2), label="depth")
        # The cell reads the stem and the blocks; each node adds two operations on earlier nodes or inputs.
        operations = {
            "conv3": lambda node, slot, source: conv(width, 3),
            "depthwise5": lambda node, slot, source: conv(width, 5, groups=width),
            "pool": lambda node, slot, source: nn.AvgPool2d(3, stride=1, padding=1),
        }
        self.cell = Cell(operations, num_nodes=2, num_ops_per_node=2, num_predecessors=2, label="cell")
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.shortcut = InputChoice(n_candidates=2, n_chosen=1, label="shortcut")
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10))

    @staticmethod
    def block(width, label):
        return LayerChoice({"conv3": lambda: conv(width, 3), "conv1": lambda: conv(width, 1)}, label=label)

    def forward(self, images):
        stem = self.stem(images)
        deep = self.blocks(stem)
        cell = self.cell(stem, deep)  # (B, 2 * width, 8, 8), the two nodes side by side
        return self.head(cell + self.widen(self.shortcut(stem, deep)))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="custom-space", help="folder for all files")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the search and of the training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    splits = digits(seed=args.seed)
    space = DigitsSpace()
    print(f"{space.size():,} architectures")

    train, val = search_loaders(splits.train, batch_size=32, seed=args.seed)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    strategy = DARTS(learning_rate=3e-3)  # the paper's 3e-4 is for searches many times longer
    experiment = Experiment(space, evaluator, strategy, directory=args.directory / "search", seed=args.seed)
    experiment.run()
    arch = experiment.export_top_models(formatter="dict")[0]

    torch.manual_seed(args.seed)
    with model_context(arch):
        model = DigitsSpace(width=16)
    train, test = retrain_loaders(splits, batch_size=32)
    evaluator = Classification(train_dataloaders=train, max_epochs=args.epochs)
    evaluator.fit(model, directory=args.directory / "training")
    accuracy = evaluator.test(model, test)["test_acc"]
    exported = export_onnx(model, args.directory / "model.onnx", torch.randn(2, 1, 8, 8), arch=arch)
    print(f"{arch}\ntest accuracy {accuracy:.3f}; wrote {exported.path}")


if __name__ == "__main__":
    main()
