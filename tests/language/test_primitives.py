"""The primitives in a space: what they accept, what they compute, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    model_context,
    nn,
    value_choice,
)
from spacelang.language import FrozenCell

from ..toys.spaces import CASES


def built(make: Callable[[], Any], arch: dict[str, Any]) -> Any:
    with model_context(arch):
        return make()


class Add(plain.Module):
    """Adds a constant, so that outputs can be computed by hand."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


@pytest.mark.parametrize(
    "name", ["layers", "inputs", "cells", "values", "attention", "nested cell", "triples"]
)
def test_a_space_computes_as_its_first_candidates(name: str) -> None:
    case = CASES[name]
    space = case.space().eval()
    assert torch.equal(space(*case.example()), space.freeze(space.default())(*case.example()))


def test_layer_choice_passes_any_arguments_on() -> None:
    space = CASES["layers"].space()
    x, shift = torch.randn(2, 3, 3, dtype=torch.float64)
    expected = space.outer.candidates[0].factor * x * 2 + shift
    assert torch.equal(space.outer(x, shift=shift, times=2), expected)


def test_input_choice_reductions() -> None:
    a, b, c = (torch.full((1, 2), float(k)) for k in (1, 2, 5))

    def chosen(reduction: Any, n_chosen: int | None, value: Any) -> Any:
        return built(lambda: InputChoice(3, n_chosen, reduction, label="x"), {"x": value})

    assert torch.equal(chosen("sum", 1, 2)(a, b, c), c)
    assert torch.equal(chosen("mean", 1, 1)([a, b, c]), b)
    assert torch.equal(chosen("concat", 1, [1])([a, b, c]), b)
    assert torch.equal(chosen("sum", 2, [2, 0])(a, b, c), a + c)
    assert torch.equal(chosen("mean", 2, [1, 2])(a, b, c), (b + c) / 2)
    assert torch.equal(chosen("mean", None, [0, 1, 2])(a, b, c), (a + b + c) / 3)
    assert torch.equal(chosen("concat", None, [0, 2])(a, b, c), torch.cat([a, c], dim=1))
    assert torch.equal(chosen("concat", None, [1])(a, b, c), b)
    assert chosen("none", None, [1])(a, b, c) == [b]
    assert all(map(torch.equal, chosen("none", 2, [0, 1])(a, b, c), [a, b]))
    with pytest.raises(SpaceError, match="takes 3 inputs; got 2"):
        chosen("sum", 1, 2)(a, b)


def test_repeat_of_every_kind_of_block() -> None:
    x = torch.zeros(1)
    factory = Repeat(lambda i: Add(10.0**i), (1, 3), label="d")
    assert factory(x) == 1
    for depth, total in [(1, 1), (2, 11), (3, 111)]:
        assert built(lambda: Repeat(lambda i: Add(10.0**i), (1, 3), label="d"), {"d": depth})(x) == total
    assert type(Repeat(lambda i: Add(1), 0)) is plain.Sequential
    assert Repeat(lambda i: Add(1), 0)(x) == 0
    assert Repeat(lambda i: Add(1), (0, 2), label="d")(x) == 0
    listed = [Add(1), lambda i: Add(10.0 * i), Add(100)]
    assert built(lambda: Repeat(listed, (0, 3), label="d"), {"d": 3})(x) == 111
    value = built(lambda: Repeat(lambda i: Add(1), value_choice([0, 2], label="v") * 2), {"v": 2})
    assert len(value) == 4
    copies = Repeat(plain.Linear(1, 1), 2)
    assert copies[0] is not copies[1]
    assert torch.equal(copies[0].weight, copies[1].weight)


def test_a_cell_by_hand() -> None:
    """node2 = (x0 + 1) + (x1 + 10); node3 = (node2 + 10) + (x0 + 1)."""
    arch = {
        "c/op_2_0": "one", "c/input_2_0": 0, "c/op_2_1": "ten", "c/input_2_1": 1,
        "c/op_3_0": "ten", "c/input_3_0": 2, "c/op_3_1": "one", "c/input_3_1": 0,
    }  # fmt: skip

    def cell(merge_op: Any, **options: Any) -> Any:
        operations = {"one": Add(1), "ten": lambda node, slot, source: Add(10)}
        return Cell(operations, 2, 2, 2, merge_op, label="c", **options)

    x0, x1 = torch.tensor([[1.0]]), torch.tensor([[2.0]])
    everything = built(lambda: cell("all"), arch)
    assert isinstance(everything, FrozenCell)
    assert everything(x0, x1).tolist() == [[14.0, 26.0]]
    assert everything([x0, x1]).tolist() == [[14.0, 26.0]]
    loose = built(lambda: cell("loose_end"), arch)
    assert loose(x0, x1).tolist() == [[26.0]]
    assert (everything.num_outputs, loose.num_outputs) == (2, 1)
    assert cell("all").num_outputs == 2
    assert cell("loose_end").num_outputs.evaluate(arch) == 1
    assert cell("loose_end").num_outputs.possible() == (1, 2)
    assert built(lambda: cell("all", concat_dim=0), arch)(x0, x1).tolist() == [[14.0], [26.0]]
    processed = cell(
        "all", preprocessor=lambda xs: [xs[0] * 2, xs[1]], postprocessor=lambda y, given: (y, given[0])
    )
    assert [d.label for d in processed.decisions()] == list(arch)
    frozen = built(
        lambda: cell(
            "all", preprocessor=lambda xs: [xs[0] * 2, xs[1]], postprocessor=lambda y, given: (y, given)
        ),
        arch,
    )
    output, given = frozen(x0, x1)
    assert output.tolist() == [[15.0, 28.0]]
    assert given[0] is x0


def test_cell_factories_are_told_their_place() -> None:
    calls: list[tuple[int, int | None, int]] = []

    def factory(node: int, slot: int | None, source: int) -> plain.Module:
        calls.append((node, slot, source))
        return plain.Identity()

    Cell([factory], 2, 2, 2, label="c")
    assert calls == [(2, None, 0), (2, None, 1), (3, None, 0), (3, None, 1), (3, None, 2)]
    calls.clear()
    arch = {f"c/op_{i}_{k}": 0 for i in (2, 3) for k in (0, 1)}
    arch |= {"c/input_2_0": 1, "c/input_2_1": 0, "c/input_3_0": 2, "c/input_3_1": 2}
    built(lambda: Cell([factory], 2, 2, 2, label="c"), arch)
    assert calls == [(2, 0, 1), (2, 1, 0), (3, 0, 2), (3, 1, 2)]


def test_slots_may_be_exchanged_without_changing_the_result() -> None:
    space = CASES["cells"].space()
    arch = space.default() | {
        "cell/op_2_0": "skip",
        "cell/input_2_0": 1,
        "cell/op_2_1": "conv3",
        "cell/input_2_1": 0,
    }
    swapped = arch | {
        "cell/op_2_1": "skip", "cell/input_2_1": 1, "cell/op_2_0": "conv3", "cell/input_2_0": 0,
    }  # fmt: skip
    assert space.canonical(arch) == space.canonical(swapped) != arch
    x = CASES["cells"].example()
    assert torch.equal(space.freeze(arch)(*x), space.freeze(swapped)(*x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerChoice([], label="x"), "'x' has no candidates; pass at least one"),
        (
            lambda: LayerChoice([plain.Tanh(), 3], label="x"),
            "'x': candidate 1 is a int; expected an nn.Module",
        ),
        (
            lambda: LayerChoice([lambda: 3], label="x"),
            "candidate 0 is a int; expected an nn.Module or a function",
        ),
        (lambda: LayerChoice({1: plain.Tanh()}, label="x"), "candidate names are strings; got 1"),
        (
            lambda: LayerChoice(plain.Tanh(), label="x"),
            "candidates are a dict or a list of modules; got a Tanh",
        ),
        (lambda: LayerChoice("ab", label="x"), "candidates are a dict or a list of modules; got a str"),
        (lambda: LayerChoice([plain.Tanh()], label="x", prior=[1, 2]), "must be 1 finite weights"),
        (lambda: InputChoice(0, label="x"), "n_candidates=0 must be an integer of at least 1"),
        (lambda: InputChoice(2, 3, label="x"), "n_chosen=3 must be an integer from 1 to 2, or None"),
        (
            lambda: InputChoice(2, reduction="max", label="x"),
            "reduction='max' must be one of 'sum', 'mean', 'concat', 'none'",
        ),
        (lambda: Repeat(plain.Tanh(), -1), "every depth must be an integer of at least 0"),
        (lambda: Repeat(plain.Tanh(), (3, 1), label="x"), r"depth=\(3, 1\); expected a number, \(min, max\)"),
        (lambda: Repeat(plain.Tanh(), 1.5, label="x"), r"depth=1.5; expected a number"),
        (lambda: Repeat(plain.Tanh(), True, label="x"), r"depth=True; expected a number"),
        (lambda: Repeat([plain.Tanh()], (0, 2), label="x"), "depth can reach 2, but only 1 blocks are given"),
        (lambda: Repeat(lambda i: 3, 1), "block 0 is a int; expected an nn.Module"),
        (lambda: Repeat(plain.Tanh(), value_choice([1, 2], label="v") / 2), "depth can be 0.5"),
        (lambda: Cell([plain.Tanh()], 0, label="x"), "num_nodes=0 must be an integer of at least 1"),
        (
            lambda: Cell([plain.Tanh()], 1, 0, label="x"),
            "num_ops_per_node=0 must be an integer of at least 1",
        ),
        (
            lambda: Cell([plain.Tanh()], 1, 1, True, label="x"),
            "num_predecessors=True must be an integer of at least 1",
        ),
        (
            lambda: Cell([plain.Tanh()], 1, merge_op="some", label="x"),
            "merge_op='some' must be one of 'all', 'loose_end'",
        ),
        (
            lambda: Cell([plain.Tanh()], 1, 2, 1, label="x", distinct_inputs=True),
            "write distinct_inputs=False",
        ),
        (lambda: Cell([lambda *where: 3], 1, label="x"), "cell 'x': candidate 0 is a int"),
        (lambda: nn.Linear(2, value_choice([3], label="v"), biased=True), "nn.Linear: .*biased"),
        (
            lambda: nn.Linear(value_choice(["a", 3], label="v"), 2),
            "cannot be built with its largest arguments",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_write(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_cells_refuse_wrong_inputs_and_preprocessors() -> None:
    x = torch.zeros(1, 1)
    cell = Cell([plain.Identity()], 1, 1, 2, label="c")
    with pytest.raises(SpaceError, match="cell 'c' takes 2 inputs; got 1"):
        cell(x)
    wrong = Cell([plain.Identity()], 1, 1, 2, preprocessor=lambda inputs: inputs[0], label="c")
    with pytest.raises(
        SpaceError, match="cell 'c': the preprocessor must return a list of 2 tensors; got Tensor"
    ):
        wrong(x, x)


def test_the_same_label_within_itself_is_the_same_decision() -> None:
    class Same(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            inner = LayerChoice([plain.Tanh(), plain.ReLU()], label="same")
            self.layer = LayerChoice([inner, plain.Identity()], label="same")

    assert Same().size() == 2
    assert type(Same().freeze({"same": 0}).layer) is plain.Tanh


def test_decisions_that_exist_only_under_each_other_are_refused() -> None:
    def choice(label: str, inner: plain.Module) -> plain.Module:
        return LayerChoice([inner, plain.Identity()], label=label)

    class Circle(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            ab = choice("a", choice("b", plain.Tanh()))
            ba = choice("b", choice("a", plain.Tanh()))
            self.layer = LayerChoice([ab, ba], label="outer")

    with pytest.raises(SpaceError, match="the decisions 'a', 'b' exist only under each other"):
        Circle()


def test_candidates_are_items_of_a_layer_choice_and_may_be_replaced() -> None:
    conv, pool = plain.Conv2d(2, 2, 1), plain.MaxPool2d(2)
    choice: Any = LayerChoice({"conv": conv, "pool": pool}, label="layer")
    assert (len(choice), list(choice), choice["pool"]) == (2, [conv, pool], pool)
    choice["conv"] = other = plain.Conv2d(2, 2, 3)
    assert choice.freeze({"layer": "conv"}) is choice["conv"] is other
    listed: Any = LayerChoice([conv, pool], label="listed")
    listed[1] = plain.Identity
    assert type(listed[1]) is plain.Identity
    with pytest.raises(SpaceError, match=r"candidates are 'conv', 'pool'\. Closest: 'conv'"):
        choice["cnv"]
    with pytest.raises(SpaceError, match="candidate 'conv' cannot be replaced"):
        choice["conv"] = LayerChoice([plain.Identity()], label="inner")
    with pytest.raises(SpaceError, match="candidate 'conv' is a int"):
        choice["conv"] = 3
