"""How much work reports and FLOP counts do."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spacelang import LayerChoice, ModelSpace
from spacelang.costs.counting import count_flops
from spacelang.costs.prices import Price
from spacelang.graph.flop_mode import form
from spacelang.graph.shapes import aten, output_of
from spacelang.graph.tensors import tensors_in


class Chain(ModelSpace):
    def __init__(self, number: int) -> None:
        super().__init__()
        layers = [{"one": nn.Linear(2, 2), "none": nn.Identity()} for _ in range(number)]
        self.layers = nn.Sequential(*(LayerChoice(layer, label=f"l{i}") for i, layer in enumerate(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_report_computes_prices_in_proportion_to_the_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, count = Counter[int](), Price.count

    def work(number: int) -> int:
        def counted(price: Price, arch: Any) -> int:
            computed[number] += 1
            return count(price, arch)

        monkeypatch.setattr(Price, "count", counted)
        report = Chain(number).report()
        assert (report.parameters.smallest, report.parameters.largest) == (0, 6 * number)
        return computed[number]

    assert work(24) < 2.5 * work(12)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.GELU(),
        nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 2), nn.SiLU(),
    )  # fmt: skip


@pytest.fixture
def no_fused_attention() -> Iterator[None]:
    """One kernel for all of attention has no formula in torch's counter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.usefixtures("no_fused_attention")
def test_operations_are_counted_as_torch_counts_them() -> None:
    networks: list[tuple[nn.Module, torch.Tensor]] = [
        (network(), torch.zeros(1, 3, 6, 6)),
        (nn.MultiheadAttention(4, 2), torch.zeros(3, 2, 4)),
        (nn.LSTM(4, 3, 2, bidirectional=True), torch.zeros(3, 2, 4)),
        (nn.ConvTranspose2d(4, 2, 3), torch.zeros(1, 4, 5, 5)),
    ]
    for model, x in networks:
        given = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
        bare = copy.deepcopy(model).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            wanted = bare(*(tensor.to("meta") for tensor in given))
        flops, output = count_flops(model, given)
        assert flops == counter.get_total_flops() > 0
        assert [t.shape for t in tensors_in(output)] == [t.shape for t in tensors_in(wanted)]


def operands() -> list[torch.Tensor]:
    a = torch.empty(2, 4, 3, 3, device="meta")
    return [a, a[:, :, :1], a.to(memory_format=torch.channels_last), a[0], a.transpose(1, 2), a.long()]


@pytest.mark.parametrize("x", operands(), ids=lambda x: f"{tuple(x.shape)} {x.stride()} {x.dtype}")
def test_outputs_found_without_torch_are_those_of_torch(x: torch.Tensor) -> None:
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    for func in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor):
        calls += [(func, (x, other)) for other in (*operands(), 2, 0.5)]
    for func in (aten.relu, aten.gelu, aten.silu, aten.sigmoid, aten.tanh, aten.hardsigmoid):
        calls.append((func.default, (x,)))
    calls += [(aten.cat.default, ([x, other], dim)) for other in operands() for dim in (0, 1, -1)]
    calls += [(aten.mean.dim, (x, dims, keep)) for dims in ([0], [-1, 1]) for keep in (True, False)]
    per_channel = [torch.empty(4, device="meta") for _ in range(4)]
    calls.append((aten._native_batch_norm_legit_no_training.default, (x, *per_channel, 0.1, 1e-5)))
    calls.append((aten.native_layer_norm.default, (x, [3], *per_channel[:2], 1e-5)))
    last = [torch.empty(3, device="meta") for _ in range(2)]
    calls.append((aten.native_layer_norm.default, (x, [3], *last, 1e-5)))
    kernel = torch.empty(2, 4, 2, 2, device="meta")
    calls += [
        (aten.convolution.default, (x, kernel, None, [s, s], [p, p], [d, d], False, [0, 0], 1))
        for s, p, d in ((1, 0, 1), (2, 1, 1), (1, 1, 2))
    ]
    calls.append((aten.addmm.default, (last[0], x.flatten(1)[:, :4], torch.empty(4, 3, device="meta"))))
    found = 0
    for func, args in calls:
        try:
            wanted = func(*args)
        except (RuntimeError, ValueError):
            wanted = None
        try:
            output = output_of(func, args, {})
        except RuntimeError:
            assert wanted is None
            continue
        if output is not None:
            found += 1
            assert wanted is not None, (func, args)
            assert form(output) == form(wanted), (func, args)
    assert found > (0 if x.dtype == torch.long else 10)


def test_a_candidate_is_run_once_for_all_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(nn.Linear):
        ran = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counted.ran += 1
            return super().forward(x)

    class Stack(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            choices = [{"one": Counted(2, 2), "none": nn.Identity()} for _ in range(9)]
            self.layers = nn.Sequential(*(LayerChoice(c, label=f"l{i}") for i, c in enumerate(choices)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    graph = Stack().trace(torch.zeros(5, 2))
    assert Counted.ran == 1
    assert sum(data.get("flops", 0) for _, _, data in graph.edges(data=True)) == 9 * 2 * 5 * 2 * 2


def test_a_trace_does_not_load_torchs_compiler() -> None:
    script = """
import sys, torch
from spacelang.hub import DARTS
DARTS(4, 3).trace(torch.zeros(1, 3, 32, 32))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
