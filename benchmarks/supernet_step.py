"""Time a first-order DARTS search step: a supernet against the plain form of the same mathematics.

    python benchmarks/supernet_step.py --width 16 --cells 8 --batch 8

All forms start from the same weights and logits. First their gradients are compared in float64. Then they
are timed in float32, one after the other, in one process; ratios are computed for each round. A step is
one architecture update on one batch and one weight update on another. The memory of each form is measured
in its own process.

plain      every operation on every edge by itself, contiguous tensors, and both updates by `loss.backward()`,
           which computes the gradients of weights and logits together. The zero operation has a weight in the
           softmax and is not executed.
torch      `spacelang.Supernet` as the DARTS strategy runs it, with PyTorch alone.
native     The same with compiled kernels on a CPU, left out where they cannot be compiled; on a GPU with CUDA
           graphs.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacelang import Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies.framework import FirstOrder, Softmax, Step
from spacelang.supernet import Execution, ExecutionName, edge_by_edge

Batch = tuple[Tensor, Tensor]
RELAXATION = Softmax()


@dataclass
class Form:
    """One way to compute a search step."""

    network: Supernet
    logits: dict[str, nn.Parameter]
    plain: bool

    def __post_init__(self) -> None:
        self.weights = list(self.network.parameters())
        self.weight_optimizer = torch.optim.SGD(self.weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.logit_optimizer = torch.optim.Adam(
            self.logits.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3
        )

    def loss(self, batch: Batch, *, with_logits: bool) -> Tensor:
        """Return the cross entropy of a batch, differentiable in the logits or not."""
        groups = self.network.groups
        with torch.set_grad_enabled(with_logits):
            mixture = {
                label: RELAXATION.mixture(groups[label], p).weights for label, p in self.logits.items()
            }
        self.network.set_mixture(mixture)
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def architecture_step(self, batch: Batch) -> None:
        """Update the logits."""

        def loss() -> Tensor:
            return self.loss(batch, with_logits=True)

        if self.plain:
            self.logit_optimizer.zero_grad()
            self.weight_optimizer.zero_grad()
            loss().backward()
        else:
            logits = list(self.logits.values())
            found = FirstOrder().gradients(Step(logits, loss, loss, self.network, [self.weight_optimizer]))
            for p, gradient in zip(logits, found, strict=True):
                p.grad = gradient
        self.logit_optimizer.step()

    def weight_step(self, batch: Batch) -> None:
        """Update the weights."""
        self.weight_optimizer.zero_grad()
        self.loss(batch, with_logits=self.plain).backward()
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.weight_optimizer.step()

    def step(self, train: Batch, val: Batch) -> None:
        """Take one search step, logits first."""
        self.architecture_step(val)
        self.weight_step(train)


def executions(device: torch.device) -> list[ExecutionName]:
    """Return the executions to compare with the plain form."""
    if device.type == "cuda":
        return ["torch", "native"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        native = Execution("auto").resolved(torch.channels_last).name == "native"
    return ["torch", "native"] if native else ["torch"]


def make_forms(args: argparse.Namespace, dtype: torch.dtype = torch.float32) -> dict[str, Form]:
    """Return the plain form and the executions of the supernet, with equal weights and logits."""
    torch.manual_seed(0)
    space = DartsSpace(args.width, args.cells, "cifar").to(dtype)
    networks = {"plain": edge_by_edge(space)}
    for name in executions(args.device):
        networks[name] = Supernet(space, execution=name)
        if args.checkpoint:
            networks[f"{name}_checkpoint"] = Supernet(space, execution=name, checkpoint=True)
    start = {
        label: 1e-3 * torch.randn(RELAXATION.shape(group), dtype=dtype)
        for label, group in networks["plain"].groups.items()
    }
    return {
        name: Form(
            network.to(args.device),
            {label: nn.Parameter(p.to(args.device, copy=True)) for label, p in start.items()},
            plain=name == "plain",
        )
        for name, network in networks.items()
    }


def make_batches(args: argparse.Namespace, dtype: torch.dtype = torch.float32) -> tuple[Batch, Batch]:
    """Return a training and a validation batch of random images, (batch, 3, 32, 32), and labels."""

    def batch() -> Batch:
        images = torch.randn(args.batch, 3, 32, 32, dtype=dtype)
        return images.to(args.device), torch.randint(10, (args.batch,)).to(args.device)

    torch.manual_seed(1)
    return batch(), batch()


def gradient_difference(args: argparse.Namespace) -> float:
    """Return the largest difference between the forms' gradients in float64.

    Logits and weights are compared separately, each relative to its largest gradient; the larger result is
    returned.
    """
    batch, _ = make_batches(args, torch.float64)
    gradients: list[list[Tensor]] = []
    for form in make_forms(args, torch.float64).values():
        logits = list(form.logits.values())
        flat = torch.autograd.grad(form.loss(batch, with_logits=True), logits + form.weights)
        gradients.append([torch.cat([g.flatten() for g in part]) for part in split(flat, len(logits))])
    plain, *others = gradients
    pairs = [pair for other in others for pair in zip(plain, other, strict=True)]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def split(items: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the first `count` items, and the rest."""
    return items[:count], items[count:]


@contextmanager
def counting_saved_bytes(form: Form) -> Iterator[list[int]]:
    """Count the bytes of the distinct tensors that autograd saves, without parameters."""
    known = {p.untyped_storage().data_ptr() for p in [*form.weights, *form.logits.values()]}
    sizes: dict[int, int] = {}
    total = [0]
    kept = []  # a freed storage's address may be used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            total[0] = sum(sizes.values())
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def saved_bytes(form: Form, batch: Batch, *, with_logits: bool) -> int:
    """Return the bytes of activations kept for the backward pass of one update."""
    with counting_saved_bytes(form) as total:
        loss = form.loss(batch, with_logits=with_logits)
    del loss
    gc.collect()
    return total[0]


def memory(args: argparse.Namespace) -> dict[str, int]:
    """Return the memory of `args.form`; the peak is of two steps, above what the process used before."""
    before = peak(args.device)
    form = make_forms(args)[args.form]
    train, val = make_batches(args)
    gc.collect()
    for _ in range(2):
        form.step(train, val)
    result = {"peak_bytes": peak(args.device) - before}
    for name, with_logits in (("architecture", True), ("weight", form.plain)):
        result[f"saved_bytes_{name}_update"] = saved_bytes(form, train, with_logits=with_logits)
    return result


def peak(device: torch.device) -> int:
    """Return the peak memory of this process so far, in bytes; on a GPU that of torch's allocator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else 1024 * resident


def memory_of_each_form(args: argparse.Namespace) -> dict[str, int]:
    """Run this script again for each form; call it first, because a child starts with its parent's peak."""
    result = {}
    names = ["plain", *executions(args.device)]
    for form in (*names, *(f"{name}_checkpoint" for name in names[1:] if args.checkpoint)):
        command = [sys.executable, __file__, *sys.argv[1:], "--json", "--form", form]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result |= {f"{form}_{name}": value for name, value in json.loads(done.stdout).items()}
    return result


def timed(action: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of one call: of the processor's time on a CPU, which others may also use."""
    clock = time.perf_counter if device.type == "cuda" or torch.get_num_threads() > 1 else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def times(args: argparse.Namespace, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the milliseconds of a step of each form or of those named, and their ratios to the first one."""
    forms, batches = make_forms(args), make_batches(args)
    forms = {name: form for name, form in forms.items() if not names or name in names}
    rounds = [
        {name: timed(lambda form=form: form.step(*batches), args.device) for name, form in forms.items()}
        for _ in range(args.warmup + args.steps)
    ][args.warmup :]
    result = {f"{name}_ms": 1e3 * statistics.median(r[name] for r in rounds) for name in forms}
    first, *others = forms
    for name in others:
        ratios = [r[first] / r[name] for r in rounds]
        result[f"{name}_ratio"] = statistics.median(ratios)
        result |= {f"{name}_ratio_lowest": min(ratios), f"{name}_ratio_highest": max(ratios)}
    return result


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="rounds of timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before the timed ones")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--checkpoint", action="store_true", help="also with cells computed again backwards")
    parser.add_argument("--form", help="only the memory of one form, such as native_checkpoint")
    parser.add_argument("--times", nargs="+", default=(), help="only the times of these forms")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.form:
        result: dict[str, Any] = memory(args)
    else:
        setting = {name: getattr(args, name) for name in ("width", "cells", "batch", "steps")}
        setting |= {
            "threads": torch.get_num_threads(),
            "device": str(args.device),
            "torch": torch.__version__,
        }
        result = dict(setting)
        if not args.times:
            result |= memory_of_each_form(args)
            result["gradient_difference"] = gradient_difference(args)
        result |= times(args, args.times)
    print(json.dumps(result) if args.json else table(result))


def table(result: dict[str, Any]) -> str:
    """Return one line for each value; bytes in MB."""
    lines = []
    for name, value in result.items():
        if "bytes" in name:
            name, value = name.replace("bytes", "MB"), f"{value / 1e6:.1f}"
        lines.append(f"{name:36} {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
