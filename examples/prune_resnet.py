"""Search the depth and the widths of a trained ResNet under a limit on FLOPs, with the weights it has.

    python examples/prune_resnet.py

The network is trained on digits and becomes a space. A supernet of it is trained for a few epochs, one random
path a step; architectures are then measured with its weights (`Inherited`), none is trained.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from spacelang import Depth, Experiment, Width, profile, searchable
from spacelang.costs import CostLimit
from spacelang.evaluators import Classification, Inherited
from spacelang.evaluators.data import digits, search_loaders
from spacelang.strategies import RandomOneShot
from spacelang.strategies.multi_trial import RegularizedEvolution
from spacelang.trials import Maximize, Minimize


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet(widths=(16, 32), depth=3):
    """Build a plain network for images (B, 1, 8, 8); nothing in it is made for a search."""
    stages, inputs = [], widths[0]
    for stride, outputs in enumerate(widths, start=1):
        blocks = [Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(depth - 1))]
        stages.append(nn.Sequential(*blocks))
        inputs = outputs
    stem = nn.Sequential(
        nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
    return nn.Sequential(stem, nn.Sequential(*stages), head)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="prune-resnet", help="folder for all files")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the training, and of the supernet")
    parser.add_argument("--trials", type=int, default=30, help="architectures that are measured")
    parser.add_argument("--share", type=float, default=0.5, help="limit, as a share of the network's FLOPs")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    model, image = resnet(), torch.zeros(1, 1, 8, 8)
    train, val = search_loaders(digits().train, batch_size=64)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    trained = evaluator.fit(model, directory=args.directory / "training").callback_metrics["val_acc"]
    flops = profile(model, image).flops

    choices = {"1.*": Depth([1, 2, 3]), "1.*.*.conv1": Width([0.25, 0.5, 0.75, 1.0])}
    space = searchable(model, choices, image)
    strategy = RandomOneShot(candidates=1, finalists=1)
    supernet = Experiment(space, evaluator, strategy, directory=args.directory / "supernet")
    supernet.run()

    search = Experiment(
        space,
        Inherited(supernet.supernet, evaluator),
        RegularizedEvolution(population=10, sample=3),
        objectives=[Maximize("val_acc"), Minimize("flops")],
        limits=[CostLimit("flops", at_most=args.share * flops)],
        example_inputs=image,
        max_trials=args.trials,
        directory=args.directory / "search",
    )
    search.run()
    print(f"{space.size():,} architectures\n     FLOPs  accuracy\n{flops:10,}  {trained:8.3f}  as it was")
    for trial in sorted(search.pareto, key=lambda trial: trial.metrics["flops"]):
        print(f"{int(trial.metrics['flops']):10,}  {trial.metrics['val_acc']:8.3f}  {trial.arch}")


if __name__ == "__main__":
    main()
