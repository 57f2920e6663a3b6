"""Value choices and the arithmetic on them."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import nn as plain

from spacelang import ModelSpace, SpaceError, Supernet, model_context, nn, profile, value_choice
from spacelang.costs import expected_cost
from spacelang.language import (
    Value,
    case,
    distinct,
    item,
    maximum,
    minimum,
    switch_case,
    to_float,
    to_int,
    where,
)

FIRST, SECOND = [1, 2, 5], [2, 3]
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "&": operator.and_,
    "|": operator.or_,
    "minimum": lambda a, b: minimum(a, b),
    "maximum": lambda a, b: maximum(a, b),
    "distinct": lambda a, b: distinct(a, b),
}


@pytest.mark.parametrize("name", BINARY)
def test_every_operation_is_that_of_the_plain_numbers(name: str) -> None:
    """On both sides, with another choice and with a constant, in a space and under model_context."""
    function = BINARY[name]
    a, b = value_choice(FIRST, label="a"), value_choice(SECOND, label="b")
    for x, y in itertools.product(FIRST, SECOND):
        arch = {"a": x, "b": y}
        assert function(a, b).evaluate(arch) == function(x, y)
        assert function(a, 3).evaluate(arch) == function(x, 3)
        assert function(3, a).evaluate(arch) == function(3, x)
        with model_context(arch):
            plain_result = function(value_choice(FIRST, label="a"), value_choice(SECOND, label="b"))
        assert not isinstance(plain_result, Value)
        assert plain_result == function(x, y)
    expected = {function(x, y) for x, y in itertools.product(FIRST, SECOND)}
    possible = function(a, b).possible()
    assert set(possible) == expected
    assert len(possible) == len(expected)


def test_functions_of_values() -> None:
    a, b = value_choice([4, 9], label="a"), value_choice([2, 6], label="b")
    arch = {"a": 9, "b": 2}
    assert (-a).evaluate(arch) == -9
    assert where(a > b, a, "small").evaluate(arch) == 9
    assert where(a < b, a, "small").evaluate(arch) == "small"
    assert to_int(a / b).evaluate(arch) == 4
    assert type(to_int(a / b).evaluate(arch)) is int
    assert minimum(a, b, 1).evaluate(arch) == 1
    assert maximum(a, 20, b).evaluate(arch) == 20
    assert distinct(a, b, 9).evaluate(arch) is False
    assert (where(a > b, 1, 0), to_int(2.5), minimum(3, 1), maximum(3, 1), distinct(1, 2))[1:] == (
        2,
        1,
        3,
        True,
    )


def test_an_expression_knows_its_decisions_once_each() -> None:
    a, b = value_choice([1, 2], label="a"), value_choice([1, 2], label="b")
    expression = where(a + b > 2, a * b, a - 1)
    assert [d.label for d in expression.decisions()] == ["a", "b"]
    assert str(expression) == "where(((a + b) > 2), (a * b), (a - 1))"
    assert repr(a + 1) == "<value (a + 1)>"


def test_possible_values_are_those_of_correlated_operands() -> None:
    a = value_choice([1, 2, 3], label="a")
    assert (a - a).possible() == (0,)
    assert (a * (4 - a)).possible() == (3, 4)


def test_too_many_combinations_are_refused_in_words() -> None:
    total: Any = 0
    for k in range(6):
        total = total + value_choice(range(10), label=f"v{k}")
    with pytest.raises(SpaceError, match="combines too many values to enumerate"):
        total.possible()


@pytest.mark.parametrize(
    "use", [bool, lambda v: v and 1, lambda v: min(v, 3), lambda v: v in [1, 2], lambda v: 1 if v else 2]
)
def test_deciding_python_control_flow_says_what_to_write_instead(use: Callable[[Any], Any]) -> None:
    with pytest.raises(SpaceError, match=r"cannot decide an `if`.*where, minimum, maximum, `&` or `\|`"):
        use(value_choice([1, 2], label="a"))


@pytest.mark.parametrize("use", [range, int, float, lambda v: [1, 2][v], hex])
def test_using_a_value_as_an_index_says_where_it_may_stand(use: Callable[[Any], Any]) -> None:
    with pytest.raises(SpaceError, match="not known while the space is being declared"):
        use(value_choice([1, 2], label="a"))


def test_arithmetic_that_fails_names_the_expression_and_the_operands() -> None:
    a, b = value_choice([1, 2], label="a"), value_choice([0, 1], label="b")
    with pytest.raises(SpaceError, match=r"\(a // b\) cannot be computed for 1, 0: .*zero"):
        (a // b).possible()
    with pytest.raises(SpaceError, match=r"\(a \+ b\) cannot be computed for 1, 'x'"):
        (value_choice([1], label="a") + value_choice(["x"], label="b")).possible()


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "'v' has no candidates"),
        ([1, 1], "candidate 1 is given twice"),
        ([1, 1.0], "is given twice"),
        ([(1, 2), [1, 2]], "is given twice"),
        ([1, object()], "candidate <object object .* is a object"),
        ([{1}], "is a set; candidates are strings, numbers"),
        ([lambda: 1], "is a function"),
    ],
)
def test_wrong_candidates_are_refused(candidates: list[Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        value_choice(candidates, label="v")


@pytest.mark.parametrize("prior", [[1], [1, 2, 3], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_a_prior_is_one_finite_weight_per_candidate(prior: list[float]) -> None:
    with pytest.raises(SpaceError, match="must be 2 finite weights, none negative, not all zero"):
        value_choice([1, 2], label="v", prior=prior)


def test_true_and_one_are_different_candidates() -> None:
    class Typed(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.v = value_choice([1, True, None, "1", 2.0, (1, "a")], label="v")

    space = Typed()
    for value in ([1, "a"], (1, "a")):
        assert space.canonical({"v": value}) == {"v": [1, "a"]}
        assert space.freeze({"v": value}).v == (1, "a")
    assert type(space.freeze({"v": True}).v) is bool
    assert type(space.freeze({"v": 1}).v) is int
    assert type(space.freeze({"v": 2}).v) is float  # YAML and hands write 2 for 2.0
    assert space.freeze({"v": None}).v is None
    for wrong in (0, False, "2", [1], [1, "a", 1], 1.0):
        with pytest.raises(SpaceError, match="'v' got"):
            space.validate({"v": wrong})


def test_values_kept_as_attributes_are_decisions_and_freeze_to_plain_values() -> None:
    class Held(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width = value_choice([2, 4], label="width")
            self.width = width
            self._private = value_choice(["a", "b"], label="private")
            self.table = {"sizes": [width * 2, (width, 1)]}
            self.linear = nn.Linear(2, width)

    space = Held()
    assert {d.label for d in space.decisions} == {"width", "private"}
    assert space.size() == 4
    model = space.freeze({"width": 4, "private": "b"})
    assert (model.width, model._private, model.table) == (4, "b", {"sizes": [8, (4, 1)]})
    with model_context({"width": 4, "private": "b"}):
        built = Held()
    assert (built.width, built._private, built.table) == (4, "b", {"sizes": [8, (4, 1)]})
    assert isinstance(space.width, Value)


def test_a_copied_value_is_the_same_choice() -> None:
    value = value_choice([1, 2], label="a") + 1
    assert copy.deepcopy(value).evaluate({"a": 2}) == 3


def test_a_value_of_an_architecture_without_its_label_is_not_invented() -> None:
    with model_context({}):
        value = value_choice([1, 2], label="a")
    assert isinstance(value, Value)
    with pytest.raises(SpaceError, match="'a' got 7; candidates are 1, 2"), model_context({"a": 7}):
        value_choice([1, 2], label="a")


# -- functions and items -----------------------------------------------------------------------------------

UNARY: dict[str, Callable[[Any], Any]] = {
    "round": round,
    "round to a digit": lambda a: round(a, 1),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "plus": operator.pos,
    "to_float": to_float,
    "quotient": lambda a: divmod(a, 2)[0],
    "remainder": lambda a: divmod(7, a)[1],
}


@pytest.mark.parametrize("name", UNARY)
def test_every_function_is_that_of_the_plain_number(name: str) -> None:
    function, candidates = UNARY[name], [-1.5, 0.25, 2.5]
    value = function(value_choice(candidates, label="a"))
    for x in candidates:
        assert value.evaluate({"a": x}) == function(x)
        assert type(value.evaluate({"a": x})) is type(function(x))
        with model_context({"a": x}):
            assert function(value_choice(candidates, label="a")) == function(x)


def test_items_by_a_choice_and_of_a_choice() -> None:
    depth, size = value_choice([0, 2], label="depth"), value_choice(["s", "m"], label="size")
    widths, channels = item([8, 16, depth + 30], depth), switch_case(size, {"s": 8, "m": 8 + depth})
    pair = value_choice([(1, 3), (2, 5)], label="pair")
    named = value_choice({"small": {"width": 4}, "large": {"width": 9}}, label="named")
    arch = {"depth": 2, "size": "m", "pair": (2, 5), "named": "large"}
    assert (widths.evaluate(arch), channels.evaluate(arch)) == (32, 10)
    assert (pair[1] - pair[0]).evaluate(arch) == 3
    assert named["width"].evaluate(arch) == 9
    assert {d.label for d in channels.decisions()} == {"size", "depth"}
    assert case([(depth > 1, "deep"), (size == "m", "middle")], "flat").evaluate(arch) == "deep"
    assert case([(depth > 2, "deep"), (size == "m", "middle")], "flat").evaluate(arch) == "middle"
    with pytest.raises(SpaceError, match="item: depth can be 2, but items are at 0, 1"):
        item([8, 16], depth)
    with pytest.raises(SpaceError, match="item: size can be 'm', but items are at 's'"):
        switch_case(size, {"s": 8})
    with pytest.raises(SpaceError, match=r"or in spacelang.language.item\(values, index\)"):
        [8, 16][depth]
    with pytest.raises(SpaceError, match=r"spacelang.language.item"):
        {"s": 8}[size]


class Sized(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        depth = value_choice([0, 2], label="depth")
        self.layer = nn.Linear(3, item([4, 6, 8], depth))
        named = value_choice({"small": {"width": 4}, "large": {"width": 9}}, label="named")
        self.width = named["width"]
        self.constrain(self.width > 3 * depth)


def test_items_size_layers_and_constrain_spaces() -> None:
    space = Sized()
    pairs = [(arch["named"], arch["depth"]) for arch in space.grid()]
    assert pairs == [("small", 0), ("large", 0), ("large", 2)]
    for arch in space.grid():
        with model_context(arch):
            built = Sized()
        assert space.freeze(arch).layer.out_features == built.layer.out_features == [4, 6, 8][arch["depth"]]


# -- sets and defaults ---------------------------------------------------------------------------------------


class Chosen(ModelSpace):
    """A set of two values, any set of named objects, and a value with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = value_choice([0.5, 2, "auto", (3, 4)], n_chosen=2, label="sizes")
        named = {"tanh": math.tanh, "sin": math.sin}
        self.functions = value_choice(named, n_chosen=None, label="functions", default=["sin", "tanh"])
        self.width = value_choice([4, None, 8], label="width", default=None)


def test_a_set_of_values_is_a_tuple_in_the_order_of_the_candidates() -> None:
    space = Chosen()
    assert space.size() == sum(1 for _ in space.grid()) == 6 * 3 * 3
    assert space.default() == {"sizes": [0.5, 2], "functions": ["tanh", "sin"], "width": None}
    arch = {"sizes": [[3, 4], 0.5], "functions": ["sin"], "width": 8}
    assert space.canonical(arch) == arch | {"sizes": [0.5, [3, 4]]}
    with model_context(arch):
        built = Chosen()
    for model in (built, space.freeze(arch)):
        assert (model.sizes, model.functions, model.width) == ((0.5, (3, 4)), (math.sin,), 8)
    encoded = [1, 0, 0, 1, 0, 1, 0, 0, 1]  # sizes, functions, width
    assert space.encode(arch).tolist() == encoded
    with pytest.raises(SpaceError, match=r"'sizes' got \[0\.5, 0\.5\]; expected a list of 2 different"):
        space.validate(arch | {"sizes": [0.5, 0.5]})
    with pytest.raises(SpaceError, match=r"'sizes' got \[0\.5, True\]"):
        space.validate(arch | {"sizes": [0.5, True]})


def test_sets_are_drawn_by_their_prior() -> None:
    rng = np.random.default_rng(0)
    pair = value_choice(["a", "b", "c"], n_chosen=2, prior=[2, 1, 1], label="pair").decision
    # a first, then b or c: 1/2 * 1/2 each; b first, then a: 1/4 * 2/3; so a and b 1/4 + 1/6, b and c 1/6.
    expected = {"ab": 5 / 12, "ac": 5 / 12, "bc": 1 / 6}
    assert dict(zip(map("".join, pair.values()), pair.probabilities(), strict=True)) == pytest.approx(
        expected
    )
    drawn = Counter("".join(pair.sample(rng)) for _ in range(6000))
    for name, probability in expected.items():
        spread = 5 * math.sqrt(6000 * probability * (1 - probability))  # standard deviations
        assert abs(drawn[name] - 6000 * probability) < spread


def test_a_default_is_where_the_space_begins_unless_a_constraint_forbids_it() -> None:
    class Net(ModelSpace):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.width = value_choice([4, 8, 16], label="width", default=16)
            self.depth = value_choice([1, 2], label="depth", default=2)
            self.constrain(self.width * self.depth <= most)

    assert Net(32).default() == {"width": 16, "depth": 2}
    assert Net(16).default() == {"width": 4, "depth": 1}
    with pytest.raises(SpaceError, match="'width' got 5; candidates are 4, 8"):
        value_choice([4, 8], label="width", default=5)


class Layers(ModelSpace):
    """Layers whose sizes are chosen together: a wide and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        widths = value_choice([4, 8, 16], n_chosen=2, label="widths")
        narrow, wide = widths[0], widths[1]
        self.layers = plain.Sequential(nn.Linear(2, wide), nn.Linear(wide, narrow), nn.Linear(narrow, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def test_sizes_that_are_chosen_together_are_selected_and_not_mixed() -> None:
    space, x = Layers().double(), torch.ones(1, 2, dtype=torch.float64)
    supernet = Supernet(space)
    params, flops = expected_cost(space, "params"), expected_cost(space, "flops", x)
    for arch in space.grid():
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        assert torch.equal(supernet(x), frozen(x))
        found = profile(frozen, x)
        assert (params.of(arch), flops.of(arch)) == (found.parameters, found.flops)
    assert "'widths', a choice of several values, which cannot be mixed (at" in supernet.soft_refusals()[0]
    supernet.set_mixture({"widths": torch.tensor([[0.0, 1.0, 1.0]])})
    with pytest.raises(SpaceError, match=r"which cannot be mixed; call supernet\.select"):
        supernet(x)
