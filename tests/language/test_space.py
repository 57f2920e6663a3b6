"""ModelSpace as an object: arguments, rebuilding, nesting, copies."""

from __future__ import annotations

import copy
import warnings
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn as plain

from spacelang import LayerChoice, ModelSpace, Repeat, SpaceError, Supernet, model_context, nn, value_choice
from spacelang.language import Value, is_frozen

from ..toys.spaces import CASES, Case

EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Their operations are lambdas, which no pickle can hold.
PICKLED = [
    n for n in CASES if n not in {"cells", "distinct cells", "loose ends", "soft loose ends", "nested cell"}
]


class Net(ModelSpace):
    def __init__(self, width: int, *sizes: int, depth: int = 1, **rest: Any) -> None:
        super().__init__()
        self.given = (width, sizes, depth, rest)
        self.layer = LayerChoice([plain.Linear(2, width), plain.Linear(2, width, bias=False)], label="layer")


class Strict(ModelSpace):
    def __init__(self, width: int, height: int = 2, *, depth: int = 1) -> None:
        super().__init__()
        self.layer = LayerChoice([plain.Linear(width, height) for _ in range(2)], label="layer")
        self.depth = depth


def test_arguments_are_those_given_by_name() -> None:
    assert Strict(3).arguments == {"width": 3}
    assert Strict(3, 4, depth=5).arguments == {"width": 3, "height": 4, "depth": 5}
    assert Net(3, 4, 5, depth=2, extra="x").arguments == {
        "width": 3,
        "sizes": (4, 5),
        "depth": 2,
        "extra": "x",
    }
    assert Net(3).arguments == {"width": 3}


def test_rebuild_changes_what_it_is_told_and_nothing_else() -> None:
    space = Net(3, 4, 5, depth=2, extra="x")
    again = space.rebuild(width=7, extra="y", more=1)
    assert type(again) is Net
    assert again is not space
    assert again.given == (7, (4, 5), 2, {"extra": "y", "more": 1})
    assert space.given == (3, (4, 5), 2, {"extra": "x"})
    assert space.rebuild(width=8).given == (8, (4, 5), 2, {"extra": "x"})
    assert space.rebuild(sizes=(9,)).given == (3, (9,), 2, {"extra": "x"})
    assert Strict(3).rebuild(depth=4).depth == 4
    assert Strict(3).rebuild(height=4).layer.candidates[0].out_features == 4


def test_rebuild_in_model_context_is_a_larger_frozen_model() -> None:
    space = Strict(3, 4)
    with model_context({"layer": 1}):
        model = space.rebuild(width=10)
    assert is_frozen(model)
    assert model.layer.in_features == 10
    assert model.rebuild(width=2).decisions  # the class knows how to be a space again
    assert space.freeze({"layer": 0}).arguments == {"width": 3, "height": 4}


def test_rebuild_does_not_share_arguments() -> None:
    class Holding(ModelSpace):
        def __init__(self, layer: plain.Module, sizes: list[int]) -> None:
            super().__init__()
            self.layer = LayerChoice([layer, plain.Tanh()], label="layer")
            self.sizes = sizes

    space = Holding(plain.Linear(2, 2), [1])
    again = space.rebuild()
    assert again.sizes is not space.sizes
    assert again.layer.candidates[0] is not space.layer.candidates[0]


def test_an_unknown_argument_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpaceError) as error:
        Strict(3).rebuild(heigth=3)
    assert str(error.value) == (
        "Strict takes no argument 'heigth'; it takes 'width', 'height', 'depth'. Closest: 'height'."
    )


def test_value_choices_as_constructor_arguments() -> None:
    class Sized(ModelSpace):
        def __init__(self, width: Any) -> None:
            super().__init__()
            self.layers = plain.Sequential(nn.Linear(2, width), nn.Linear(width, 2))

    space = Sized(value_choice([3, 5], label="width"))
    assert [d.label for d in space.decisions] == ["width"]
    model = space.freeze({"width": 5})
    assert model.arguments == {"width": 5}
    assert is_frozen(model)
    with model_context({"width": 5}):
        built = space.rebuild()
    assert built.layers[0].out_features == 5
    with pytest.raises(SpaceError, match="'width' got 4"), model_context({"width": 4}):
        space.rebuild()


class Optional(ModelSpace):
    """Uses what it is given, or nothing."""

    def __init__(self, layer: Any, others: Any = ()) -> None:
        super().__init__()
        self.layer = LayerChoice({"none": plain.Identity(), "some": plain.Sequential(layer)}, label="use")


@pytest.mark.parametrize(
    ("make", "inner"),
    [
        (lambda: LayerChoice([plain.ReLU(), plain.Tanh()], label="inner"), {"inner": 1}),
        (lambda: nn.Linear(2, value_choice([2, 4], label="inner")), {"inner": 4}),
        (lambda: Repeat(lambda i: plain.Tanh(), depth=(1, 2), label="inner"), {"inner": 2}),
    ],
    ids=["layer", "value", "depth"],
)
def test_choices_given_to_the_constructor_may_be_inactive(make: Any, inner: dict[str, Any]) -> None:
    layer = make()
    space = Optional(layer, others=[layer])
    for frozen in (space.freeze({"use": "none"}), Supernet(space).freeze({"use": "none"})):
        assert isinstance(frozen.layer, plain.Identity)
        assert is_frozen(frozen)
        assert not is_frozen(frozen.arguments["layer"])  # what was not chosen is still open
    used = space.freeze({"use": "some", **inner})
    assert used.arguments == {"layer": used.layer[0], "others": [used.layer[0]]}
    assert space.arguments["layer"] is layer
    for arch in ({"use": "none"}, {"use": "some", **inner}):
        with warnings.catch_warnings(), model_context(arch):
            warnings.simplefilter("error")  # a label that no choice asks for
            built = space.rebuild()
        assert is_frozen(built)
        assert str(built.layer) == str(space.freeze(arch).layer)
    with pytest.raises(SpaceError, match="'inner' is missing"), model_context({"use": "some"}):
        space.rebuild()


def test_a_choice_given_to_an_inner_space_may_be_held_by_the_outer_one() -> None:
    class Inner(ModelSpace):
        def __init__(self, layer: Any) -> None:
            super().__init__()

    class Outer(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            layer = LayerChoice([plain.ReLU(), plain.Tanh()], label="layer")
            self.inner = Inner(layer)
            self.layer = layer

    for frozen in (Outer().freeze({"layer": 1}), Supernet(Outer()).freeze({"layer": 1})):
        assert isinstance(frozen.layer, plain.Tanh)


@pytest.mark.parametrize("name", ["size", "decisions", "freeze", "graph"])
@pytest.mark.parametrize(
    "value", [plain.Linear(2, 2), plain.Parameter(torch.zeros(2))], ids=["module", "parameter"]
)
def test_names_of_methods_are_no_names_of_submodules(name: str, value: Any) -> None:
    class Named(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, value)

    with pytest.raises(SpaceError, match=rf"Named\.{name} is a method or property.*self\.{name}_"):
        Named()


def test_constraints_within_nested_spaces_hold() -> None:
    class Inner(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            a, b = value_choice([1, 2], label="a"), value_choice([1, 2], label="b")
            self.layer = nn.Linear(a, b)
            self.constrain(a <= b, "a must not exceed b.")

    class Outer(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()
            self.maybe = LayerChoice([Inner(), plain.Identity()], label="maybe")

    space = Outer()
    assert space.size() == 3 * 2
    with pytest.raises(SpaceError, match=r"a must not exceed b\."):
        space.validate({"a": 2, "b": 1, "maybe": 0})
    with (
        pytest.raises(SpaceError, match=r"a must not exceed b\."),
        model_context({"a": 2, "b": 1, "maybe": 0}),
    ):
        Outer()


def test_constraints_reach_into_nested_spaces() -> None:
    space = CASES["shared"].make()
    bad = {"stage/kind": 0, "x": "inner", "hidden": 2, "width": 5}
    with pytest.raises(SpaceError, match="does not hold"):
        space.validate(bad)
    space.validate({"stage/kind": 0, "x": "none", "width": 5})  # vacuous without its decision
    assert space.freeze({"stage/kind": 0, "x": "none", "width": 5}).up.out_features == 5


def test_constraints_are_checked_at_once_in_a_frozen_build() -> None:
    case = CASES["shared"]
    with (
        pytest.raises(SpaceError, match="does not hold"),
        model_context({"stage/kind": 0, "x": "inner", "hidden": 2, "width": 5}),
    ):
        case.make()


@pytest.mark.slow
@EVERY_CASE
def test_deep_copies_are_the_same_space_with_weights_of_their_own(case: Case) -> None:
    space = case.space()
    twin = copy.deepcopy(space)
    assert twin.decisions == space.decisions
    assert twin.size() == space.size()
    weights = dict(space.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in twin.named_parameters())
    own = {p.data_ptr() for p in space.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in twin.parameters())
    arch = space.sample(np.random.default_rng(0))
    assert torch.equal(twin.freeze(arch)(*case.example()), space.freeze(arch)(*case.example()))
    Supernet(twin).select(arch)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICKLED)
def test_spaces_travel_between_processes(name: str) -> None:
    """What a spawned DDP worker does with its arguments."""
    case = CASES[name]
    space = case.space()
    weights = {n: t.numpy().copy() for n, t in space.state_dict().items()}
    # Tensors travel through shared memory; numbers stand for them here.
    space_only = case.make()
    twin = ForkingPickler.loads(bytes(ForkingPickler.dumps(space_only)))
    twin.double().load_state_dict({n: torch.from_numpy(t) for n, t in weights.items()})
    assert type(twin) is type(space)
    assert twin.decisions == space.decisions
    assert twin.size() == space.size()
    arch = space.sample(np.random.default_rng(0))
    assert torch.equal(twin.freeze(arch)(*case.example()), space.freeze(arch)(*case.example()))


def test_a_space_moves_like_a_module() -> None:
    space = CASES["values"].make().to(torch.float64)
    assert {p.dtype for p in space.parameters()} == {torch.float64}
    assert {p.dtype for p in space.freeze(space.default()).parameters()} == {torch.float64}
    assert isinstance(space.width, Value)


def test_no_supernet_of_what_has_nothing_to_choose() -> None:
    model = CASES["layers"].make()
    with pytest.raises(SpaceError, match="nothing to choose: it was built inside model_context or frozen"):
        Supernet(model.freeze(model.default()))
    with pytest.raises(SpaceError, match="Supernet takes a ModelSpace; got a Linear"):
        Supernet(plain.Linear(2, 2))  # type: ignore[arg-type]
