"""Time a first-order DARTS search step on a GPU: the supernet's executions against the plain form.

    python benchmarks/gpu_step.py --width 16 --cells 8 --batch 64

The plain form computes every operation on every edge by itself, as quark0/darts does. `native` replays CUDA
graphs; names with `_bf16` are the same with autocast to bfloat16. All forms run in turn in one process for
times, and each in a process of its own for memory and launches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from supernet_step import Batch, Form, make_batches, make_forms, timed
from torch.profiler import ProfilerActivity, profile

FORMS = ("plain", "torch", "native", "torch_bf16", "native_bf16")
CALLS = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)


def step(form: Form, batches: tuple[Batch, Batch], name: str) -> None:
    """Take one search step."""
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=name.endswith("_bf16")):
        form.step(*batches)


def form_of(name: str, forms: dict[str, Form]) -> Form:
    """Return the form that a name stands for."""
    return forms[name.removesuffix("_bf16")]


def times(args: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return milliseconds of a step of each form, and how many times faster than the first it is."""
    batches = make_batches(args)
    forms = {name: form_of(name, make_forms(args)) for name in names}
    rounds = [
        {
            name: timed(lambda form=form, name=name: step(form, batches, name), args.device)
            for name, form in forms.items()
        }
        for _ in range(args.warmup + args.steps)
    ][args.warmup :]
    return {name: summary([r[name] for r in rounds], [r[names[0]] for r in rounds]) for name in names}


def summary(seconds: Sequence[float], of_first: Sequence[float]) -> dict[str, float]:
    """Return the median milliseconds, and the median, lowest and highest ratio of pairs."""
    ratios = [a / b for a, b in zip(of_first, seconds, strict=True)]
    return {
        "ms": 1e3 * statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def memory_and_launches(args: argparse.Namespace) -> dict[str, int]:
    """Return the peak of allocated and reserved memory, and the launches of one step, of `args.form`."""
    form, batches = form_of(args.form, make_forms(args)), make_batches(args)
    for _ in range(3):  # the second records graphs
        step(form, batches, args.form)
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(form, batches, args.form)
        torch.cuda.synchronize()
    return {"peak_bytes": allocated, "reserved_bytes": reserved, "launches": launches(profiler)}


def launches(profiler: Any) -> int:
    """Return how often the host launched a kernel or a graph."""
    return sum(event.count for event in profiler.key_averages() if event.key in CALLS)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers of all forms."""
    found: dict[str, Any] = times(args, args.forms)
    for name in args.forms:
        command = [sys.executable, __file__, *sys.argv[1:], "--form", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] |= json.loads(done.stdout)
    setting = {name: getattr(args, name) for name in ("width", "cells", "batch", "steps")}
    return {**setting, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "forms": found}


def table(result: dict[str, Any]) -> str:
    """Return a table in Markdown."""
    lines = [
        f"{result['gpu']}, torch {result['torch']}, width {result['width']}, {result['cells']} cells, batch "
        f"{result['batch']}:",
        "",
        "| | ms | times faster | peak, MB | reserved, MB | launches |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["forms"].items():
        ratio = f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})"
        memory = f"{row['peak_bytes'] / 1e6:.0f} | {row['reserved_bytes'] / 1e6:.0f}"
        lines.append(f"| {name} | {row['ms']:.1f} | {ratio} | {memory} | {row['launches']} |")
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="rounds of timed steps")
    parser.add_argument("--warmup", type=int, default=4, help="rounds before the timed ones")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--form", choices=FORMS, help="only memory and launches of this form, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_step.py needs a GPU, and PyTorch sees none here; supernet_step.py measures on a CPU.")
    args.device, args.checkpoint = torch.device("cuda"), False
    if args.form:
        print(json.dumps(memory_and_launches(args)))
        return
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))


if __name__ == "__main__":
    main()
