"""Plans of cells and their executions: native and PyTorch against the plain form of the same mathematics."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spacelang import Cell, ModelSpace, SpaceError, Supernet
from spacelang.hub import DARTS as DartsSpace
from spacelang.hub.operations.cell_operations import DropPath, make_operation
from spacelang.supernet import Execution, ExecutionName, edge_by_edge, joined
from spacelang.supernet.bundle_torch import grouped, stacks
from spacelang.supernet.bundles import Bundle, ByKernels, Wiring, reference
from spacelang.supernet.native import library
from spacelang.supernet.native import operators as native

from ..toys.spaces import random_mixture, randomise_statistics

SEPARABLE = (
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "dil_sep_conv_3x3",
)
# Kernel, dilation, and whether the block has the bundle's stride: two of each but the last two.
SHAPES = (
    *((3, 1, 1), (3, 1, 0), (5, 2, 1), (3, 2, 1)),
    *((3, 1, 1), (3, 1, 0), (5, 2, 1), (7, 1, 1)),
)
OTHERS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "conv_1x1", "none")


@pytest.fixture
def compiler() -> None:
    """Skip a test of native kernels where they cannot be compiled."""
    if reason := library.why_not():
        pytest.skip(reason)


NATIVE = pytest.mark.usefixtures("compiler")


class EveryThird(DropPath):
    """Drop path that drops every third sample, so that all executions drop the same ones."""

    def __init__(self, p: float, first: int) -> None:
        super().__init__(p)
        self.first = first

    def mask(self, x: Tensor) -> Tensor | None:
        kept = (torch.arange(len(x)) + self.first) % 3 > 0
        return kept.to(x).view(-1, 1, 1, 1) if self.training else None


class OneCell(ModelSpace):
    """A cell of operations of the hub on feature maps of `channels` channels; `drop_path` is a rate."""

    def __init__(
        self,
        operations: tuple[str, ...],
        nodes: int,
        channels: int,
        stride: int,
        inputs: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()

        def operation(name: str, node: int, source: int) -> nn.Module:
            made = make_operation(name, channels, stride if source < inputs else 1, affine=False)
            if not drop_path or not isinstance(made, nn.Sequential):
                return made
            return nn.Sequential(*made, EveryThird(drop_path, node + source))

        def factory(name: str) -> Any:
            return lambda node, op, source: operation(name, node, source)

        candidates = {name: factory(name) for name in operations}
        self.inputs = inputs
        self.cell = Cell(candidates, nodes, num_predecessors=inputs, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell([x, x.tanh()][: self.inputs])  # type: ignore[no-any-return]


def results(supernet: Supernet, x: Tensor, weights: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Output, gradients and statistics of a step with a mixture."""
    supernet.set_mixture(weights, **options)
    return step_results(supernet, x, weights)


def step_results(supernet: Supernet, x: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    supernet.zero_grad()
    output = supernet(x)
    factors = torch.linspace(-1, 2, output.numel(), dtype=x.dtype).view(output.shape)
    (output * factors).sum().backward()
    found = {"output": output.detach(), "x": x.grad} | {f"mixture {k}": w.grad for k, w in weights.items()}
    found |= {name: p.grad for name, p in supernet.named_parameters(remove_duplicate=False)}
    found |= dict(supernet.named_buffers(remove_duplicate=False))
    zero = torch.zeros((), dtype=x.dtype)
    return {name: zero if v is None else v.clone() for name, v in found.items()}


def check_close(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        assert torch.allclose(mine[name], value, rtol=0, atol=tolerance * scale), name


def twins(
    space: ModelSpace, execution: ExecutionName = "native", **options: Any
) -> tuple[Supernet, Supernet]:
    """A supernet and its plain form, equal in weights and statistics."""
    supernet, plain = Supernet(space, execution=execution, **options), edge_by_edge(space)
    with torch.random.fork_rng():
        randomise_statistics(supernet)
    plain.load_state_dict(supernet.state_dict())
    return supernet.double(), plain.double()


@NATIVE
@pytest.mark.parametrize("execution", ["torch", "native"])
def test_statistics_that_differ_stay_apart_in_a_mixture(execution: ExecutionName) -> None:
    """In a space that was trained, edges of one node have normalisations of their own after equal pools."""
    space = OneCell(("max_pool_3x3", "avg_pool_3x3", "conv_1x1"), 2, 8, 1, 2).double()
    randomise_statistics(space)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    supernet, plain = Supernet(space, execution=execution), edge_by_edge(space)
    for training in (True, False):
        weights = [random_mixture(network.train(training), 0) for network in (supernet, plain)]
        check_close(results(supernet, x, weights[0]), results(plain, x, weights[1]))


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_random_cells_are_those_of_the_plain_form(count: int) -> None:
    """In double precision; in single precision native kernels are as near to it as the torch execution is."""
    ratios: list[float] = []

    @settings(phases=[Phase.generate], max_examples=count, derandomize=True)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        errors = errors_of_random_cell(data)
        if errors.get("native") and errors["torch"]:
            ratios.append(errors["native"] / errors["torch"])

    check()
    assert not ratios or geometric_mean(ratios) <= 1.25  # of ten cells; single ones differ by half


def errors_of_random_cell(data: st.DataObject) -> dict[str, float]:
    """Compare a cell's executions with the plain form in double precision; return their errors in single."""
    pick = data.draw
    operations = tuple(
        pick(st.lists(st.sampled_from(SEPARABLE + OTHERS), min_size=1, max_size=5, unique=True), "operations")
    )
    inputs, nodes = pick(st.integers(1, 2), "inputs"), pick(st.integers(1, 3), "nodes")
    stride, channels = (
        pick(st.sampled_from([1, 1, 2]), "stride"),
        2 * pick(st.integers(1, 5), "half channels"),
    )
    size = pick(st.integers(3, 9), "height"), pick(st.integers(3, 9), "width")
    torch.manual_seed(pick(st.integers(0, 99), "seed"))
    space = OneCell(operations, nodes, channels, stride, inputs, pick(st.sampled_from([0.0, 0.3]), "drop"))
    names: list[ExecutionName] = ["torch"] if library.why_not() else ["torch", "native"]
    networks = {"plain": edge_by_edge(space)}
    networks |= {name: Supernet(space, execution=name, memory_format=None) for name in names}
    plain, shared = networks["plain"], networks["torch"]
    randomise_statistics(shared)  # in which edges share the statistics of pools
    group = plain.groups["cell"]
    if pick(st.booleans(), "prune"):
        kept = torch.rand(group.shape) < 0.7
        kept[:, pick(st.integers(0, len(operations) - 1), "kept column")] = True
        for network in networks.values():
            network.prune({"cell": kept.tolist()})
    for network in networks.values():
        network.load_state_dict(shared.state_dict())
    options: dict[str, Any] = {}
    if pick(st.booleans(), "some run"):  # dropout of edges or operations, or a sampled path
        runs = torch.rand(group.shape) < 0.5
        alive = torch.tensor(group.alive)
        runs |= alive & (torch.arange(len(operations)) == alive.int().argmax(dim=1, keepdim=True))
        options["active"] = {"cell": runs.tolist()}
    if pick(st.booleans(), "weights of edges"):
        options["edges"] = {"cell": torch.rand(len(group.rows))}
    if pick(st.booleans(), "silent"):
        options["silent"] = {"cell": (torch.rand(group.shape) < 0.5).tolist()}
    training, threads = pick(st.booleans(), "training"), pick(st.sampled_from([1, 2]), "threads")
    x = torch.randn(pick(st.integers(2, 3), "batch"), channels, *size)

    def run(network: Supernet, dtype: torch.dtype) -> dict[str, Tensor]:
        twin = copy.deepcopy(network).to(dtype).train(training)
        mixture = {k: w.detach().float().to(dtype).requires_grad_() for k, w in mixtures.items()}
        edges = {k: w.to(dtype) for k, w in options.get("edges", {}).items()} or None
        return results(twin, x.to(dtype), mixture, **options | {"edges": edges})

    mixtures, before = random_mixture(plain, 5), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact = {name: run(network, torch.float64) for name, network in networks.items()}
        single = {name: run(networks[name], torch.float32) for name in names}
    finally:
        torch.set_num_threads(before)
    if "active" in options:  # edges share a pool's statistics, also those where it does not run
        pools = [k for k, name in enumerate(operations) if "pool" in name]
        hidden = tuple(f"edges.{r}.{k}.1." for r in range(len(group.rows)) for k in pools)
        exact = {
            name: {n: t for n, t in found.items() if not any(part in n for part in hidden)}
            for name, found in exact.items()
        }
    truth = exact["plain"]
    for name in names:
        check_close(exact[name], truth)
    return {name: error(single[name], truth) for name in names}


def error(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The sum of the errors of all tensors in single precision, each relative to its size."""
    real = {name: t for name, t in truth.items() if t.numel() and t.is_floating_point()}
    return sum(float((found[name].double() - t).norm() / (1 + t.norm())) for name, t in real.items())


def test_drop_path_runs_in_bundles_and_scales_samples() -> None:
    supernet = Supernet(DartsSpace(4, 3, "cifar", drop_path_prob=0.3), execution="torch")
    apart = [line for line in supernet.plan.splitlines() if line.startswith("  apart")]
    assert all(line.startswith("  apart   skip_connect: ") for line in apart)  # with stride 2
    drop, x = DropPath(0.3), torch.randn(5, 2, 3, 3)
    torch.manual_seed(0)
    dropped = drop(x)
    torch.manual_seed(0)
    factors = drop.sample_factors(x)
    assert factors is not None
    assert torch.allclose(factors * x, dropped, rtol=1e-6, atol=0)
    assert drop.eval().sample_factors(x) is None


@pytest.mark.parametrize(("bytes_joined", "pooled"), [(0, False), (2**23, False), (0, True)])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("of_batch", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_bundles_have_the_derivatives_of_their_reference(
    stride: int,
    of_batch: bool,
    per_sample: bool,
    bytes_joined: int,
    pooled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs, first and second derivatives; chains of one shape joined or not, strides, one silent chain."""
    monkeypatch.setattr(stacks, "JOINED_BYTES", bytes_joined)
    pools = ((3, stride, True), (3, stride, False), (5, stride, True)) if pooled else ()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    wiring = Wiring(
        edges=2,
        features=1 + len(pools),
        edge_of=(0, 0, 0, 1, 1, 1),
        silent=(False, False, False, False, True, False),
        starts=(0, 2, 3, 4, 6, 7, 8),
        shapes=tuple((k, d, stride if s else 1) for k, d, s in SHAPES),
        pools=pools,
        eps=(1e-5,) * (len(SHAPES) + len(pools)),
    )
    x, mix = draw(2, 3, 7, 6), draw(6 + 2 * wiring.features, 2 if per_sample else 1)
    feature = draw(2, 3, -(-7 // stride), -(-6 // stride))
    weights = [w for k, _, _ in wiring.shapes for w in (draw(3, 1, k, k), draw(3, 3, 1, 1))]
    running = [t.detach().abs() for _ in wiring.eps for t in (draw(3), draw(3))]
    inputs = [x, feature, mix, *weights]
    # The feature depends on x, as pools and the identity do.
    given = [feature * x.tanh()[:, :, ::stride, ::stride]]
    bundle = Bundle(wiring, of_batch, x, mix, given, weights, running)
    engines: list[Any] = [joined, *([] if library.why_not() else [ByKernels(native)])]
    engines += [] if pools else [ByKernels(grouped)]
    found: list[list[Tensor]] = []
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    silent = [15, 16]  # weights of the seventh block, the fifth chain
    for engine in (None, *engines):
        for twice in (False, True):
            outs = reference(bundle) if engine is None else engine.compute(bundle)[0]
            losses = [out.sin().sum() for out in outs]
            gradients = torch.autograd.grad(losses, inputs, create_graph=twice, **options)
            assert [i for i, g in enumerate(gradients) if g is None] == silent
            found.append([*outs, *(g for g in gradients if g is not None)])
        seconds = [g.square().sum() for g in gradients if g is not None and g.requires_grad]
        found[-1] += [g for g in torch.autograd.grad(seconds, inputs, **options) if g is not None]
    for i, mine in enumerate(found[2:]):
        for a, b in zip(mine, found[i % 2], strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-10 * float(b.detach().abs().max() + 1e-300))


@NATIVE
def test_single_precision_is_as_near_to_double_as_the_plain_form_is() -> None:
    torch.manual_seed(0)
    space = OneCell((*SEPARABLE, "max_pool_3x3", "skip_connect"), 2, 16, 1, 2)
    x, errors = torch.randn(4, 16, 16, 16), {}
    exact = edge_by_edge(space).double()
    truth = results(exact, x.double(), random_mixture(exact, 1))
    for name in ("native", "torch", "plain"):
        supernet = Supernet(space, execution=name)  # type: ignore[arg-type]
        mixture = {k: w.detach().float().requires_grad_() for k, w in random_mixture(exact, 1).items()}
        found = results(supernet, x, mixture)
        errors[name] = error(found, truth)
    assert errors["native"] <= 1.5 * errors["plain"], errors
    assert errors["torch"] <= 2 * errors["plain"], errors


@pytest.mark.parametrize("name", ["torch", "auto"])
def test_accumulated_and_clipped_steps_are_those_of_the_plain_form(name: ExecutionName) -> None:
    torch.manual_seed(0)
    space = OneCell((*SEPARABLE[:2], "max_pool_3x3", "skip_connect"), 2, 4, 1, 2, drop_path=0.3)
    batches, ends = torch.randn(4, 3, 4, 6, 6, dtype=torch.float64), []
    for network in twins(space, name):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for i, x in enumerate(batches):
            network.set_mixture({k: w.detach() for k, w in random_mixture(network, i).items()})
            network(x).square().mean().backward()
            if i % 2:
                nn.utils.clip_grad_norm_(network.parameters(), 0.01)
                optimizer.step()
                optimizer.zero_grad()
        ends.append(dict(network.state_dict()))
    check_close(*ends)


@NATIVE
def test_a_selected_architecture_is_its_frozen_model_bit_for_bit() -> None:
    torch.manual_seed(0)
    supernet, _ = twins(OneCell(("sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3"), 2, 6, 1, 2))
    arch = supernet.decision_space.default()
    supernet.select(arch)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    assert torch.equal(supernet(x), supernet.freeze(arch)(x))


@NATIVE
@pytest.mark.parametrize("training", [True, False])
def test_a_path_that_need_not_be_exact_runs_in_kernels(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = native.forward
    monkeypatch.setattr(native, "forward", lambda bundle: calls.append(bundle) or forward(bundle))
    torch.manual_seed(0)
    space = OneCell(("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "skip_connect"), 3, 6, 1, 2)
    supernet, _ = twins(space)
    modules = copy.deepcopy(supernet.train(training))
    rng = np.random.default_rng(0)
    archs = [supernet.decision_space.sample(rng) for _ in range(4)]
    # One operation in two slots.
    twice = {name: 0 if "input" in name else "sep_conv_3x3" for name in archs[0]}
    x = torch.randn(3, 6, 5, 6, dtype=torch.float64)
    for arch in (*archs, twice):
        supernet.select(arch, exact=False)
        found = step_results(supernet, x, {})
        before = len(calls)
        modules.select(arch)
        check_close(found, step_results(modules, x, {}))
        assert len(calls) == before
    assert len(calls) >= len(archs)


def test_the_plan_says_how_each_candidate_runs_and_why() -> None:
    space = OneCell(("sep_conv_3x3", "max_pool_3x3", "conv_1x1", "none"), 1, 4, 1, 1)
    supernet = Supernet(space, execution="torch")
    assert supernet.plan.splitlines() == [
        "execution: torch",
        "cell:",
        "  bundle  sep_conv_3x3: 0 -> 1",
        "  shared  max_pool_3x3: 0 -> 1",
        "  apart   conv_1x1: 0 -> 1 (it is not made of ReLU, depthwise convolution, 1x1 convolution and "
        "batch norm)",
        "  apart   none: 0 -> 1 (it is a Zero)",
    ]


@NATIVE
def test_native_bundles_compute_pools_unless_another_candidate_begins_with_them() -> None:
    """Running statistics of a pool that several share move once a step."""
    torch.manual_seed(0)
    space = OneCell(("sep_conv_3x3", "max_pool_3x3", "avg_pool_3x3"), 2, 4, 1, 1, drop_path=0.3)
    longer = nn.Sequential(*make_operation("avg_pool_3x3", 4, 1, affine=False).children(), nn.Tanh())
    space.cell.edges[0][2] = longer
    supernet, plain = twins(space)
    lines = supernet.plan.splitlines()[2:]
    assert lines[:3] == [
        "  bundle  sep_conv_3x3: 0 -> 1, 2",
        "  bundle  max_pool_3x3: 0 -> 1, 2",
        "  bundle  avg_pool_3x3: 0 -> 2",
    ]
    assert lines[3].startswith("  apart   avg_pool_3x3: 0 -> 1 ")
    x = torch.randn(4, 4, 5, 6, dtype=torch.float64)
    check_close(*[results(network, x, random_mixture(network, 1)) for network in (supernet, plain)])


def test_pruning_compiles_the_plan_again() -> None:
    supernet = Supernet(OneCell(("sep_conv_3x3", "dil_conv_3x3"), 2, 4, 1, 1))
    supernet.prune({"cell": [[True, False], [True, True], [False, True]]})
    assert supernet.plan.splitlines()[1:] == [
        "cell:",
        "  bundle  sep_conv_3x3: 0 -> 1, 2",
        "  bundle  dil_conv_3x3: 0 -> 2",
        "  bundle  dil_conv_3x3: 1 -> 2",
    ]


@NATIVE
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda op: op[1].register_forward_hook(lambda *_: None), "a hook is registered on it"),
        (lambda op: setattr(op, "3", nn.BatchNorm2d(4)), "its normalisation is not a batch norm without"),
        (lambda op: setattr(op, "2", nn.Conv2d(4, 4, 1)), "its convolutions have a bias"),
        (lambda op: setattr(op, "1", nn.Conv2d(4, 4, 3, padding=1, bias=False)), "is not depthwise"),
        (lambda op: setattr(op, "1", nn.Conv2d(4, 4, 2, groups=4, bias=False)), "its kernel is not odd"),
    ],
)
def test_what_is_not_a_block_runs_apart_and_is_computed_the_same(change: Any, reason: str) -> None:
    torch.manual_seed(0)
    space = OneCell(("sep_conv_3x3", "dil_conv_3x3"), 1, 4, 1, 1)
    change(space.cell.edges[0][0])
    supernet = Supernet(space, execution="native")
    (line,) = [line for line in supernet.plan.splitlines() if "apart" in line]
    assert line.startswith("  apart   sep_conv_3x3: 0 -> 1 (")
    assert reason in line


@pytest.mark.parametrize(("column", "inside"), [(0, False), (0, True), (2, False)])
def test_a_hook_registered_after_the_first_step_sees_every_call_until_it_is_removed(
    column: int, inside: bool
) -> None:
    torch.manual_seed(0)
    supernet, plain = twins(OneCell(("sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3"), 2, 4, 1, 1), "torch")
    x, found, calls = torch.randn(2, 4, 5, 5, dtype=torch.float64), [], []
    for network in (supernet, plain):
        steps = [results(network, x, random_mixture(network, 1))]
        operation = network.network.cell.edges[0][column]
        hooked = operation[-1] if inside else operation
        hook = hooked.register_forward_hook(lambda *_: calls.append(None))
        steps.append(results(network, x, random_mixture(network, 2)))
        hook.remove()
        steps.append(results(network, x, random_mixture(network, 3)))
        found.append(steps)
        assert len(calls) == len(found)
    for mine, theirs in zip(*found, strict=True):
        check_close(mine, theirs)


@NATIVE
def test_bundles_fall_back_where_they_do_not_fit() -> None:
    """Half precision, one value a channel, mixed training modes: as PyTorch does it, errors included."""
    torch.manual_seed(0)
    supernet, plain = twins(OneCell(("sep_conv_3x3", "dil_conv_3x3"), 1, 4, 1, 1))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for network in (supernet, plain):
        network.network.cell.edges[0][1][3].eval()
    check_close(*[results(n, x, random_mixture(n, 2)) for n in (supernet, plain)])
    with pytest.raises(ValueError, match="more than 1 value"):
        supernet.train()(x[:1, :, :1, :1])
    half = supernet.to(torch.bfloat16)
    half.set_mixture({"cell": torch.ones(1, 2)})
    assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16


@NATIVE
def test_a_step_of_a_native_supernet_compiles_to_one_graph() -> None:
    torch.manual_seed(0)
    supernet = Supernet(OneCell(("sep_conv_3x3", "max_pool_3x3"), 1, 4, 1, 1), execution="native")
    compiled = torch.compile(supernet, backend="aot_eager", fullgraph=True)
    x, found = torch.randn(2, 4, 5, 5), []
    supernet.eval()(x)  # makes the kernels and the wiring
    supernet.train()
    for network in (supernet, compiled):
        supernet.zero_grad()
        network(x).square().sum().backward()
        found.append([p.grad.clone() for p in supernet.parameters() if p.grad is not None])
    assert len(found[0]) == 4
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


@NATIVE
@pytest.mark.parametrize(("of", "bundles"), [((nn.Identity,), 1), ((nn.Module,), 0)])
def test_candidates_whose_outputs_are_transformed_run_apart(
    of: tuple[type[nn.Module], ...], bundles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    supernet, plain = twins(OneCell(("sep_conv_3x3", "dil_conv_3x3", "skip_connect"), 1, 4, 1, 1))
    calls, found, forward = [], [], native.forward
    monkeypatch.setattr(native, "forward", lambda *args: calls.append(args) or forward(*args))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for network in (supernet, plain):
        network.set_transform(lambda candidate, output: 3 * output, of)
        found.append(results(network, x, random_mixture(network, 1)))
    check_close(*found)
    assert len(calls) == bundles


@NATIVE
def test_a_copy_runs_in_the_same_way() -> None:
    torch.manual_seed(0)
    supernet, _ = twins(OneCell(("sep_conv_3x3", "dil_conv_3x3"), 2, 4, 1, 1))
    twin = copy.deepcopy(supernet)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    mine, theirs = (
        results(supernet, x, random_mixture(supernet, 1)),
        results(twin, x, random_mixture(twin, 1)),
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@NATIVE
def test_an_execution_can_be_changed() -> None:
    torch.manual_seed(0)
    supernet, plain = twins(OneCell(("sep_conv_3x3", "max_pool_3x3"), 2, 4, 1, 2))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    theirs = results(plain, x, random_mixture(plain, 1))
    for name in ("plain", "torch", "native"):
        supernet.load_state_dict(supernet.state_dict() | {})
        twin = copy.deepcopy(supernet)
        twin.execute(name)  # type: ignore[arg-type]
        check_close(results(twin, x, random_mixture(twin, 1)), theirs)


@pytest.mark.parametrize("name", ["torch", "auto"])
def test_bundles_keep_the_layout_of_the_supernet(name: Any) -> None:
    """A sum in channels_last would lead to strided 1x1 convolutions with which PyTorch corrupts memory."""
    supernet = Supernet(DartsSpace(2, 3, "cifar"), memory_format=None, execution=name)
    seen: list[bool] = []
    for child in supernet.network.modules():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and child.stride == (2, 2):
            child.register_forward_pre_hook(lambda _, args: seen.append(args[0].stride(-1) == 1))
    supernet.set_mixture(random_mixture(supernet, 1))
    supernet(torch.randn(2, 3, 8, 8))
    assert seen
    assert all(seen)


def test_unknown_executions_are_named() -> None:
    with pytest.raises(SpaceError, match=r"'nativ'.*Closest: 'native'"):
        Supernet(DartsSpace(4, 3, "cifar"), execution="nativ")  # type: ignore[arg-type]


WITHOUT_COMPILER = """
import sys, warnings
from spacelang import SpaceError, Supernet
from spacelang.hub import DARTS
import torch
space = DARTS(4, 3, "cifar")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    supernet = Supernet(space)
    supernet(torch.randn(2, 3, 8, 8))
    supernet(torch.randn(2, 3, 8, 8))
print([str(w.message) for w in caught if "native" in str(w.message)])
try:
    Supernet(space, execution="native")
except SpaceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("", "no C++ compiler was found"),
        ("false", "false could not build them"),
        ("no-such", "no-such could not"),
    ],
)
def test_without_a_compiler_pytorch_alone_computes_and_says_so(
    compiler: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", "")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    warned, refused = done.stdout.splitlines()
    assert warned.count("native kernels are not available") == 1
    assert reason in warned
    assert refused.startswith('execution="native" is not possible here: ')
    assert refused.endswith('. Use execution="torch".')


def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path))
    commands: list[list[str]] = []

    def run(command: list[str]) -> bytes:
        commands.append(command)
        if "-o" in command:
            Path(command[-1]).write_bytes(b"a library")
        return b"macros"

    monkeypatch.setattr(library, "_run", run)
    first, second = library._built("g++"), library._built("g++")
    assert first == second
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert sum("-o" in command for command in commands) == 1


@NATIVE
def test_only_native_kernels_compute_paths() -> None:
    x, layout = torch.zeros(1, 4, 2, 2), torch.contiguous_format
    resolved = {name: Execution(name).resolved(layout) for name in ("plain", "torch", "native")}
    paths = {name: each.engine(x, is_path=True) for name, each in resolved.items()}
    assert paths == {"plain": None, "torch": None, "native": ByKernels(native)}
    with torch.autocast("cpu"):
        assert resolved["native"].engine(x, is_path=True) is None
        assert resolved["native"].engine(x, is_path=False) is joined


def test_a_compiler_without_openmp_compiles_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path))

    def run(command: list[str]) -> bytes:
        if "-fopenmp" in command:
            raise subprocess.CalledProcessError(1, command, stderr=b"unsupported option '-fopenmp'")
        if "-o" in command:
            Path(command[-1]).write_bytes(b"a library")
        return b"macros"

    monkeypatch.setattr(library, "_run", run)
    assert library._built("c++").read_bytes() == b"a library"


@NATIVE
def test_threads_share_the_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three threads adds its part of the gradients: the sums of one thread, but for rounding."""
    supernet, _ = twins(OneCell(("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3"), 2, 6, 1, 2))
    x, found = torch.randn(2, 6, 5, 5, dtype=torch.float64), []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        found.append(results(copy.deepcopy(supernet), x, random_mixture(supernet, 1)))
    check_close(*found)


@pytest.mark.parametrize("name", ["bundle.cpp", "products.hpp"])
def test_a_changed_source_is_compiled_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACELANG_CACHE", str(tmp_path / "cache"))
    sources = shutil.copytree(library.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(library, "SOURCES", sources)
    monkeypatch.setattr(library, "_run", lambda command: Path(command[-1]).touch() or b"macros")
    first = library._built("g++")
    (sources / name).write_text("// changed")
    assert library._built("g++") != first
