"""The likeliest mistakes: each is refused, or warned of, with the place and what to type instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    Repeat,
    SpaceError,
    export_onnx,
    model_context,
    value_choice,
)
from spacelang import nn as space_nn
from spacelang.language import maximum, minimum, where


class Holding(ModelSpace):
    """A space that keeps what a function makes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.held = make()

    def forward(self, x: Tensor) -> Any:
        return self.held(x)


def width() -> Any:
    return value_choice([4, 8], label="width")


def line_of(function: Callable[..., Any], text: str) -> str:
    """Return `file:line` of the line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


# ---- layers of torch.nn

LAYERS: list[tuple[str, Callable[[Any], nn.Module]]] = [
    ("Linear", lambda v: nn.Linear(4, v)),
    ("Linear", lambda v: nn.Linear(v, 4)),
    ("Conv1d", lambda v: nn.Conv1d(4, v, 3)),
    ("Conv2d", lambda v: nn.Conv2d(v, 4, 3)),
    ("Conv2d", lambda v: nn.Conv2d(4, 4, v)),
    ("Conv2d", lambda v: nn.Conv2d(4, 4, 3, padding=v)),
    ("Conv3d", lambda v: nn.Conv3d(4, 4, 3, groups=v)),
    ("ConvTranspose2d", lambda v: nn.ConvTranspose2d(4, v, 3)),
    ("BatchNorm2d", lambda v: nn.BatchNorm2d(v)),
    ("LayerNorm", lambda v: nn.LayerNorm(v)),
    ("GroupNorm", lambda v: nn.GroupNorm(v, 8)),
    ("Embedding", lambda v: nn.Embedding(10, v)),
    ("Dropout", lambda v: nn.Dropout(v)),
    ("LSTM", lambda v: nn.LSTM(4, v)),
    ("GRU", lambda v: nn.GRU(v, 4)),
    ("GRU", lambda v: nn.GRU(4, 4, v)),
    ("LSTMCell", lambda v: nn.LSTMCell(4, v)),
    ("MultiheadAttention", lambda v: nn.MultiheadAttention(v, 4)),
    ("MultiheadAttention", lambda v: nn.MultiheadAttention(8, v)),
    ("TransformerEncoderLayer", lambda v: nn.TransformerEncoderLayer(8, 4, v)),
    ("Softmax", lambda v: nn.Softmax(v)),
    # What torch takes without a look at it would compute with it.
    ("MaxPool2d", lambda v: nn.MaxPool2d(v)),
    ("AdaptiveAvgPool2d", lambda v: nn.AdaptiveAvgPool2d(v)),
    ("InstanceNorm2d", lambda v: nn.InstanceNorm2d(v)),
    ("LeakyReLU", lambda v: nn.LeakyReLU(v)),
    ("Flatten", lambda v: nn.Flatten(v)),
]


@pytest.mark.parametrize(("name", "make"), LAYERS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(LAYERS)])
def test_a_layer_of_torch_says_which_one_to_use(name: str, make: Callable[[Any], nn.Module]) -> None:
    expected = rf"torch\.nn\.{name} was given the value choice 'width'; use spacelang\.nn\.{name},"
    with pytest.raises(SpaceError, match=expected):
        Holding(lambda: make(width()))
    with pytest.raises(SpaceError, match=expected):
        Holding(lambda: LayerChoice([lambda: make(2 * width() // 2), nn.Identity()], label="layer"))


@pytest.mark.parametrize("make", [make for name, make in LAYERS[:13]], ids=[n for n, _ in LAYERS[:13]])
def test_so_it_does_outside_a_space(make: Callable[[Any], nn.Module]) -> None:
    with pytest.raises(SpaceError, match=r"use spacelang\.nn\."):
        make(width())


def test_a_layer_derived_from_one_of_torch_says_how_to_make_it_elastic() -> None:
    class Normed(nn.Linear):
        pass

    with pytest.raises(SpaceError, match=r"`class ElasticNormed\(spacelang\.nn\.ValueLayer\)"):
        Holding(lambda: Normed(4, width()))


def test_other_errors_of_layers_are_theirs() -> None:
    with pytest.raises(TypeError, match="hidden_size should be of type int, got: str"):
        Holding(lambda: nn.LSTM(4, "5"))  # type: ignore[arg-type]


def test_an_expression_of_a_tensor_and_a_choice_is_one() -> None:
    held = Holding(lambda: torch.arange(3) * width())
    assert held.freeze({"width": 4}).held.tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda v: torch.zeros(v), "be an argument of torch's zeros"),
        (lambda v: torch.ones(4).view(v, -1), "be an argument of torch's view"),
        (lambda v: nn.functional.leaky_relu(input=torch.ones(4), negative_slope=v), "torch's leaky_relu"),
        (lambda v: {4: 1, 8: 2}[v], r"be a key of a dict .* use spacelang\.language\.item"),
        (lambda v: {4: 1, 8: 2}.get(v), "be a key of a dict"),
        (lambda v: [1, 2][v], "be a plain number"),
        (lambda v: range(v), "be a plain number"),
        (lambda v: tuple(v), "be unpacked"),
        (lambda v: 1 if v else 2, "decide an `if`"),
    ],
)
def test_uses_that_need_the_value(use: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(SpaceError, match=rf"the value of width is not known .*{words}"):
        use(width())


def test_the_users_own_nn_stays() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("from spacelang import *", names)
    assert names["nn"] is nn
    assert names["ModelSpace"] is ModelSpace


# ---- factories, generators, paths


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Repeat(lambda: nn.Linear(2, 2), (1, 2)),
            r"<lambda>\(\), but a factory gets 1 argument here",
        ),
        (
            lambda: LayerChoice([nn.Linear]),
            r"gets no arguments here\. Pass Linear\(...\)",
        ),
        (lambda: Cell([nn.Linear], 2), r"Linear\(.* gets 3 arguments here: .* Pass Linear\(...\)"),
        (lambda: Cell([lambda: nn.ReLU()], 2), r"<lambda>\(\), but a factory gets 3 arguments"),
    ],
)
def test_factories_that_take_something_else(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Holding(make)


def test_type_errors_inside_a_factory_are_the_users() -> None:
    def broken(index: int) -> nn.Module:
        return nn.Linear(2, 2, index + "")  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        Holding(lambda: Repeat(broken, (1, 2)))


@pytest.mark.parametrize("verb", ["sample", "mutate", "crossover"])
def test_a_seed_is_no_generator(verb: str) -> None:
    space = Holding(lambda: InputChoice(2))
    parents = [space.default()] * {"sample": 0, "mutate": 1, "crossover": 2}[verb]
    with pytest.raises(SpaceError, match=r"rng=7 must be a numpy.random.Generator; write .*default_rng\(7\)"):
        getattr(space, verb)(*parents, 7)
    getattr(space, verb)(*parents, np.random.default_rng(7))


def test_swapped_arguments_of_an_export(tmp_path: Any) -> None:
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    with pytest.raises(SpaceError, match=r"path is a Tensor; expected the path of a file ending in \.onnx"):
        export_onnx(model, x, tmp_path / "a.onnx")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="cannot export a str; expected"):
        export_onnx("a.onnx", model, x)  # type: ignore[arg-type]


def test_the_extreme_of_one_list() -> None:
    assert (maximum([1, 3, 2]), minimum((3, 1, 2))) == (3, 1)
    assert maximum([5, width()]).possible() == (5, 8)
    with pytest.raises(SpaceError, match="maximum needs at least one value"):
        maximum([])


# ---- labels


def clashing(kind: str) -> Any:
    first, second = value_choice([3, 4], label="x"), lambda: value_choice([5, 6], label="x")
    if kind == "layer":
        return space_nn.Conv2d(first, second(), 3)
    if kind == "expression":
        return space_nn.Linear(first + second(), 3)
    module = nn.Module()
    module.first, module.second = first, second()
    return module


@pytest.mark.parametrize("kind", ["module", "layer", "expression"])
def test_two_decisions_of_one_label_in_one_place(kind: str) -> None:
    where_made = line_of(clashing, "first, second =")
    with pytest.raises(SpaceError) as caught:
        Holding(lambda: clashing(kind))
    assert str(caught.value) == (
        f"label 'x' is used for two different decisions: 2 candidates 3, 4 (at {where_made}) and "
        f"2 candidates 5, 6 (at {where_made}). Use another label for one of them."
    )


def test_nor_outside_a_space() -> None:
    with pytest.raises(SpaceError, match="label 'x' is used for two different decisions"):
        clashing("layer")


def test_an_equal_decision_may_be_made_twice() -> None:
    space = Holding(lambda: nn.ModuleList(space_nn.Linear(2, width()) for _ in range(2)))
    assert [decision.label for decision in space.decisions] == ["width"]


class Late(ModelSpace):
    """A space with a choice that is made when it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.one = LayerChoice([nn.Identity(), nn.ReLU()], label="one")

    def forward(self, x: Tensor) -> Tensor:
        late: Tensor = LayerChoice([nn.Identity(), nn.ReLU()], label="late")(self.one(x))
        return late


def test_a_choice_made_in_forward() -> None:
    place = line_of(Late.forward, "late: Tensor")
    words = f"a layer choice is made in Late.forward, at {place}, where it is a decision of no space"
    with pytest.raises(SpaceError, match=words):
        Late()(torch.ones(2))
    with pytest.raises(SpaceError, match=words):
        Late().freeze({"one": 1})(torch.ones(2))
    with model_context({"one": 1}):
        model = Late()
        with pytest.raises(SpaceError, match=words):
            model(torch.ones(2))


class Settings:
    """A plain object, which the language does not look into."""

    def __init__(self, size: Any) -> None:
        self.size = size


LOSING: dict[str, Callable[[], Any]] = {
    "value": lambda: value_choice([1, 2], label="lost"),
    "layer": lambda: LayerChoice([nn.Identity(), nn.ReLU()], label="lost"),
    "object": lambda: Settings(value_choice([1, 2], label="lost")),
}


@pytest.mark.parametrize("kind", LOSING)
def test_a_choice_that_is_kept_nowhere(kind: str) -> None:
    def make() -> nn.Module:
        layer = space_nn.Linear(2, width())
        made = LOSING[kind]()
        if isinstance(made, Settings):
            layer.settings = made
        return layer

    with pytest.warns(UserWarning, match="the choice 'lost' is made here and kept nowhere") as caught:
        space = Holding(make)
    assert (caught[0].filename, caught[0].lineno) == (__file__, LOSING[kind].__code__.co_firstlineno)
    assert [decision.label for decision in space.decisions] == ["width"]


def test_what_an_inner_space_declares_is_kept_by_the_outer() -> None:
    inner = [LayerChoice([nn.Identity(), nn.ReLU()], label="given")]
    space = Holding(
        lambda: nn.ModuleList([Holding(lambda: space_nn.Linear(2, where(width() > 4, 2, 3))), *inner])
    )
    assert {decision.label for decision in space.decisions} == {"width", "given"}


# ---- classes and objects by name


def test_a_choice_of_classes_holds_their_names() -> None:
    choice = value_choice([torch.optim.SGD, torch.optim.Adam], label="optimizer")
    (decision,) = choice.decisions()
    assert decision.candidates == ("SGD", "Adam")
    assert choice.evaluate({"optimizer": "Adam"}) is torch.optim.Adam
    assert choice.possible() == (torch.optim.SGD, torch.optim.Adam)
    with model_context({"optimizer": "SGD"}):
        assert value_choice([torch.optim.SGD, torch.optim.Adam], label="optimizer") is torch.optim.SGD


def test_a_choice_of_objects_by_name() -> None:
    choice = value_choice({"short": [1], "long": [1, 2]}, label="list", prior=[1, 0])
    assert choice.evaluate({"list": "long"}) == [1, 2]
    with pytest.raises(SpaceError, match=r"'list' got 'lang'.*Closest: 'long'"):
        choice.evaluate({"list": "lang"})
    with pytest.raises(SpaceError, match="candidate names are strings; got 1"):
        value_choice({1: "a"}, label="list")
    with pytest.raises(SpaceError, match="candidate 'SGD' is given twice"):
        value_choice([torch.optim.SGD, torch.optim.SGD], label="optimizer")
