"""A supernet with one architecture selected is its frozen model, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import LayerChoice, ModelSpace, Supernet
from spacelang.supernet import edge_by_edge

from ..toys.spaces import CASES, Case, architectures, randomise_statistics

EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def origins(supernet: Supernet, arch: dict[str, Any]) -> dict[str, Tensor]:
    """Where each number of the frozen model comes from: positions in the supernet's tensors, laid end to end.

    Found by freezing once with the positions themselves as weights.
    """
    tensors = [*supernet.parameters(), *supernet.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    start = 0
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.arange(start, start + tensor.numel()).view(tensor.shape))
            start += tensor.numel()
        model = supernet.freeze(arch)
        found = {
            name: t.detach().round().long() for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
    return found


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors] or [torch.zeros(0).double()])


def check_same_bits(case: Case, supernet: Supernet, arch: dict[str, Any]) -> None:
    """Outputs, gradients and running statistics, in training and then in evaluation."""
    where = origins(supernet, arch)
    supernet.select(arch)
    model = supernet.freeze(arch)
    for training in (True, True, False):
        supernet.train(training).zero_grad()
        model.train(training).zero_grad()
        torch.manual_seed(3)
        expected = model(*case.example())
        torch.manual_seed(3)
        output = supernet(*case.example())
        assert torch.equal(output, expected)
        if expected.requires_grad:
            weight = torch.randn(expected.shape, dtype=expected.dtype)
            (expected * weight).sum().backward()
            (output * weight).sum().backward()
        check_gradients(supernet, model, where, exact=all(CASES[name] is not case for name in ROUNDED))
        state = flat([*supernet.parameters(), *supernet.buffers()])
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer.double(), state[where[name]])


# Gradients are sums, and floating-point sums depend on their order: where edges share a ReLU, or slots an
# operation, theirs are added before it and not after; sliced weights of a GRU multiply in another order.
ROUNDED = {"cells", "distinct cells", "loose ends", "triples", "attention"}


def check_gradients(
    supernet: Supernet, model: plain.Module, where: dict[str, Tensor], *, exact: bool
) -> None:
    """Each weight of the path has the gradient of its copy, or copies together; others have none."""
    parameters = list(supernet.parameters())
    grads = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
    expected = torch.zeros_like(grads)
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected.index_add_(0, where[name].flatten(), grad.flatten())
    assert torch.equal(grads == 0, expected == 0)
    if exact:
        assert torch.equal(grads, expected)
    elif len(expected):
        assert (grads - expected).abs().max() <= 1e-14 * expected.abs().max()


@pytest.mark.slow
@EVERY_CASE
@pytest.mark.parametrize("seed", range(3))
def test_a_selected_path_is_the_frozen_model_bit_for_bit(case: Case, seed: int) -> None:
    space = case.space(seed=seed)
    supernet = Supernet(space)
    randomise_statistics(supernet)
    for arch in architectures(space, 3, seed):
        check_same_bits(case, supernet, arch)


@pytest.mark.slow
@EVERY_CASE
def test_statistics_that_differ_between_edges_stay_apart(case: Case) -> None:
    """A space that was trained: its edges' normalisations are not one, and are not made one."""
    space = case.space()
    randomise_statistics(space)
    supernet = Supernet(space)
    for arch in architectures(space, 2, seed=5):
        check_same_bits(case, supernet, arch)
        frozen, inherited = space.freeze(arch), Supernet(space).freeze(arch)
        for name, tensor in frozen.state_dict().items():
            assert torch.equal(inherited.state_dict()[name], tensor)


def test_without_sharing_the_gradients_of_a_cell_are_exact_too() -> None:
    case = CASES["distinct cells"]
    space = case.space()
    reference = edge_by_edge(space)
    for arch in architectures(space, 4):
        where, model = origins(reference, arch), space.freeze(arch)
        reference.select(arch)
        for network in (reference, model):
            network.zero_grad()
            network(*case.example()).square().sum().backward()
        check_gradients(reference, model, where, exact=True)


@pytest.mark.slow
@EVERY_CASE
def test_a_contiguous_supernet_is_the_frozen_space_bit_for_bit(case: Case) -> None:
    space = case.space()
    for network in (Supernet(space, memory_format=None), edge_by_edge(space)):
        for arch in architectures(space, 3, seed=1):
            network.select(arch)
            network.eval()
            assert torch.equal(network(*case.example()), space.freeze(arch).eval()(*case.example()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells", "triples", "loose ends"])
def test_two_slots_with_one_operation_on_one_input(name: str) -> None:
    case = CASES[name]
    space = case.space()
    supernet = Supernet(space)
    randomise_statistics(supernet)
    for op in list(space.decisions[0].candidates)[:2]:
        arch = {d.label: op if "/op_" in d.label else 0 for d in space.decisions}
        check_same_bits(case, supernet, arch)
        if name == "triples":  # x + (a + a), where x + 2 a is rounded otherwise
            other = next(o for o in space.decisions[0].candidates if o != op)
            check_same_bits(case, supernet, arch | {"t/op_1_0": other, "t/op_2_0": other})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells", "distinct cells", "loose ends", "nested cell"])
def test_exchanged_slots_are_the_same_network(name: str) -> None:
    case = CASES[name]
    space, rng = case.space(), np.random.default_rng(0)
    supernet = Supernet(space)
    for _ in range(4):
        arch = space.sample(rng)
        swapped = dict(arch)
        for symmetry in space.decision_space.symmetries:
            for a, b in zip(symmetry.slots[0], symmetry.slots[1], strict=True):
                swapped[a], swapped[b] = arch[b], arch[a]
        assert swapped != arch or space.canonical(swapped) == arch
        assert space.canonical(swapped) == arch
        check_same_bits(case, supernet, swapped)
        supernet.eval().select(arch)
        expected = supernet(*case.example())
        for model in (supernet.freeze(swapped), supernet.freeze(arch)):
            assert torch.equal(model.eval()(*case.example()), expected)


def test_freezing_keeps_the_order_of_slots_a_user_wrote() -> None:
    """Published genotypes list slots in an order of their own; weights saved from such a model must load."""
    case = CASES["cells"]
    space = case.space()
    arch = space.default() | {
        "cell/op_2_0": "skip",
        "cell/input_2_0": 1,
        "cell/op_2_1": "conv3",
        "cell/input_2_1": 0,
    }
    for model in (space.freeze(arch), Supernet(space).freeze(arch)):
        first, second = model.cells[0].operations[0]
        assert isinstance(first, plain.Identity)
        assert isinstance(second, plain.Sequential)


@pytest.mark.slow
@EVERY_CASE
def test_in_single_precision_and_after_a_move(case: Case) -> None:
    space = case.space(torch.float64)
    supernet = Supernet(space).to(torch.float32)
    arch = architectures(space, 1)[1]
    supernet.select(arch)
    model = supernet.freeze(arch)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    example = case.example(torch.float32)
    supernet.eval()
    assert torch.equal(supernet(*example), model.eval()(*example))
    supernet.to(torch.float64)
    supernet(*case.example())


def test_weights_of_half_precision_features_do_not_promote_them() -> None:
    case = CASES["cells"]
    supernet = Supernet(case.space(torch.bfloat16))
    assert supernet(*case.example(torch.bfloat16)).dtype == torch.bfloat16
    supernet.set_mixture({"cell": torch.rand(supernet.groups["cell"].shape)})
    assert supernet(*case.example(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "channels", "is_channels_last"),
    [("AVX2", 2, False), ("AVX2", 7, False), ("AVX2", 8, True), ("AVX512", 2, True)],
)
def test_a_layout_that_corrupts_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capability: str, channels: int, is_channels_last: bool
) -> None:
    """Strided 1x1 convolutions on 2 to 7 channels keep a supernet out of channels_last without AVX-512."""

    class Strided(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.halve = plain.Conv2d(channels, 8, 1, stride=2)
            self.layer = LayerChoice([plain.Conv2d(8, 8, 3), plain.Conv2d(8, 8, 5)], label="layer")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    weight = Supernet(Strided()).network.layer.candidates[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == is_channels_last
