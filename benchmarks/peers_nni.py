"""One contestant of peers.py: NNI's DARTS, run by the Python of NNI's environment.

It needs nni==3.0, torch==2.0.1, numpy<2, pytorch-lightning==1.9.5 and setuptools<70. It takes one search step
for each line on standard input, and prints its seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from nni.nas.evaluator.pytorch import ClassificationModule, DataLoader, Lightning, Trainer  # noqa: E402
from nni.nas.hub.pytorch import DARTS as DartsSpace  # noqa: E402
from nni.nas.strategy import DARTS  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402


class Paced(pl.Callback):
    """Waits for a line before each batch, and prints the seconds since at its end."""

    def __init__(self, answers: Any, clock: Any) -> None:
        self.answers, self.clock, self.start = answers, clock, 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Wait."""
        if not sys.stdin.readline():
            os._exit(0)
        self.start = self.clock()

    def on_train_batch_end(self, *_: Any) -> None:
        """Print the seconds and the peak of memory, in bytes."""
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": self.clock() - self.start, "peak_bytes": peak - IMPORTED}
        print(json.dumps(answer), file=self.answers, flush=True)


def main() -> None:
    """Search until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("width", "cells", "batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    answers, sys.stdout = sys.stdout, sys.stderr
    data = TensorDataset(torch.randn(64 * args.batch, 3, 32, 32), torch.randint(10, (64 * args.batch,)))
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 100}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 1.0}
    pace = Paced(answers, time.process_time if args.threads == 1 else time.perf_counter)
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    module = ClassificationModule(learning_rate=0.025, weight_decay=3e-4, optimizer=sgd, num_classes=10)
    loaders = [DataLoader(data, batch_size=args.batch) for _ in range(2)]
    trainer = Trainer(callbacks=[pace], **settings)
    evaluator = Lightning(module, trainer, train_dataloaders=loaders[0], val_dataloaders=loaders[1])
    strategy = DARTS(gradient_clip_val=5.0)
    supernet = strategy.mutate_model(DartsSpace(width=args.width, num_cells=args.cells, dataset="cifar"))
    strategy.mutate_evaluator(evaluator).evaluate(supernet)


IMPORTED = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if __name__ == "__main__":
    main()
