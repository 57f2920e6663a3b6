"""Time a first-order DARTS search step: the supernet against the plain edge-by-edge form of the same mathematics.

    python benchmarks/supernet_step.py --width 16 --cells 8 --batch 8

Both forms start from the same weights and logits and are first checked to give the same gradients. Then
they are timed in turn, in one process; the ratio is taken pair by pair. A step is one architecture update
on one batch and one weight update on another.

plain      every operation on every edge by itself, the zero operation included, contiguous tensors, and both
           updates by `loss.backward()`, which computes the gradients of weights and logits alike.
supernet   `spacelang.Supernet` as the DARTS strategy runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spacelang import Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.strategies import Softmax
from spacelang.supernet import edge_by_edge


@dataclass
class Form:
    """One way to compute a search step."""

    network: Supernet
    logits: dict[str, nn.Parameter]
    plain: bool

    def __post_init__(self) -> None:
        self.weights = list(self.network.parameters())
        self.weight_optimizer = torch.optim.SGD(self.weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.logit_optimizer = torch.optim.Adam(self.logits.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def loss(self, batch: tuple[Tensor, Tensor], *, with_logits: bool) -> Tensor:
        relaxation = Softmax()
        with torch.set_grad_enabled(with_logits):
            mixture = {x: relaxation.mixture(self.network.groups[x], p) for x, p in self.logits.items()}
        self.network.set_mixture(mixture)
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def architecture_step(self, batch: tuple[Tensor, Tensor]) -> None:
        loss = self.loss(batch, with_logits=True)
        if self.plain:
            self.logit_optimizer.zero_grad()
            self.weight_optimizer.zero_grad()
            loss.backward()
        else:
            gradients = torch.autograd.grad(loss, list(self.logits.values()))
            for p, gradient in zip(self.logits.values(), gradients, strict=True):
                p.grad = gradient
        self.logit_optimizer.step()

    def weight_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.weight_optimizer.zero_grad()
        self.loss(batch, with_logits=self.plain).backward()
        nn.utils.clip_grad_norm_(self.weights, 5.0)
        self.weight_optimizer.step()

    def step(self, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> None:
        self.architecture_step(val)
        self.weight_step(train)


def make_forms(width: int, cells: int, device: torch.device) -> tuple[Form, Form]:
    """The plain form and the supernet, with equal weights and logits."""
    torch.manual_seed(0)
    space = DartsSpace(width, cells, "cifar")
    networks = edge_by_edge(space, zero=True).to(device), Supernet(space).to(device)
    start = {x: 1e-3 * torch.randn(Softmax().shape(g)) for x, g in networks[0].groups.items()}
    plain, ours = (
        Form(network, {x: nn.Parameter(p.clone().to(device)) for x, p in start.items()}, plain=k == 0)
        for k, network in enumerate(networks)
    )
    return plain, ours


def largest_difference(plain: Form, ours: Form, batch: tuple[Tensor, Tensor]) -> float:
    """Largest difference of logit gradients, relative to the largest gradient."""
    gradients = [torch.autograd.grad(f.loss(batch, with_logits=True), list(f.logits.values())) for f in (plain, ours)]
    scale = max(float(g.abs().max()) for g in gradients[0])
    return max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) / scale


@contextmanager
def counting_saved_bytes(form: Form) -> Iterator[list[int]]:
    """Count the bytes of distinct tensors autograd saves, parameters left out."""
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


def saved_bytes(form: Form, batch: tuple[Tensor, Tensor], *, with_logits: bool) -> int:
    """Bytes of activations kept for the backward pass of one step."""
    with counting_saved_bytes(form) as total:
        loss = form.loss(batch, with_logits=with_logits)
    del loss
    gc.collect()
    return total[0]


def timed(action: Callable[[], None], device: torch.device) -> float:
    """Seconds one call takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="pairs of timed steps")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    plain, ours = make_forms(arguments.width, arguments.cells, device)
    batches = [
        (torch.randn(arguments.batch, 3, 32, 32, device=device), torch.randint(10, (arguments.batch,), device=device))
        for _ in range(2)
    ]
    difference = largest_difference(plain, ours, batches[0])
    saved = {
        name: max(saved_bytes(form, batches[0], with_logits=True), saved_bytes(form, batches[0], with_logits=form.plain))
        for name, form in (("plain", plain), ("supernet", ours))
    }
    pairs = []
    for k in range(arguments.warmup + arguments.steps):
        pair = [timed(lambda form=form: form.step(*batches), device) for form in (plain, ours)]
        if k >= arguments.warmup:
            pairs.append(pair)
    result = {
        "width": arguments.width,
        "cells": arguments.cells,
        "batch": arguments.batch,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
        "gradient_difference": difference,
        "plain_ms": 1e3 * statistics.median(p for p, _ in pairs),
        "supernet_ms": 1e3 * statistics.median(o for _, o in pairs),
        "ratio": statistics.median(p / o for p, o in pairs),
        "plain_saved_bytes": saved["plain"],
        "supernet_saved_bytes": saved["supernet"],
        "peak_memory_bytes": peak_memory(device),
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:22} {value}" for name, value in result.items()))


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far (on a GPU: of torch's allocator)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
