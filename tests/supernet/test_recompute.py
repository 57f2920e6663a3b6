"""Activation checkpointing: the same bits for less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from spacelang import Cell, ModelSpace, SpaceError, Supernet
from spacelang.hub.operations.cell_operations import make_operation
from spacelang.supernet import ExecutionName
from spacelang.supernet.native import library

from ..toys.spaces import Layers, random_mixture

EXECUTIONS = ["plain", "torch", *([] if library.why_not() else ["native"])]
Results = dict[str, Tensor]


class Net(ModelSpace):
    """Four cells one after the other."""

    def __init__(self) -> None:
        super().__init__()
        names = ("sep_conv_3x3", "max_pool_3x3", "skip_connect")
        candidates = {n: lambda node, op, source, n=n: make_operation(n, 4, 1, affine=False) for n in names}
        self.stem = nn.Conv2d(3, 4, 1)
        self.cells = nn.ModuleList(Cell(candidates, 2, num_predecessors=2, label="cell") for _ in range(4))
        self.narrow = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = after = self.stem(x)
        for cell in self.cells:
            before, after = after, self.narrow(cell(before, after))
        return after


def twins(execution: ExecutionName = "torch") -> tuple[Supernet, Supernet]:
    """A supernet and one that computes its cells again; an operation's outputs are dropped at random."""
    torch.manual_seed(0)
    space = Net().double()
    pair = Supernet(space, execution=execution), Supernet(space, execution=execution, checkpoint=True)
    for supernet in pair:
        supernet.set_transform(lambda _, y: nn.functional.dropout(y, 0.3), (nn.Identity,))
    return pair


def images() -> Tensor:
    """A batch, (2, 3, 6, 6)."""
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def results(supernet: Supernet, forward: Callable[[Tensor], Tensor] | None = None) -> Results:
    """Output, gradients, statistics and the state of torch's generator after a step."""
    torch.manual_seed(2)
    weights = random_mixture(supernet, 5)
    supernet.set_mixture(weights)
    output = (forward or supernet)(images())
    supernet.set_mixture({label: torch.zeros_like(w) for label, w in weights.items()})
    output.square().sum().backward()
    found = {"output": output.detach(), "generator": torch.get_rng_state()}
    found |= {f"mixture {label}": w.grad for label, w in weights.items()}
    found |= {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    return found | dict(supernet.named_buffers())


def check_equal(mine: Results, theirs: Results) -> None:
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_step_is_the_same_bit_for_bit(execution: ExecutionName) -> None:
    plain, again = twins(execution)
    check_equal(results(again), results(plain))
    assert {int(n) for name, n in again.named_buffers() if name.endswith("num_batches_tracked")} == {1}


def test_a_selected_architecture_is_its_frozen_model() -> None:
    _, again = twins()
    again.set_transform(None)
    arch = again.decision_space.default()
    frozen = again.freeze(arch)
    again.select(arch)
    torch.testing.assert_close(again(images()), frozen(images()), rtol=0, atol=0)


def test_the_weights_of_the_forward_pass_are_those_of_the_backward_pass() -> None:
    found = []
    for supernet in twins():
        others = {name: (0.9 * p).detach().requires_grad_() for name, p in supernet.named_parameters()}
        found.append(results(supernet, lambda x, s=supernet, w=others: functional_call(s, w, x)))
        found[-1] |= {name: w.grad for name, w in others.items() if w.grad is not None}
    check_equal(found[1], found[0])


def test_second_derivatives_are_the_same() -> None:
    found = []
    for supernet in twins():
        torch.manual_seed(2)
        weights = random_mixture(supernet, 5)
        supernet.set_mixture(weights)
        loss = supernet(images()).square().sum()
        first = torch.autograd.grad(loss, list(supernet.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(weights.values()))
        found.append({str(k): g for k, g in enumerate((*first, *second))})
    check_equal(found[1], found[0])


def test_forward_mode_derivatives_are_the_same() -> None:
    found = []
    for supernet in twins():
        torch.manual_seed(2)
        weights = random_mixture(supernet, 5)
        supernet.set_mixture(weights)
        with forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(p.detach(), p.detach()) for n, p in supernet.named_parameters()}
            loss = functional_call(supernet, duals, images()).square().sum()
            gradients = torch.autograd.grad(loss, list(weights.values()))
            found.append({str(k): forward_ad.unpack_dual(g).tangent for k, g in enumerate(gradients)})
    check_equal(found[1], found[0])


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_less_than_two_fifths_is_kept(execution: ExecutionName) -> None:
    def kept(supernet: Supernet) -> int:
        sizes: dict[int, tuple[Tensor, int]] = {}  # the tensors too: an address may be used again
        known = {p.untyped_storage().data_ptr() for p in supernet.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = tensor.detach(), storage.nbytes()
            return tensor

        supernet.set_mixture(random_mixture(supernet, 5))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            supernet(images())
        return sum(size for _, size in sizes.values())

    plain, again = map(kept, twins(execution))
    assert again < 0.4 * plain


def test_a_space_without_cells_is_refused() -> None:
    with pytest.raises(SpaceError, match="checkpoint=True computes cells again, and Layers has none"):
        Supernet(Layers(), checkpoint=True)
