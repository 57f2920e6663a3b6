"""The supernet against the plain edge-by-edge reference of the same mathematics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import Supernet
from spacelang.supernet import edge_by_edge

from ..toys.spaces import SOFT, Case, architectures, random_mixture, randomise_statistics

SOFT_CASE = pytest.mark.parametrize("case", SOFT.values(), ids=SOFT)
CELLS = {
    name: SOFT[name] for name in ("cells", "distinct cells", "soft loose ends", "triples", "nested cell")
}
CELL_CASE = pytest.mark.parametrize("case", CELLS.values(), ids=CELLS)


def pair(case: Case, **options: Any) -> tuple[Supernet, Supernet]:
    """The supernet and its reference, with equal weights and statistics."""
    supernet, reference = Supernet(case.space(), **options), edge_by_edge(case.space())
    randomise_statistics(supernet)
    # By name: where edges share a normalisation its statistics appear under the name of each.
    reference.load_state_dict(supernet.state_dict())
    return supernet, reference


def step(supernet: Supernet, case: Case, mixture: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything one step yields: output, all gradients and all running statistics, by name."""
    example = case.example(dtype)
    if example[0].dim() == 4:
        example = (example[0].contiguous(memory_format=torch.channels_last),)
    for x in example:
        x.requires_grad_(x.is_floating_point())
    supernet.zero_grad()
    supernet.set_mixture(mixture)
    output = supernet(*example)
    weights = torch.linspace(-1, 2, output.numel(), dtype=dtype).view(output.shape)
    (output * weights).sum().backward()
    results = {"output": output.detach(), "input gradient": example[0].grad}
    results |= {f"mixture gradient of {label}": w.grad for label, w in mixture.items()}
    for name, parameter in supernet.named_parameters(remove_duplicate=False):
        results[f"gradient of {name}"] = parameter.grad
    results |= dict(supernet.named_buffers(remove_duplicate=False))
    return {name: torch.zeros(()) if value is None else value.clone() for name, value in results.items()}


def check_equal(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.shape == b[name].shape, name
        scale = max(1.0, float(b[name].abs().max()) if b[name].numel() else 1.0)
        assert torch.allclose(value, b[name], rtol=0, atol=tolerance * scale), name


@pytest.mark.slow
@SOFT_CASE
@pytest.mark.parametrize("seed", range(2))
def test_outputs_gradients_and_statistics_are_those_of_the_reference(case: Case, seed: int) -> None:
    supernet, reference = pair(case)
    for k in range(2):  # the second step starts from the statistics the first left
        mine, theirs = random_mixture(supernet, seed + k), random_mixture(reference, seed + k)
        check_equal(step(supernet, case, mine, torch.float64), step(reference, case, theirs, torch.float64))
    supernet.eval()
    reference.eval()
    assert torch.allclose(supernet(*case.example()), reference(*case.example()), rtol=0, atol=1e-10)


@pytest.mark.slow
@SOFT_CASE
def test_single_precision_agrees_to_its_rounding(case: Case) -> None:
    supernet, reference = pair(case)
    supernet.float()
    reference.float()
    mine, theirs = random_mixture(supernet, 3), random_mixture(reference, 3)
    results = step(supernet, case, mine, torch.float32), step(reference, case, theirs, torch.float32)
    check_equal(*({"output": r["output"]} for r in results), tolerance=1e-4)
    check_equal(*results, tolerance=1e-3)


@pytest.mark.slow
@CELL_CASE
def test_with_pruned_candidates(case: Case) -> None:
    supernet, reference = pair(case)
    generator = torch.Generator().manual_seed(0)
    for network in (supernet, reference):
        alive = {}
        for label, group in network.groups.items():
            if group.topology is not None:
                kept = torch.rand(group.shape, generator=generator.manual_seed(len(label))) < 0.6
                kept[:, -1] = True
                alive[label] = kept.tolist()
        network.prune(alive)
    mine, theirs = random_mixture(supernet, 4), random_mixture(reference, 4)
    a = step(supernet, case, mine, torch.float64)
    b = step(reference, case, theirs, torch.float64)
    check_equal(a, b)
    for label, kept in alive.items():
        gradient = a[f"mixture gradient of {label}"]
        assert torch.equal(
            gradient[~torch.tensor(kept)], torch.zeros(int((~torch.tensor(kept)).sum())).double()
        )


@pytest.mark.slow
@CELL_CASE
def test_with_candidates_switched_off_from_the_host(case: Case) -> None:
    """What is not active is a weight of zero, computed without running it."""
    supernet, reference = pair(case)
    mine = {label: w.detach() for label, w in random_mixture(supernet, 5).items()}
    active = {
        label: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.7
        for label, w in mine.items()
    }
    for rows in active.values():
        rows[:, 0] = True
    zeroed = {label: w * active[label] for label, w in mine.items()}
    supernet.eval()
    reference.eval()
    supernet.set_mixture(mine, {label: rows.tolist() for label, rows in active.items()})
    reference.set_mixture(zeroed)
    assert torch.allclose(supernet(*case.example()), reference(*case.example()), rtol=0, atol=1e-10)


@pytest.mark.slow
@SOFT_CASE
@pytest.mark.parametrize("memory_format", [None, torch.channels_last])
def test_copies_of_a_supernet_are_independent(case: Case, memory_format: torch.memory_format | None) -> None:
    supernet, _ = pair(case, memory_format=memory_format)
    first, second = random_mixture(supernet, 6), random_mixture(supernet, 7)
    supernet.set_mixture({label: w.detach() for label, w in first.items()})
    supernet.eval()
    before = supernet(*case.example())
    twin = copy.deepcopy(supernet)
    assert torch.equal(twin(*case.example()), before)
    assert not {id(g) for g in twin.groups.values()} & {id(g) for g in supernet.groups.values()}
    mine = {p.data_ptr() for p in supernet.parameters() if p.numel()}
    assert mine.isdisjoint(p.data_ptr() for p in twin.parameters())
    twin.set_mixture({label: w.detach() for label, w in second.items()})
    assert not torch.equal(twin(*case.example()), before)
    assert torch.equal(supernet(*case.example()), before)
    check_equal(
        step(twin.train(), case, random_mixture(twin, 8), torch.float64),
        step(supernet.train(), case, random_mixture(supernet, 8), torch.float64),
    )
    arch = architectures(case.make(), 1)[1]
    twin.select(arch)
    twin.eval()
    assert torch.equal(twin(*case.example()), twin.freeze(arch).eval()(*case.example()))


@pytest.mark.slow
@CELL_CASE
def test_state_dicts_are_exchangeable(case: Case) -> None:
    supernet, reference = pair(case)
    names = set(reference.state_dict())
    assert set(supernet.state_dict()) == names
    again = Supernet(case.space(seed=9))
    again.load_state_dict(supernet.state_dict())
    assert torch.equal(again.eval()(*case.example()), supernet.eval()(*case.example()))


def test_equal_beginnings_run_once_per_node() -> None:
    """Of two edges that leave one node: one ReLU and one of each pooling, where the reference runs all."""
    case = SOFT["cells"]
    supernet, reference = pair(case)
    calls = {}
    for network in (supernet, reference):
        counts = {
            plain.ReLU: 0,
            plain.MaxPool2d: 0,
            plain.AvgPool2d: 0,
            plain.BatchNorm2d: 0,
            plain.Conv2d: 0,
        }

        def count(module: plain.Module, inputs: Any, output: Any, counts: dict[Any, int] = counts) -> None:
            if type(module) in counts:
                counts[type(module)] += 1

        hook = plain.modules.module.register_module_forward_hook(count)
        try:
            network(*case.example())
        finally:
            hook.remove()
        calls[network] = counts
    edges, cells, nodes = 2 + 3, 2, 3  # node 2 reads 0, 1; node 3 reads 0, 1, 2: three nodes are read
    assert calls[reference] == {
        plain.ReLU: 2 * edges * cells,
        plain.MaxPool2d: edges * cells,
        plain.AvgPool2d: edges * cells,
        plain.BatchNorm2d: 4 * edges * cells,
        plain.Conv2d: 2 * edges * cells + 1,
    }
    assert calls[supernet] == {
        plain.ReLU: nodes * cells,
        plain.MaxPool2d: nodes * cells,
        plain.AvgPool2d: nodes * cells,
        plain.BatchNorm2d: (2 * edges + 2 * nodes) * cells,
        plain.Conv2d: 2 * edges * cells + 1,
    }


class Loud(plain.ReLU):
    """A subclass may compute anything: it is not shared."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Loud.calls += 1
        return super().forward(x)


def test_what_may_differ_is_not_shared() -> None:
    from spacelang.supernet.mixed_cell import split

    def shared(*modules: plain.Module) -> int:
        return len(split(plain.Sequential(*modules)).shared)

    assert (
        shared(plain.ReLU(), plain.MaxPool2d(3), plain.BatchNorm2d(2, affine=False), plain.Conv2d(2, 2, 1))
        == 3
    )
    assert shared(plain.BatchNorm2d(2), plain.ReLU()) == 0
    assert shared(plain.ReLU(inplace=True)) == 0
    assert shared(Loud()) == 0
    assert shared(plain.Dropout()) == 0
    hooked = plain.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    assert shared(hooked, plain.ReLU()) == 0

    class Backwards(plain.Sequential):
        pass

    assert not split(Backwards(plain.ReLU())).shared
    two, three = (split(plain.Sequential(plain.MaxPool2d(k))).shared[0][0] for k in (2, 3))
    assert two != three
