"""Write a strategy of your own: FairDARTS, where the operations of an edge do not compete, on real digits.

python examples/own_strategy.py
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from spacelang import Experiment
from spacelang.errors import require_number
from spacelang.evaluators import Classification
from spacelang.evaluators.data import digits, search_loaders
from spacelang.hub import FairDARTS as FairDartsSpace
from spacelang.strategies import Differentiable, Mixture, Relaxation, top_architectures
from spacelang.strategies.framework import alive_mask


@dataclass(frozen=True)
class Sigmoid(Relaxation):
    """w_k = sigmoid(alpha_k): each candidate is weighted by itself, so rows need not sum to one."""

    def shape(self, group):
        return group.shape

    def probabilities(self, group, logits):
        return logits.sigmoid() * alive_mask(group, logits)

    def mixture(self, group, logits, moment):
        return Mixture(self.probabilities(group, logits))


@dataclass(frozen=True, kw_only=True)
class FairDARTS(Differentiable):
    """Search with a sigmoid for every candidate, which a zero-one loss drives to a decision.

    Both steps follow loss + zero_one_weight * L01. An edge keeps its candidate of the largest sigmoid. Below
    `threshold` it keeps the candidate "none", in spaces that have one.

    Args:
        zero_one_weight: Factor of L01.
        threshold: Smallest sigmoid of an operation that is kept.

    Source: FairDARTS, Chu et al. 2020, arXiv:1911.12126, eq. 3, and the authors' code.
    """

    zero_one_weight: float = 10.0
    threshold: float = 0.85
    learning_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    init_scale: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require_number("zero_one_weight", self.zero_one_weight, least=0)
        require_number("threshold", self.threshold, above=0, below=1)

    @property
    def relaxation(self):
        return Sigmoid()

    def objective(self, loss, search, phase):
        return loss + self.zero_one_weight * zero_one(search.parameters.logits.values())

    def architectures(self, supernet, probabilities, count):
        tables = {label: table.clone() for label, table in probabilities.items()}
        for label, table in tables.items():
            columns = supernet.groups[label].columns
            if "none" in columns:  # it is preferred to operations below the threshold
                table[:, columns.index("none")] = self.threshold
        return top_architectures(supernet, tables, count)


def zero_one(logits):
    """Return L01 = -mean((sigmoid(alpha) - 1/2)^2) over all entries of some tables of logits."""
    sigmoids = torch.cat([table.sigmoid().flatten() for table in logits])
    return -((sigmoids - 0.5) ** 2).mean()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default="own-strategy", help="everything is written here")
    parser.add_argument("--epochs", type=int, default=5, help="of the search")
    args = parser.parse_args(arguments)
    train, val = search_loaders(digits(seed=0).train, batch_size=64, seed=0)
    space = FairDartsSpace(4, 3, (1, 8, 10), num_nodes=2, operations=["skip_connect", "sep_conv_3x3", "none"])
    evaluator = Classification(train_dataloaders=train, val_dataloaders=val, max_epochs=args.epochs)
    strategy = FairDARTS(learning_rate=0.1)  # the paper's 3e-3 is for searches many times longer
    experiment = Experiment(space, evaluator, strategy, directory=args.directory, seed=0)
    experiment.run()
    for label, operation in experiment.best.items():
        print(f"edge {label}: {operation}")


if __name__ == "__main__":
    main()
