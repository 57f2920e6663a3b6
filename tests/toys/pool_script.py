"""A search in a pool whose script notes each import of itself; its trials start processes of their own.

python pool_script.py DIRECTORY forkserver|spawn|fork loads|lingers TRIALS

DIRECTORY/imports has a line for each import. DIRECTORY/processes has the process ids of trials and of what
they started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment, LayerChoice, ModelSpace
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Random
from spacelang.trials import ProcessPool

FOLDER = Path(sys.argv[1])


def note(name: str, *lines: object) -> None:
    """Append lines to a file, in one write."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / name).open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


note("imports", os.getpid())


class Net(ModelSpace):
    """Eight linear layers or identities: 256 architectures."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(LayerChoice([nn.Linear(4, 4), nn.Identity()], label=f"layer{i}") for i in range(8))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def loads(model: nn.Module) -> float:
    """Train for an epoch with two loading processes."""
    loader = DataLoader(TensorDataset(torch.ones(8, 4)), batch_size=4, num_workers=2)
    return float(sum(model(x).sum() for (x,) in loader))


def lingers(model: nn.Module) -> float:
    """Start loading processes and a program, and never end."""
    loader = iter(DataLoader(TensorDataset(torch.ones(8, 4)), num_workers=1, persistent_workers=True))
    program = subprocess.Popen(["sleep", "600"])
    note("processes", os.getpid(), loader._workers[0].pid, program.pid)  # type: ignore[attr-defined]
    while True:
        time.sleep(1)


def main() -> None:
    _, _, method, function, count = sys.argv
    experiment = Experiment(
        Net(),
        Functional({"loads": loads, "lingers": lingers}[function]),
        Random(),
        directory=FOLDER / "run",
        max_trials=int(count),
        executor=ProcessPool(2, start_method=method),  # type: ignore[arg-type]
    )
    experiment.run(resume=True)


if __name__ == "__main__":
    main()
