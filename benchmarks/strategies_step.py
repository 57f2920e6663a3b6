"""Time a search step of one-shot strategies, relative to a first-order DARTS step of the same execution.

    python benchmarks/strategies_step.py --batch 8 --threads 1
    python benchmarks/strategies_step.py --only GDAS --profile

Each strategy runs as a user runs it, through `Experiment` on Lightning. A step is everything between the ends
of two training batches: the update of the logits, if there is one, that of the weights, and Lightning's work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from spacelang import Experiment
from spacelang.evaluators import DartsTrainingModule, Lightning
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import DARTS, GDAS, PCDARTS, SGAS, SPOS, RandomOneShot
from spacelang.supernet import ExecutionName

WARMUP = 2  # steps before the timed ones
_ONE_BATCH: dict[str, Any] = {"calibration_batches": 1, "validation_batches": 1}


@dataclass(frozen=True)
class Case:
    """One strategy.

    Args:
        make: Makes it.
        goal: How many times as fast as DARTS a step should be.
        epochs: Epochs to train; the last one is timed.
    """

    make: Callable[[], Any]
    goal: float
    epochs: int = 1


def random_one_shot() -> RandomOneShot:
    """Return the strategy with the shortest comparison at the end."""
    return RandomOneShot(candidates=1, finalists=1, first_batches=1, **_ONE_BATCH)


def spos() -> SPOS:
    """Return the strategy with the shortest evolution at the end."""
    return SPOS(population=2, generations=1, parents=1, mutations=1, crossovers=1, **_ONE_BATCH)


CASES = {
    "DARTS": Case(DARTS, 1),
    "DARTS, second order": Case(lambda: DARTS(order=2), 1 / 2.6),
    "PC-DARTS": Case(lambda: PCDARTS(warmup_epochs=0), 3),
    "GDAS": Case(GDAS, 6),
    "SGAS, all decided": Case(lambda: SGAS(first_decision=0, period=1, window=1), 12, epochs=10),
    "SPOS": Case(spos, 16),
    "RandomOneShot": Case(random_one_shot, 16),
}


class Clock(Callback):
    """Notes the time that each step of an epoch takes; profiles the last step.

    Args:
        profiles: Whether to profile.
    """

    def __init__(self, profiles: bool) -> None:
        self.seconds: list[float] = []
        self.report = ""
        self._profile = profile(activities=[ProfilerActivity.CPU]) if profiles else None
        self._last: float | None = None

    def __deepcopy__(self, memo: object) -> Clock:
        return self  # an evaluator trains with copies of its callbacks

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.seconds, self._last = [], None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = clock()
        if self._last is not None:
            self.seconds.append(now - self._last)
        if self._profile is not None and trainer.current_epoch == trainer.max_epochs - 1:
            left = trainer.num_training_batches - 1 - batch_idx
            if left == 1:
                self._profile.start()
            elif left == 0:
                self._profile.stop()
                self.report = self._profile.key_averages().table("self_cpu_time_total", row_limit=12)
        self._last = clock()


def clock() -> float:
    """Return seconds: of the processor, which others may also use; with several threads those of a clock."""
    return time.perf_counter() if torch.get_num_threads() > 1 else time.process_time()


def measure(case: Case, args: argparse.Namespace) -> Clock:
    """Search with a strategy for a few steps, and return the times."""
    count = (args.steps + WARMUP + 1) * args.batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    data = TensorDataset(images, torch.randint(10, (count,), generator=generator))
    loader = DataLoader(data, args.batch)
    times = Clock(args.profile)
    evaluator = Lightning(
        DartsTrainingModule(auxiliary_loss_weight=0.0, max_epochs=case.epochs),
        train_dataloaders=loader,
        val_dataloaders=DataLoader(data, args.batch),
        max_epochs=case.epochs,
        gradient_clip_val=5.0,
        limit_val_batches=1,
        callbacks=[times],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        logger=False,
    )
    space = DartsSpace(args.width, args.cells, "cifar")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "run"
        Experiment(space, evaluator, case.make(), directory=path, execution=args.execution).run()
    return times


def main() -> None:
    """Time the strategies and print their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each strategy")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--execution", choices=get_args(ExecutionName), default="auto")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="and DARTS")
    parser.add_argument("--profile", action="store_true", help="print where the last step of each goes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(["DARTS", *args.only]):
        times = measure(CASES[name], args)
        milliseconds = 1e3 * statistics.median(times.seconds[WARMUP:])
        ratio = result["DARTS"]["ms"] / milliseconds if result else 1.0
        result[name] = {"ms": milliseconds, "ratio": ratio, "goal": CASES[name].goal}
        if not args.json:
            print(f"{name:22}{milliseconds:10.1f} ms{ratio:8.2f} times as fast, goal {CASES[name].goal:.2f}")
            print(times.report, end="")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
