"""Prune a trained ResNet under several limits on FLOPs, and compare with scaling all its widths alike.

    python examples/prune_resnet.py

A network trained on digits becomes a space of depths and widths, of which a supernet is trained. A uniformly
narrower network sets each limit, under which architectures are measured with the weights of the supernet
(`Inherited`). Both begin with these, are trained alike, and are tested on images not used so far.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from spacelang import Depth, Experiment, Width, profile, searchable
from spacelang.costs import CostLimit
from spacelang.evaluators import Classification, Inherited
from spacelang.evaluators.data import digits, search_loaders
from spacelang.strategies import RandomOneShot
from spacelang.strategies.multi_trial import RegularizedEvolution

IMAGE = torch.zeros(1, 1, 8, 8)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        is_same = stride == 1
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet():
    """Build a plain network for images (B, 1, 8, 8); nothing in it is made for a search."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    stages = [nn.Sequential(Block(16, n, s), Block(n, n, 1), Block(n, n, 1)) for n, s in ((16, 1), (32, 2))]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(stem, nn.Sequential(*stages), head)


def accuracy(model, train, val, directory):
    """Train copies of a model for 3 epochs with 3 seeds; return their mean accuracy on the test images."""
    evaluator, found = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=3), []
    for seed in range(3):
        torch.manual_seed(seed)
        copied = copy.deepcopy(model)
        evaluator.fit(copied, directory=directory)
        found.append(evaluator.test(copied, DataLoader(digits().test, batch_size=360))["test_acc"])
    return sum(found) / len(found)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="prune-resnet", help="folder for all files")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the training, and of the supernet")
    parser.add_argument("--trials", type=int, default=40, help="architectures measured under each limit")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25, 0.5], help="widths")
    args = parser.parse_args(arguments)
    folder, shares = args.directory, [0.125, 0.25, 0.5, 1.0]
    torch.manual_seed(0)
    train, val = search_loaders(digits().train, batch_size=64)
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    model = resnet()
    evaluator.fit(model, directory=folder / "training")
    space = searchable(model, {"1.*": Depth([1, 2, 3]), "1.*.*.conv1": Width(shares)}, IMAGE)
    one_shot = RandomOneShot(candidates=1, finalists=1)
    trained = Experiment(space, evaluator, one_shot, directory=folder / "supernet")
    trained.run()
    measured = Inherited(trained.supernet, evaluator)
    evolution = RegularizedEvolution(population=10, sample=3)
    whole = {d.label: max(d.candidates) for d in space.decisions}
    rows = [("as it was", whole)]
    for share in args.shares:
        narrow = whole | {name: int(share * n) for name, n in whole.items() if name.endswith("conv1")}
        limits = [CostLimit("flops", at_most=profile(space.freeze(narrow), IMAGE).flops)]
        settings = {"limits": limits, "example_inputs": IMAGE, "max_trials": args.trials}
        search = Experiment(space, measured, evolution, directory=folder / f"x{share}", **settings)
        search.run()
        rows += [(f"all widths x {share:g}", narrow), ("searched", search.best)]
    table = [f"{space.size():,} architectures\n     FLOPs  accuracy"]
    for name, arch in rows:
        small = trained.supernet.freeze(arch)
        mean = accuracy(small, train, val, folder / "further")
        table.append(f"{profile(small, IMAGE).flops:10,}  {mean:8.3f}  {name}")
    print("\n".join(table))


if __name__ == "__main__":
    main()
