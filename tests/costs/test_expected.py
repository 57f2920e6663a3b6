"""Expected costs: against frozen models, enumeration and finite differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    Repeat,
    SpaceError,
    Supernet,
    hub,
    nn,
    value_choice,
)
from spacelang.costs import ExpectedCost, expected_cost, measure_latency, profile
from spacelang.language import CellTopology, Subset

from ..toys.spaces import CASES, Gate, architectures
from .tables import Tables, one_hot

pytestmark = pytest.mark.slow

PRICED = {name: case for name, case in CASES.items() if name != "custom"}


def true_cost(space: ModelSpace, metric: str, arch: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> int:
    model = space.freeze(arch)
    return sum(p.numel() for p in model.parameters()) if metric == "params" else profile(model, inputs).flops


def random_tables(space: ModelSpace, seed: int = 0) -> Tables:
    """Random probabilities, rows of cells that sum to less than one included."""
    generator = torch.Generator().manual_seed(seed)
    tables = {}
    for label, group in Supernet(space).groups.items():
        table = torch.rand(group.shape, generator=generator, dtype=torch.float64) + 0.1
        if not isinstance(group.decisions[0], Subset):
            table /= table.sum(1, keepdim=True) * (1.25 if group.topology else 1)
        tables[label] = table
    return tables


def metric_of(name: str, space: ModelSpace, inputs: tuple[Tensor, ...]) -> Any:
    """The metric, or a table with a random number for every key and every input of a choice."""
    if name != "latency":
        return name
    rng = np.random.default_rng(0)
    keys = list(measure_latency(space, inputs, repeats=1, warmup=0).milliseconds)
    keys += [
        f"{m.label}/{i}" for m in space.modules() if isinstance(m, InputChoice) for i in range(m.n_candidates)
    ]
    return {key: float(rng.random() + 0.1) for key in keys}


@pytest.mark.parametrize("metric", ["params", "flops"])
@pytest.mark.parametrize("name", PRICED)
def test_exact_for_every_architecture(name: str, metric: str) -> None:
    case = PRICED[name]
    space, inputs = case.space(), case.example()
    cost, supernet = expected_cost(space, metric, inputs), Supernet(space)
    has_cells = any(isinstance(module, Cell) for module in space.modules())
    for arch in architectures(space, 12):
        wanted = true_cost(space, metric, arch, inputs)
        assert cost.of(arch) == wanted
        if not has_cells:
            assert cost(one_hot(supernet, arch)).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("metric", ["params", "flops", "latency"])
@pytest.mark.parametrize("name", PRICED)
def test_gradient_is_the_finite_difference(name: str, metric: str) -> None:
    case = PRICED[name]
    space, inputs = case.space(), case.example()
    cost = expected_cost(space, metric_of(metric, space, inputs), inputs)
    tables = {label: table.requires_grad_() for label, table in random_tables(space).items()}
    if not cost.labels:  # an input or an activation costs nothing, unless a table says so
        free = itertools.product(("inputs", "hard inputs", "recurrent"), ("params", "flops"))
        assert (name, metric) in free
        return
    gradients = torch.autograd.grad(cost(tables), [tables[label] for label in cost.labels])
    for label, gradient in zip(cost.labels, gradients, strict=True):
        assert gradient.abs().sum() > 0, label
        for index in np.ndindex(*gradient.shape):
            assert gradient[index].item() == pytest.approx(difference(cost, tables, label, index), rel=1e-6)


def difference(cost: ExpectedCost, tables: Tables, label: str, index: tuple[int, ...]) -> float:
    step = torch.zeros_like(tables[label])
    step[index] = 1e-4
    with torch.no_grad():
        ahead, behind = (cost({**tables, label: tables[label] + s}) for s in (step, -step))
    return float(ahead - behind) / 2e-4 + 0.0


def test_every_kind_of_choice_is_steered() -> None:
    """Layer, input, depth, value and cell: each has a gradient under some metric."""
    for name, metric, labels in [
        ("layers", "params", ["outer", "inner", "layer_1", "a", "b", "c"]),
        ("inputs", "latency", ["one", "two", "mean", "any_sum", "any_mean"]),
        ("depths", "flops", ["depth", "copies", "half", "depth_2", "out"]),
        ("values", "flops", ["width", "kernel", "ratio", "groups"]),
        ("cells", "params", ["cell"]),
    ]:
        space, inputs = CASES[name].space(), CASES[name].example()
        cost = expected_cost(space, metric_of(metric, space, inputs), inputs)
        assert set(labels) <= set(cost.labels)


# -- against enumeration ---------------------------------------------------------------------------------


def weighted_architectures(space: ModelSpace, tables: Tables) -> Iterator[tuple[float, dict[str, Any]]]:
    """Every assignment of values with its probability: independent decisions, uniform inputs in cells."""
    cells = [module.topology for module in space.modules() if isinstance(module, Cell)]
    in_cells = {d.label for cell in cells for d in cell.decisions()}
    alone = [d for d in space.decisions if d.label not in in_cells]
    factors: list[list[tuple[float, dict[str, Any]]]] = [
        [(float(tables[d.label][0, k]), {d.label: v}) for k, v in enumerate(d.values())] for d in alone
    ]
    for cell in {cell.label: cell for cell in cells}.values():
        factors += [weighted_node(cell, node, tables[cell.label]) for node in cell.nodes]
    for parts in itertools.product(*factors):
        yield math.prod(p for p, _ in parts), {k: v for _, values in parts for k, v in values.items()}


def weighted_node(cell: CellTopology, node: int, table: Tensor) -> list[tuple[float, dict[str, Any]]]:
    pick = itertools.permutations if cell.distinct_inputs else lambda r, n: itertools.product(r, repeat=n)
    inputs = list(pick(range(node), cell.num_ops_per_node))
    found = []
    for sources in inputs:
        for ops in itertools.product(range(len(cell.operations)), repeat=cell.num_ops_per_node):
            rows = [cell.rows_into(node)[source] for source in sources]
            p = math.prod(float(table[row, k]) for row, k in zip(rows, ops, strict=True)) / len(inputs)
            arch: dict[str, Any] = {}
            for slot, (source, k) in enumerate(zip(sources, ops, strict=True)):
                arch |= {cell.op(node, slot).label: cell.operations[k], cell.input(node, slot).label: source}
            found.append((p, arch))
    return found


class Ends(ModelSpace):
    """A loose-end cell whose head is as wide as its output, and a choice in one of its operations."""

    def __init__(self, distinct_inputs: bool = False) -> None:
        super().__init__()
        inner = LayerChoice([plain.Linear(3, 3), plain.Identity()], label="inner")
        operations = {"linear": plain.Linear(3, 3, bias=False), "deep": plain.Sequential(plain.ReLU(), inner)}
        self.cell = Cell(
            operations, 2, 2, 2, "loose_end", concat_dim=-1, label="cell", distinct_inputs=distinct_inputs
        )
        self.head = nn.Linear(self.cell.num_outputs * 3, value_choice([1, 4], label="width"))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, x))


ENUMERATED = {
    "layers": (CASES["layers"].space, CASES["layers"].example),
    "attention": (CASES["attention"].space, CASES["attention"].example),
    "soft loose ends": (CASES["soft loose ends"].space, CASES["soft loose ends"].example),
    "triples": (CASES["triples"].space, CASES["triples"].example),
    "ends": (Ends, lambda: (torch.zeros(2, 3),)),
    "distinct ends": (lambda: Ends(distinct_inputs=True), lambda: (torch.zeros(2, 3),)),
}


@pytest.mark.parametrize("metric", ["params", "flops", "latency"])
@pytest.mark.parametrize("name", ENUMERATED)
def test_the_expectation_is_the_mean_over_architectures(name: str, metric: str) -> None:
    make, example = ENUMERATED[name]
    space, inputs = make(), example()
    cost = expected_cost(space, metric_of(metric, space, inputs), inputs)
    tables = {
        label: table / table.sum(1, keepdim=True)  # a distribution
        for label, table in random_tables(space).items()
    }
    pairs = list(weighted_architectures(space, tables))
    assert sum(p for p, _ in pairs) == pytest.approx(1)
    known: dict[str, float] = {}
    for p, arch in pairs:
        canonical = space.canonical(arch)
        known[str(canonical)] = known.get(str(canonical), 0) + p * cost.of(canonical)
    assert cost(tables).item() == pytest.approx(sum(known.values()), rel=1e-9)


# -- sizes that are chosen elsewhere ---------------------------------------------------------------------


class Strides(ModelSpace):
    """A stride inside a candidate changes what later layers cost, and so does which input is taken."""

    def __init__(self) -> None:
        super().__init__()
        stride = value_choice([1, 2], label="stride")
        strided = plain.Sequential(nn.Conv2d(2, 2, 3, stride=stride, padding=1), plain.ReLU())
        self.first = LayerChoice({"plain": plain.Conv2d(2, 2, 1), "strided": strided}, label="first")
        self.second = LayerChoice([plain.Conv2d(2, 2, 3, padding=1), plain.Identity()], label="second")
        self.scale = InputChoice(2, label="scale")
        self.pool = plain.MaxPool2d(2)
        self.third = nn.Conv2d(2, value_choice([2, 3], label="width"), 1)
        self.fourth = nn.Conv2d(value_choice([2, 3], label="width"), 2, 1)
        self.last = plain.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = self.fourth(self.third(self.scale(x, self.pool(x))))
        return self.last(x).mean((2, 3)) @ self.last(x).mean((2, 3)).T


def test_sizes_that_are_chosen_elsewhere() -> None:
    space, inputs = Strides(), (torch.zeros(3, 2, 8, 8),)
    cost, supernet = expected_cost(space, "flops", inputs), Supernet(space)
    for arch in space.grid():
        wanted = true_cost(space, "flops", arch, inputs)
        assert cost.of(arch) == wanted
        tables = one_hot(supernet, arch)
        tables["stride"] = tables["stride"] if "stride" in arch else torch.tensor([[0.25, 0.75]])
        assert cost(tables).item() == pytest.approx(wanted)
    assert set(cost.labels) == {"first", "stride", "second", "scale", "width"}


def test_operations_in_code_outside_every_choice() -> None:
    class Scores(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width = value_choice([2, 6], label="width")
            self.query, self.key = nn.Linear(3, width), nn.Linear(3, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(x) @ self.key(x).transpose(1, 2)

    space, x = Scores(), torch.zeros(2, 5, 3)
    cost = expected_cost(space, "flops", x)
    for width in (2, 6):
        assert cost.of({"width": width}) == true_cost(space, "flops", {"width": width}, (x,))
    assert cost({"width": torch.tensor([[0.5, 0.5]])}).item() == 2 * (2 * 2 * 5 * 3 * 4 + 2 * 5 * 5 * 4)


def test_a_candidate_that_the_default_forbids() -> None:
    class Coupled(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width, kind = value_choice([2, 6], label="width"), value_choice(["low", "high"], label="kind")
            inner = LayerChoice([plain.Linear(6, 2), plain.Linear(6, 2, bias=False)], label="inner")
            self.up = nn.Linear(4, width)
            self.layer = LayerChoice(
                {"low": plain.Linear(2, 2), "high": plain.Sequential(inner)}, label="kind"
            )
            self.constrain((width == 2) == (kind == "low"))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.up(x))

    space, inputs = Coupled(), (torch.zeros(3, 4),)
    cost = expected_cost(space, "flops", inputs)
    for arch in space.grid():
        assert cost.of(arch) == true_cost(space, "flops", arch, inputs)


@pytest.mark.parametrize("metric", ["params", "flops"])
def test_combinations_that_constraints_forbid_are_left_out(metric: str) -> None:
    class Heads(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width, heads = value_choice([6, 12], label="width"), value_choice([3, 4], label="heads")
            self.up = nn.Linear(4, width)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
            self.constrain(width % heads == 0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.attention(x, x, x, need_weights=False)[0]

    space, inputs = Heads(), (torch.zeros(2, 5, 4),)
    cost, supernet = expected_cost(space, metric, inputs), Supernet(space)
    costs = {(a["width"], a["heads"]): true_cost(space, metric, a, inputs) for a in space.grid()}
    assert len(costs) == 3
    for width, heads in costs:
        tables = one_hot(supernet, {"width": width, "heads": heads})
        assert cost(tables).item() == pytest.approx(costs[width, heads])
    even = {label: torch.tensor([[0.5, 0.5]], requires_grad=True) for label in ("width", "heads")}
    per_width = 2 * 2 * 5 * 4 if metric == "flops" else 5  # of the linear layer
    attention = [c - per_width * width for (width, _), c in costs.items()]  # (6, 4) does not exist
    assert cost(even).item() == pytest.approx(per_width * 9 + sum(attention) / 3)


# -- choices of one's own, refusals, arguments -----------------------------------------------------------


class Branched(Gate):
    """A gate that says when its layer is there."""

    def branches(self) -> Any:
        from spacelang.language import Choice, Is

        return [(Is(Choice(self.decision), ("on",)), "layer", self.layer)]


class Gated(ModelSpace):
    def __init__(self, gate: type[Gate], with_choice: bool = False) -> None:
        super().__init__()
        linear = plain.Linear(3, 3)
        layer = LayerChoice([linear, plain.Tanh()], label="within") if with_choice else linear
        self.gate = gate(layer, label="gate")

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


@pytest.mark.parametrize("metric", ["params", "flops"])
def test_a_primitive_of_ones_own(metric: str) -> None:
    inputs = (torch.zeros(2, 3),)
    space = Gated(Gate)
    cost = expected_cost(space, metric, inputs)
    on = true_cost(space, metric, {"gate": "on"}, inputs)
    assert cost({"gate": torch.tensor([[0.25, 0.75]])}).item() == on / 4


def test_a_primitive_of_ones_own_with_choices_inside() -> None:
    with pytest.raises(SpaceError, match=r"Gate 'gate' leaves out choices.*'off'.*branches\(\) must say"):
        expected_cost(Gated(Gate, with_choice=True), "params")
    space = Gated(Branched, with_choice=True)
    cost = expected_cost(space, "params")
    assert cost({"gate": torch.tensor([[0.5, 0.5]]), "within": torch.tensor([[0.5, 0.5]])}).item() == 12 / 4
    cost = expected_cost(space, "flops", torch.zeros(2, 3))
    assert cost({"gate": torch.tensor([[0.5, 0.5]]), "within": torch.tensor([[0.5, 0.5]])}).item() == 36 / 4


def test_shared_weights_are_refused() -> None:
    class Tied(ModelSpace):
        def __init__(self, apart: bool) -> None:
            super().__init__()
            shared = plain.Linear(4, 4)
            self.first = LayerChoice(
                {"a": shared, "b": plain.Sequential(shared, plain.ReLU())}, label="first"
            )
            self.second = LayerChoice([plain.Linear(4, 4) if apart else shared, plain.Tanh()], label="second")

    with pytest.raises(SpaceError, match="'a' of 'first' and 0 of 'second' share weights"):
        expected_cost(Tied(apart=False), "params")
    cost = expected_cost(Tied(apart=True), "params")  # of candidates that exclude one another it is no matter
    assert cost.of({"first": "b", "second": 0}) == 40


def test_sums_that_no_table_gives_are_refused() -> None:
    class Sets(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.some = InputChoice(2, None, "concat", label="some")
            self.head = LayerChoice([plain.Conv1d(1, 1, 1), plain.Identity()], label="head")

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.some(x, x).flatten(1).unsqueeze(1))

    space, x = Sets(), torch.zeros(1, 2, 3)
    cost = expected_cost(space, "flops", x)
    for some in ([0], [1], [0, 1]):
        arch = {"some": some, "head": 0}
        assert cost.of(arch) == true_cost(space, "flops", arch, (x, x)[:1])
        assert cost(one_hot(Supernet(space), arch)).item() == cost.of(arch)
    with pytest.raises(SpaceError, match=r"0 of 'head' depends on 'some'.*no joint probabilities"):
        cost({"some": torch.tensor([[0.5, 0.5]]), "head": torch.tensor([[1.0, 0.0]])})


def test_arguments() -> None:
    space = Strides()
    with pytest.raises(SpaceError, match=r"metric='FLOPs'; expected 'params', 'flops'"):
        expected_cost(space, "FLOPs")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="FLOPs need an example input"):
        expected_cost(space, "flops")
    with pytest.raises(SpaceError, match="no space with choices"):
        expected_cost(space.freeze(space.default()), "params")
    cost = expected_cost(space, "params")
    tables = random_tables(space)
    with pytest.raises(SpaceError, match=r"needs probabilities of 'first'.* Closest: 'frist'"):
        cost({"frist": tables["first"], **{k: v for k, v in tables.items() if k != "first"}})
    with pytest.raises(SpaceError, match=r"'width' have shape \(1, 3\).*\(1, 2\)"):
        cost({**tables, "width": torch.zeros(1, 3)})


def test_dtypes() -> None:
    space = Strides()
    cost, tables = expected_cost(space, "params"), random_tables(space)
    exact = cost(tables)
    assert (exact.dtype, exact.dim()) == (torch.float64, 0)
    for dtype in (torch.float32, torch.bfloat16):
        found = cost({label: table.to(dtype) for label, table in tables.items()})
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=2e-2)


def test_pruned_edges_are_no_inputs_any_more() -> None:
    """When two of three edges into a node are left, each slot reads one of the two."""

    class Wide(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell([plain.Linear(3, 3)], 1, 2, 3, concat_dim=-1, label="cell")

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x, x, x)

    supernet = Supernet(Wide())
    cost = expected_cost(supernet, "params")
    assert cost({"cell": torch.ones(3, 1)}).item() == pytest.approx(24)
    supernet.prune({"cell": [[True], [False], [True]]})
    assert cost({"cell": torch.tensor([[1.0], [0.0], [1.0]])}).item() == pytest.approx(24)


def test_depth_of_a_block() -> None:
    space = Repeat(lambda i: plain.Linear(i + 1, i + 2, bias=False), (1, 3), label="depth")

    class Deep(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = space

    cost = expected_cost(Deep(), "params")
    p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    assert cost({"depth": p}).item() == pytest.approx(2 + 0.8 * 6 + 0.5 * 12)


def test_loose_ends_of_a_published_cell() -> None:
    """One-hot rows leave the inputs, which are uniform: the mean over all 2^2 * 3^2 of them."""
    space = hub.ENAS(4, 3, (1, 8, 10), num_nodes=2, operations=["skip_connect", "sep_conv_3x3"])
    cost = expected_cost(space, "params")
    tables = {label: torch.tensor([[0.0, 1.0]] * 5, dtype=torch.float64) for label in ("normal", "reduce")}
    operation = {label: "sep_conv_3x3" for label in space.default() if "/op_" in label}
    found = []
    for inputs in itertools.product(range(2), range(2), range(3), range(3)):
        labels = [f"input_{node}_{slot}" for node in (2, 3) for slot in (0, 1)]
        chosen = dict(zip(labels, inputs, strict=True))
        normal = {f"normal/{label}": value for label, value in chosen.items()}
        arch = operation | normal | {f"reduce/{label}": value for label, value in chosen.items()}
        model = space.freeze(arch)
        found.append(sum(parameter.numel() for parameter in model.parameters()))
        assert cost.of(arch) == found[-1]
    assert cost(tables).item() == pytest.approx(sum(found) / len(found))
