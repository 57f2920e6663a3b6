"""Labels: explicit, numbered, scoped; the same in a space and in a frozen model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
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
from spacelang.language import current_architecture, label_scope

from ..toys.spaces import CASES, Case, architectures


def two() -> list[plain.Module]:
    return [plain.Linear(2, 2), plain.Identity()]


class Numbered(ModelSpace):
    """Nothing has a label of its own, at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice(two())
        self.second = LayerChoice({"deep": lambda: LayerChoice(two()), "flat": plain.Identity})
        self.pick = InputChoice(2)
        self.blocks = Repeat(lambda i: plain.Sequential(LayerChoice(two()), LayerChoice(two())), (1, 2))
        self.fixed = Repeat(lambda i: LayerChoice(two()), 2)
        self.linear = nn.Linear(2, value_choice([2, 3]))
        self.cell = Cell([lambda i, k, j: LayerChoice(two()), plain.Identity()], 1, concat_dim=-1)
        self.last = LayerChoice(two())


NUMBERED = [
    "layer_1",
    "layer_2",
    "layer_2/deep/layer_1",
    "input_1",
    "depth_1",
    "depth_1/0/layer_1",
    "depth_1/0/layer_2",
    "depth_1/1/layer_1",
    "depth_1/1/layer_2",
    "depth_2/0/layer_1",
    "depth_2/1/layer_1",
    "value_1",
    "cell_1/op_1_0",
    "cell_1/input_1_0",
    "cell_1/edge_0_1/0/layer_1",
    "layer_3",
]


def test_missing_labels_are_numbered_by_construction_order_within_their_scope() -> None:
    assert [decision.label for decision in Numbered().decisions] == NUMBERED


@pytest.mark.parametrize("seed", range(4))
def test_a_frozen_build_asks_for_the_labels_the_space_has(
    seed: int, recwarn: pytest.WarningsRecorder
) -> None:
    space = Numbered()
    for arch in architectures(space, 4, seed):
        with model_context(arch):  # a label numbered otherwise would be missing here, or left unused
            model = Numbered()
        assert model.state_dict().keys() == space.freeze(arch).state_dict().keys()
    assert not recwarn.list


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_toy_space_builds_under_its_own_labels(case: Case, recwarn: pytest.WarningsRecorder) -> None:
    space = case.make()
    for arch in architectures(space, 3):
        with model_context(arch):
            case.make()
    assert not recwarn.list


def test_two_spaces_in_a_row_number_alike() -> None:
    assert [d.label for d in Numbered().decisions] == [d.label for d in Numbered().decisions]


def test_scopes_nest_and_prefix_explicit_and_numbered_labels() -> None:
    class Scoped(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            with label_scope("a"):
                self.one = LayerChoice(two(), label="x")
                with label_scope("b"):
                    self.two = LayerChoice(two(), label="x")
                    self.three = LayerChoice(two())
                self.four = LayerChoice(two())
            self.five = LayerChoice(two())
            self.six = Cell(two(), 1, label="cell", concat_dim=-1)
            with label_scope("b"):
                self.seven = Cell(two(), 1, label="cell", concat_dim=-1)

    assert [d.label for d in Scoped().decisions] == [
        "a/x",
        "a/b/x",
        "a/b/layer_1",
        "a/layer_1",
        "layer_1",
        "cell/op_1_0",
        "cell/input_1_0",
        "b/cell/op_1_0",
        "b/cell/input_1_0",
    ]


def test_a_scope_is_left_when_its_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), label_scope("lost"):
        1 / 0  # noqa: B018
    assert str(value_choice([1], label="x")) == "x"


def test_an_explicit_label_in_a_repeated_block_is_shared_by_its_repetitions() -> None:
    class Same(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = Repeat(lambda i: LayerChoice(two(), label="kind"), (1, 3), label="depth")

    assert [d.label for d in Same().decisions] == ["depth", "kind"]


def test_nested_spaces_number_together_with_the_outer_one() -> None:
    class Outer(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.before = LayerChoice(two())
            self.inner = Numbered()
            self.after = LayerChoice(two())

    labels = [d.label for d in Outer().decisions]
    assert labels[:3] == ["layer_1", "layer_2", "layer_3"]
    assert labels[-1] == "layer_5"
    assert len(set(labels)) == len(labels) == len(NUMBERED) + 2


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: LayerChoice(two()), "layer"),
        (lambda: InputChoice(2), "input"),
        (lambda: Repeat(plain.Identity(), (0, 1)), "depth"),
        (lambda: Cell(two(), 1), "cell"),
        (lambda: value_choice([1, 2]), "value"),
    ],
)
def test_outside_a_space_a_label_is_needed(make: Any, kind: str) -> None:
    with pytest.raises(
        SpaceError, match=f"a {kind} choice outside ModelSpace.__init__ needs a label.*my_{kind}"
    ):
        make()


@pytest.mark.parametrize("label", ["", 3, b"x", ["x"]])
def test_a_label_is_a_non_empty_string(label: Any) -> None:
    with pytest.raises(SpaceError, match="a label must be a non-empty string; got"):
        LayerChoice(two(), label=label)


def test_a_label_for_two_different_decisions_is_refused_where_the_space_is_built() -> None:
    class Clash(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.one = LayerChoice(two(), label="x")
            self.two = nn.Linear(2, value_choice([2, 3], label="x"))

    with pytest.raises(SpaceError) as error:
        Clash()
    line = Clash.__init__.__code__.co_firstlineno + 2
    assert str(error.value) == (
        f"label 'x' is used for two different decisions: 2 candidates 0, 1 (at {__file__}:{line}) and "
        f"2 candidates 2, 3 (at {__file__}:{line + 1}). Use another label for one of them."
    )


@pytest.mark.slow
def test_threads_do_not_see_each_others_contexts() -> None:
    """Eight threads freeze different architectures and build spaces at the same time."""
    failures: list[BaseException] = []
    ready = threading.Barrier(8)

    def work(k: int) -> None:
        try:
            assert current_architecture() is None
            arch = {"x": k % 2, "y": k % 3}
            ready.wait(30)
            for _ in range(20):
                with model_context(arch):
                    assert current_architecture() == arch
                    layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="x")
                    value = value_choice([0, 1, 2], label="y")
                assert type(layer) is [plain.Tanh, plain.ReLU][k % 2]
                assert value == k % 3
                assert [d.label for d in Numbered().decisions] == NUMBERED
        except BaseException as error:  # noqa: BLE001, RUF100
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    with model_context({"outer/x": 0}), label_scope("outer"):  # a new thread inherits neither
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert isinstance(LayerChoice([plain.Tanh(), plain.ReLU()], label="x"), plain.Tanh)
    assert not failures


def test_the_architecture_in_force_is_read_only_and_gone_afterwards() -> None:
    with model_context({"x": 0}):
        arch = current_architecture()
        assert arch == {"x": 0}
        with pytest.raises(TypeError):
            arch["x"] = 1  # type: ignore[index]
        LayerChoice(two(), label="x")
    assert current_architecture() is None


class Encoder(ModelSpace):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = LayerChoice([plain.Linear(width, 2), plain.Tanh()], label="layer")
        self.last = LayerChoice([plain.Tanh(), plain.Identity()])

    def forward(self, x: Any) -> Any:
        return self.last(self.layer(x))


class Twins(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Encoder(prefix="left"), Encoder(3, prefix="right")


def test_a_prefix_makes_two_uses_of_a_class_decide_for_themselves() -> None:
    space = Twins()
    assert [d.label for d in space.decisions] == [
        "left/layer",
        "left/layer_1",
        "right/layer",
        "right/layer_1",
    ]
    assert space.size() == 16
    arch = space.default() | {"right/layer": 1}
    with model_context(arch):
        built = Twins()
    for model in (built, space.freeze(arch)):
        assert isinstance(model.left.layer, plain.Linear)
        assert isinstance(model.right.layer, plain.Tanh)
    alone = Encoder(3, prefix="a")
    assert alone.arguments == {"width": 3, "prefix": "a"}
    for again in (alone.rebuild(width=4), type(alone)(**alone.arguments)):
        assert [d.label for d in again.decisions] == ["a/layer", "a/layer_1"]
