"""Time a first-order DARTS search step of this project, of quark0/darts and of NNI 3.0, interleaved.

    python benchmarks/peers.py FOLDER --batch 8 --threads 1 --readme

Each contestant is a process that takes a step when it is told to, one after the other in each round, so that
all meet the same machine. NNI gets an environment of its own in the folder, made once; where it cannot be
installed its row is left out. Results of several settings are collected in the folder, and `--readme` writes
them all into benchmarks/README.md.

quark0     Our own writing of what quark0/darts computes: every operation on every edge by itself, and both
           updates by `loss.backward()`. The original, patched for a CPU and a new PyTorch, is as fast.
NNI        nni.nas.strategy.DARTS on NNI's own DARTS space, by its own Trainer.
torch      `spacelang.Supernet` as the DARTS strategy runs it, with PyTorch alone.
native     The same with compiled kernels.
Experiment `spacelang.Experiment` on Lightning with `execution="auto"`: everything between two batches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CONTESTANTS = ("quark0", "NNI", "torch", "native", "Experiment")
NNI = ("nni==3.0", "torch==2.0.1", "numpy<2", "pytorch-lightning==1.9.5", "setuptools<70")
PYTHONS = ("python3.11", "python3.10", "python3.9", "python3.8")  # torch 2.0.1 has wheels for these
HERE = Path(__file__).parent


# -- the process of a contestant -----------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    """Be a contestant: take a step and print its seconds for each line on standard input."""
    import torch

    torch.set_num_threads(args.threads)
    pace = Pace(time.process_time if args.threads == 1 else time.perf_counter)
    if args.worker == "Experiment":
        search(args, pace)
        return
    step = steps(args)
    pace.begin()
    while pace.wait():
        step()
        pace.answer()


class Pace:
    """Waits for the next line, and answers with the seconds since and the peak of memory.

    Args:
        clock: Gives the seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers, sys.stdout = sys.stdout, sys.stderr
        self._start = self._before = 0.0

    def begin(self) -> None:
        """Count memory from here: everything is imported."""
        self._before = peak()

    def wait(self) -> bool:
        """Wait for a line; return whether there was one."""
        line = sys.stdin.readline()
        self._start = self._clock()
        return bool(line)

    def answer(self) -> None:
        """Print the seconds since the line, and bytes."""
        answer = {"seconds": self._clock() - self._start, "peak_bytes": peak() - self._before}
        print(json.dumps(answer), file=self._answers, flush=True)


def peak() -> int:
    """Return the peak of resident memory so far, in bytes."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else 1024 * resident


def steps(args: argparse.Namespace) -> Callable[[], None]:
    """Return the step of a contestant without a Trainer."""
    import torch
    from supernet_step import RELAXATION, Form, make_batches
    from torch import nn

    from spacelang import Supernet
    from spacelang.hub import DARTS as DartsSpace
    from spacelang.supernet import edge_by_edge

    plain = args.worker == "quark0"
    torch.manual_seed(0)
    space = DartsSpace(args.width, args.cells, "cifar")
    network = edge_by_edge(space) if plain else Supernet(space, execution=args.worker)
    shapes = {label: RELAXATION.shape(group) for label, group in network.groups.items()}
    logits = {label: nn.Parameter(1e-3 * torch.randn(shape)) for label, shape in shapes.items()}
    form = Form(network, logits, plain=plain)
    args.device = torch.device("cpu")
    batches = make_batches(args)
    return lambda: form.step(*batches)


def search(args: argparse.Namespace, pace: Pace) -> None:
    """Search by an Experiment until the input ends."""
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from spacelang import Experiment
    from spacelang.evaluators import DartsTrainingModule, Lightning
    from spacelang.hub import DARTS as DartsSpace
    from spacelang.strategies import DARTS

    class Paced(pl.Callback):
        """Waits between two batches; the first is not timed."""

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if trainer.global_step > 1:
                pace.answer()
            if not pace.wait():
                sys.stderr.flush()
                os._exit(0)  # without the rest of the search

    torch.manual_seed(0)
    images, labels = torch.randn(64 * args.batch, 3, 32, 32), torch.randint(10, (64 * args.batch,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=args.batch)
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"accelerator": "cpu", "max_epochs": 100, "callbacks": [Paced()], "gradient_clip_val": 5.0}
    module = DartsTrainingModule(auxiliary_loss_weight=0.0, max_epochs=100)
    evaluator = Lightning(module, train_dataloaders=loader, val_dataloaders=loader, **settings)
    pace.begin()
    space = DartsSpace(args.width, args.cells, "cifar")
    Experiment(space, evaluator, DARTS(), directory=args.folder / f"run-{os.getpid()}").run()


# -- the comparison ------------------------------------------------------------------------------------


def nni_python(folder: Path) -> str:
    """Return the Python of NNI's environment, made if need be; nothing, and say why, where it cannot be."""
    python = folder / "nni" / "bin" / "python"
    if python.exists() and not subprocess.run([python, "-c", "import nni"], capture_output=True).returncode:
        return str(python)
    found = next(filter(None, map(shutil.which, PYTHONS)), None)
    if found is None:
        print(f"NNI is left out: none of {', '.join(PYTHONS)} was found.", file=sys.stderr)
        return ""
    print("Installing NNI and its PyTorch, about 3 GB ...", file=sys.stderr)
    for command in ([found, "-m", "venv", folder / "nni"], [python, "-m", "pip", "install", "-q", *NNI]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            print(f"NNI is left out: {' '.join(map(str, command[:4]))} failed: {last}", file=sys.stderr)
            return ""
    return str(python)


def command(name: str, args: argparse.Namespace, nni: str) -> list[str]:
    """Return the command of a contestant."""
    sizes = [f"--{size}={getattr(args, size)}" for size in ("width", "cells", "batch", "threads")]
    if name == "NNI":
        return [nni, str(HERE / "peers_nni.py"), *sizes]
    return [sys.executable, __file__, str(args.folder), f"--worker={name}", *sizes]


def compare(args: argparse.Namespace, names: Sequence[str], nni: str) -> dict[str, Any]:
    """Return milliseconds of a step and its peak memory, and how many times faster than the first it is."""
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    if not args.verbose:
        options["stderr"] = subprocess.DEVNULL
    processes = {
        name: subprocess.Popen(command(name, args, nni), env=environment, **options) for name in names
    }
    try:
        rounds = [
            {name: ask(name, process) for name, process in processes.items()}
            for _ in range(args.warmup + args.rounds)
        ]
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return {name: summary(name, names[0], rounds[args.warmup :]) for name in names}


def ask(name: str, process: subprocess.Popen[str]) -> dict[str, float]:
    """Let a contestant take a step; return its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"{name} ended without an answer; --verbose shows why.")


def summary(name: str, first: str, rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Return medians of a contestant, and the extremes of its ratio in single rounds."""
    seconds = [each[name]["seconds"] for each in rounds]
    ratios = [each[first]["seconds"] / each[name]["seconds"] for each in rounds]
    return {
        "ms": 1e3 * statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "peak_bytes": max(each[name]["peak_bytes"] for each in rounds),
    }


def machine() -> str:
    """Return the processor, its number of cores, and versions."""
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else [platform.processor()]
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{names[0]} ({kind}), {os.cpu_count()} cores; torch {torch.__version__}, NNI 3.0 on torch 2.0.1"


def table(results: dict[str, Any]) -> str:
    """Return the tables of all settings in Markdown."""
    parts = []
    for key in sorted(results):
        found = results[key]
        lines = [
            f"Batch {found['batch']}, {found['threads']} thread{'s' * (found['threads'] > 1)}, width "
            f"{found['width']}, {found['cells']} cells, {found['rounds']} rounds; {found['machine']}:",
            "",
            "| | ms | times faster than quark0 | peak over imports, MB |",
            "|---|---|---|---|",
        ]
        for name, row in found["contestants"].items():
            ratio = f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
            lines.append(f"| {name} | {row['ms']:.0f} | {ratio} | {row['peak_bytes'] / 1e6:.0f} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def written(readme: str, tables: str) -> str:
    """Return a README with the tables between its marks."""
    start, end = "<!-- peers -->\n", "<!-- end of peers -->"
    before, _, rest = readme.partition(start)
    return f"{before}{start}\n{tables}\n\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets environments, runs and results")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of timed steps")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before the timed ones")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--readme", action="store_true", help="write all tables into benchmarks/README.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verbose", action="store_true", help="show what contestants print")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder = args.folder.absolute()
    if args.worker:
        work(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    nni = nni_python(args.folder) if "NNI" in args.only else ""
    names = [name for name in args.only if name != "NNI" or nni]
    setting = {name: getattr(args, name) for name in ("batch", "threads", "width", "cells", "rounds")}
    setting |= {"machine": machine(), "contestants": compare(args, names, nni)}
    path = args.folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[f"{args.threads} threads, batch {args.batch:4}"] = setting
    path.write_text(json.dumps(results))
    if args.readme:
        readme = HERE / "README.md"
        readme.write_text(written(readme.read_text(), table(results)))
    print(json.dumps(setting) if args.json else table(results))


if __name__ == "__main__":
    main()
