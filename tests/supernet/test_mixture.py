"""What a mixture means, computed by hand, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet, value_choice

from ..toys.spaces import CASES, Case, architectures, random_mixture

EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Affine(plain.Module):
    """`scale x + shift`, which counts its calls."""

    calls: Counter[str] = Counter()

    def __init__(self, scale: float, shift: float = 0.0, name: str = "") -> None:
        super().__init__()
        self.scale = plain.Parameter(torch.tensor(float(scale)))
        self.shift, self.name = shift, name

    def forward(self, x: Tensor) -> Tensor:
        Affine.calls[self.name] += 1
        return self.scale * x + self.shift


@pytest.fixture(autouse=True)
def fresh_count() -> None:
    Affine.calls.clear()


def space_of(build: Any, run: Any = None) -> ModelSpace:
    class Made(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.part = build()

        def forward(self, *inputs: Any) -> Any:
            return self.part(*inputs) if run is None else run(self.part, *inputs)

    return Made()


def mixed(build: Any, **weights: list[list[float]]) -> Supernet:
    supernet = Supernet(space_of(build))
    supernet.set_mixture({label: torch.tensor(w) for label, w in weights.items()})
    return supernet


X = torch.tensor([[1.0, 3.0]])


def test_a_layer_is_the_weighted_sum_of_its_candidates() -> None:
    supernet = mixed(lambda: LayerChoice([Affine(2), Affine(3, 1)], label="x"), x=[[0.25, -2.0]])
    assert torch.equal(supernet(X), 0.25 * (2 * X) - 2 * (3 * X + 1))


@pytest.mark.parametrize("n_chosen", [1, 2, None])
def test_inputs_are_summed_by_weight(n_chosen: int | None) -> None:
    supernet = mixed(lambda: InputChoice(3, n_chosen, label="x"), x=[[0.5, 2.0, -1.0]])
    assert torch.equal(supernet(X, 2 * X, 5 * X), 0.5 * X + 4 * X - 5 * X)


@pytest.mark.parametrize("n_chosen", [2, None])
def test_the_mean_divides_by_how_many_a_mixture_chooses(n_chosen: int | None) -> None:
    """Of weights that are ones and zeros it is the mean of the ones, as in the frozen model."""
    supernet = mixed(lambda: InputChoice(3, n_chosen, "mean", label="x"), x=[[0.5, 0.25, 0.25]])
    assert torch.equal(supernet(X, 2 * X, 6 * X), 2.5 * X)
    supernet.set_mixture({"x": torch.tensor([[1.0, 0.0, 1.0]])})
    assert torch.equal(supernet(X, 2 * X, 6 * X), 3.5 * X)
    assert torch.equal(supernet.freeze({"x": [0, 2]})(X, 2 * X, 6 * X), 3.5 * X)
    one = mixed(lambda: InputChoice(3, 1, "mean", label="x"), x=[[0.5, 0.5, 0.5]])
    assert torch.equal(one(X, 2 * X, 6 * X), 4.5 * X)  # a single choice is a sum: nothing to divide by


@pytest.mark.parametrize("reduction", ["concat", "none"])
def test_what_has_no_fixed_shape_cannot_be_mixed(reduction: Any) -> None:
    supernet = Supernet(space_of(lambda: InputChoice(3, 2, reduction, label="x")))
    assert supernet.soft_refusals() == [
        f"'x': reduction={reduction!r} of a varying set has no fixed shape (at part)"
    ]
    with pytest.raises(SpaceError, match=r"has no fixed shape; call supernet.select\(arch\)"):
        supernet(X, X, X)
    supernet.select({"x": [1, 2]})
    supernet(X, X, X)


def test_depth_is_the_weighted_sum_of_the_outputs_after_each_depth() -> None:
    """y = sum_d w_d x_d with x_0 the input; blocks beyond the last active depth do not run."""

    def build() -> Any:
        return Repeat(lambda i: Affine(2, 1, f"b{i}"), (0, 3), label="d")

    supernet = mixed(build, d=[[0.5, 0.25, 2.0, -1.0]])
    x1 = 2 * X + 1
    x2 = 2 * x1 + 1
    x3 = 2 * x2 + 1
    assert torch.equal(supernet(X), 0.5 * X + 0.25 * x1 + 2 * x2 - x3)
    Affine.calls.clear()
    supernet.set_mixture({"d": torch.tensor([[0.5, 0.25, 2.0, -1.0]])}, {"d": [[True, False, True, False]]})
    assert torch.equal(supernet(X), 0.5 * X + 2 * x2)
    assert Affine.calls == Counter(b0=1, b1=1)
    supernet.set_mixture({"d": torch.ones(1, 4)}, {"d": [[True, False, False, False]]})
    assert torch.equal(supernet(X), X)


def test_the_depth_of_an_expression_has_the_products_of_its_weights() -> None:
    def build() -> Any:
        a, b = value_choice([0, 1], label="a"), value_choice([1, 2], label="b")
        return Repeat(lambda i: Affine(2, 1), a + b)

    supernet = mixed(build, a=[[0.25, 0.75]], b=[[0.5, 2.0]])
    x1 = 2 * X + 1
    x2 = 2 * x1 + 1
    x3 = 2 * x2 + 1
    expected = 0.25 * 0.5 * x1 + (0.25 * 2.0 + 0.75 * 0.5) * x2 + 0.75 * 2.0 * x3
    assert torch.allclose(supernet(X), expected)
    supernet.groups["a"].select({"a": 1})  # one decided, one mixed
    assert torch.allclose(supernet(X), 0.5 * x2 + 2.0 * x3)


def test_a_cell_is_the_weighted_sum_over_its_edges() -> None:
    """node_i = sum_{j<i} sum_k w_{ij,k} f_k(node_j), equations 1 and 2 of DARTS."""
    operations = [Affine(2), Affine(1, 10)]

    def build() -> Any:
        return Cell(operations, 2, 1, 2, label="c")

    w = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, 0.0], [0.0, 1.0], [2.0, 1.0]])
    supernet = Supernet(space_of(build))
    assert supernet.groups["c"].rows == ("0->2", "1->2", "0->3", "1->3", "2->3")
    supernet.set_mixture({"c": w})
    y = 3 * X

    def edge(row: int, x: Tensor) -> Tensor:
        return w[row, 0] * (2 * x) + w[row, 1] * (x + 10)

    two = edge(0, X) + edge(1, y)
    three = edge(2, X) + edge(3, y) + edge(4, two)
    assert torch.allclose(supernet(X, y), torch.cat([two, three], 1))


@pytest.mark.slow
@EVERY_CASE
def test_the_first_mixture_is_uniform_and_groups_are_in_order(case: Case) -> None:
    supernet = Supernet(case.make())
    assert list(supernet.groups) == sorted(supernet.groups)
    for label, group in supernet.groups.items():
        assert group.label == label
        assert group.weights is not None
        offered = torch.tensor(group.alive)  # an edge of a cell may lack candidates of others
        assert offered.all() or (case is CASES["edges"] and offered.sum(dim=1).tolist() == [2, 2, 0, 2, 2])
        assert torch.equal(group.weights, offered / offered.sum(dim=1, keepdim=True).clamp_min(1))
        assert all(
            tuple(x.nonzero()[:, 0].tolist()) == row for x, row in zip(offered, group.active, strict=True)
        )
    answered = {d.label for group in supernet.groups.values() for d in group.decisions}
    assert answered == {d.label for d in case.make().decisions}


def test_choices_that_share_a_label_share_a_group() -> None:
    supernet = Supernet(CASES["shared"].make())
    network = supernet.network
    assert network.first.group is network.second.group is supernet.groups["stage/kind"]
    cells = Supernet(CASES["cells"].make())
    assert cells.network.cells[0].group is cells.network.cells[1].group is cells.groups["cell"]


def test_a_selected_path_runs_only_what_it_chose() -> None:
    def build() -> Any:
        return plain.ModuleList(
            [
                LayerChoice({n: Affine(1, name=n) for n in "abc"}, label="layer"),
                Repeat(lambda i: Affine(1, name=f"b{i}"), (0, 3), label="depth"),
                Cell(
                    {n: lambda i, k, j, n=n: Affine(1, name=f"{n}{j}->{i}") for n in "pq"}, 2, 1, 2, label="c"
                ),
            ]
        )

    def run(parts: Any, x: Tensor) -> Any:
        x = parts[1](parts[0](x))
        return parts[2](x, x)

    supernet = Supernet(space_of(build, run))
    supernet(X)
    everything = [*"abc", "b0", "b1", "b2", *(f"{n}{j}->{i}" for i in (2, 3) for j in range(i) for n in "pq")]
    assert Affine.calls == Counter(everything)
    arch = {"layer": "b", "depth": 1, "c/op_2_0": "q", "c/input_2_0": 1, "c/op_3_0": "p", "c/input_3_0": 0}
    Affine.calls.clear()
    supernet.select(arch)
    supernet(X)
    assert Affine.calls == Counter(["b", "b0", "q1->2", "p0->3"])
    Affine.calls.clear()
    active = {
        "layer": [[False, True, True]],
        "c": [[True, False], [True, False], [False] * 2, [False] * 2, [False, True]],
    }
    mixture = {label: torch.rand(supernet.groups[label].shape) for label in active}
    supernet.set_mixture(mixture, active)
    supernet(X)
    assert Affine.calls == Counter(["b", "c", "b0", "p0->2", "p1->2", "q2->3"])


@pytest.mark.parametrize("case", [CASES[n] for n in ("layers", "depths", "cells", "custom")])
def test_a_mixture_after_a_selection_runs_everything_again(case: Case) -> None:
    space = case.space()
    supernet = Supernet(space).eval()
    mixture = random_mixture(supernet, 0)
    supernet.set_mixture(mixture)
    before = supernet(*case.example())
    supernet.select(space.default())
    assert not torch.equal(supernet(*case.example()), before)
    supernet.set_mixture(mixture)
    assert torch.equal(supernet(*case.example()), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["layers", "inputs", "depths", "cells", "triples", "nested cell", "values", "attention", "custom"],
)
def test_a_one_hot_mixture_is_the_selected_path(name: str) -> None:
    """What `select` computes by skipping, a mixture of ones and zeros computes too."""
    case = CASES[name]
    space = case.space()
    supernet = Supernet(space).eval()
    for arch in architectures(space, 3):
        supernet.select(arch)
        expected = supernet(*case.example())
        mixture = {}
        for label, group in supernet.groups.items():
            mixture[label] = torch.zeros(group.shape, dtype=torch.float64)
            for r, row in enumerate(group.active):
                for k in row:
                    mixture[label][r, k] += 1
        inactive = {label for label, w in mixture.items() if not w.any()}
        if inactive:
            continue  # a group that runs nothing has no mixture
        supernet.set_mixture(mixture)
        assert torch.allclose(supernet(*case.example()), expected, rtol=0, atol=1e-12)


def test_mixtures_that_do_not_fit_are_refused_and_change_nothing() -> None:
    supernet = Supernet(CASES["cells"].make())
    group = supernet.groups["cell"]
    weights = group.weights
    good = torch.rand(group.shape)
    wrong: list[tuple[Any, Any, str]] = [
        ({"cel": good}, None, r"no group 'cel'; its groups are 'cell'\. Closest: 'cell'"),
        (
            {"cell": good[:-1]},
            None,
            r"the mixture of 'cell' has shape \(4, 5\); expected a tensor of .* = \(5, 5\)",
        ),
        ({"cell": good[None]}, None, r"has shape \(1, 5, 5\)"),
        ({"cell": good.tolist()}, None, "has shape list; expected a tensor"),
        (
            {"cell": good},
            {"cell": [[True]]},
            r"active\['cell'\] must be nested \(rows, candidates\) = \(5, 5\)",
        ),
        ({"cell": good}, {"cell": [True] * 5}, "must be nested"),
        ({"cell": good}, {"other": [[True]]}, "no group 'other'"),
        ({"cell": good, "other": good}, None, "no group 'other'"),
    ]
    for mixture, active, message in wrong:
        with pytest.raises(SpaceError, match=message):
            supernet.set_mixture(mixture, active)
        assert group.weights is weights


def test_candidates_of_different_shapes_are_named() -> None:
    supernet = Supernet(
        space_of(lambda: LayerChoice({"a": plain.Linear(2, 2), "b": plain.Linear(2, 1)}, label="x"))
    )
    with pytest.raises(SpaceError) as error:
        supernet(X)
    assert str(error.value) == (
        "'x': candidates must return the same shape; 'a' returned (1, 2), 'b' (1, 1)."
    )


def test_a_node_of_a_cell_whose_mixture_runs_nothing_is_zero() -> None:
    """Of the shape that its candidates give; none of them is trained, and no batch statistics move."""
    halving = {"halve": plain.Sequential(plain.Conv2d(2, 3, 1, stride=2), plain.BatchNorm2d(3))}
    supernet = Supernet(space_of(lambda: Cell(halving, 1, 1, 2, label="c")))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    weights = torch.ones(2, 1, requires_grad=True)
    supernet.set_mixture({"c": weights}, {"c": [[False], [False]]})
    x = torch.randn(4, 2, 6, 6)
    found = supernet(x, x)
    assert torch.equal(found, torch.zeros(4, 3, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    supernet.set_mixture({"c": weights}, {"c": [[True], [False]]})
    assert supernet(x, x).any()


def test_a_choice_left_inactive_says_so_when_it_is_called() -> None:
    def build() -> Any:
        parts = [
            plain.ModuleList([LayerChoice([Affine(1)], label="x"), InputChoice(1, label="y")]),
            plain.Identity(),
        ]
        return LayerChoice(parts, label="outer")

    supernet = Supernet(space_of(build))
    supernet.select({"outer": 1})
    layer, inputs = supernet.network.part.candidates[0]
    for call in (lambda: layer(X), lambda: inputs(X)):
        with pytest.raises(SpaceError, match="runs no candidate"):
            call()


@EVERY_CASE
def test_parameters_are_the_weights_alone(case: Case) -> None:
    """`self.parameters()` in a user's configure_optimizers never holds architecture parameters."""
    space = case.space()
    supernet = Supernet(space)
    keys = set(supernet.state_dict())
    mixture = random_mixture(supernet, 0)
    supernet.set_mixture(mixture)
    assert set(supernet.state_dict()) == keys
    assert not {id(w) for w in mixture.values()} & {id(p) for p in supernet.parameters()}
    assert sum(p.numel() for p in supernet.parameters()) == sum(p.numel() for p in space.parameters())


def test_attributes_of_the_space_are_reached_through_the_supernet() -> None:
    class WithMethod(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([plain.Identity(), plain.Tanh()], label="x")
            self.probability = 0.0

        def set_probability(self, p: float) -> None:
            self.probability = p

        def forward(self, x: Tensor) -> Any:
            return self.layer(x) * self.probability

    space = WithMethod()
    supernet = Supernet(space)
    supernet.set_probability(0.5)
    assert supernet.probability == 0.5
    assert space.probability == 0.0
    with pytest.raises(AttributeError, match="nothing_like_it"):
        supernet.nothing_like_it  # noqa: B018
