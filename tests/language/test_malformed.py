"""Wrong architecture dicts: always a SpaceError that says what to type, never another exception."""

from __future__ import annotations

import copy
import random
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn as plain

from spacelang import LayerChoice, ModelSpace, SpaceError, Supernet, model_context, nn, value_choice
from spacelang.errors import quoted, short

from ..toys.spaces import CASES, architectures


def nested(depth: int) -> Any:
    junk: Any = []
    for k in range(depth):
        junk = [junk] if k % 2 else {"x": junk}
    return junk


class Unprintable:
    """Its representation raises, and so does comparing it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = object.__hash__


JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 99, 10**30, 10**6000, 1.0, 1.5, -0.0, float("nan"), float("inf"), 1j,
    "", "x", "0", "conv3", "Conv3", "\udc80", "a\nb", "é" * 3000, b"conv3",
    [], [0], [1], [0, 0], [0, 1], [1, 0], [2, 1, 0], [0, 99], [True], ["0"], [[0]], [None], (0,), (0, 1), (),
    {}, {"a": 1}, {1: {2: {3: []}}}, set(), {0}, frozenset({1}), range(2), object, object(), len,
    Unprintable(),
    nested(20), nested(5000), np.int64(1), np.array([0, 1]), np.array(1), torch.tensor(1), torch.zeros(2, 2),
    plain.Identity(), slice(1), Ellipsis, NotImplemented,
]  # fmt: skip
KEYS: list[Any] = [
    "",
    "unknown",
    "x/y/z",
    "é" * 3000,
    "\udc80",
    0,
    -1,
    10**6000,
    None,
    True,
    (1, 2),
    b"x",
    1.5,
]


def mutated(arch: dict[str, Any], rng: random.Random) -> dict[Any, Any]:
    """`arch` with one to three keys dropped, added or given junk."""
    result: dict[Any, Any] = copy.deepcopy(arch)
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(4)
        known = [label for label in result if label in arch]
        if kind == 0 and known:
            del result[rng.choice(known)]
        elif kind == 1:
            result[rng.choice(KEYS)] = rng.choice(JUNK)
        elif kind == 2 and known:
            result[rng.choice(known)[:-1] + "?"] = 0  # a typing error
        elif known:
            result[rng.choice(known)] = rng.choice(JUNK)
    return result


FUZZED = ["layers", "inputs", "cells", "values", "shared", "depths", "nested cell", "attention"]
FUZZED += ["custom", "loose ends"]


def refusal(space: ModelSpace, arch: Any) -> str:
    """What validation says, or an empty string."""
    try:
        space.validate(arch)
    except SpaceError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_a_thousand_random_mutations(name: str) -> None:
    """Ten spaces, 10,000 mutations: valid, or a SpaceError that names label, value and candidates."""
    space, rng = CASES[name].make(), random.Random(name)
    archs = architectures(space, 30)
    labels = {decision.label: decision for decision in space.decisions}
    told = {"is missing": 0, "got": 0, "is not a label": 0}
    for _ in range(1000):
        arch = mutated(rng.choice(archs), rng)
        text = refusal(space, arch)
        if not text:
            kept = space.canonical(arch)
            assert kept == space.canonical(kept)
            continue
        lines = text.splitlines()[1:]
        assert lines
        for label in arch.keys() - labels.keys():
            assert f"  {short(label)} (= {short(arch[label])}) is not a label of this space." in text
            told["is not a label"] += 1
        for label, decision in labels.items():
            mine = [line for line in lines if line.startswith(f"  {label!r} ")]
            assert len(mine) <= 1
            for line in mine:
                problem = f"got {short(arch[label])};" if label in arch else "is missing;"
                assert line.startswith(f"  {label!r} {problem}")
                assert quoted(decision.candidates, 8) in line
                told["got" if label in arch else "is missing"] += 1
    assert min(told.values()) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_every_door_refuses_what_validation_refuses(name: str) -> None:
    """model_context, freeze and select on junk: built where it is valid, else a SpaceError."""
    case = CASES[name]
    space, rng = case.make(), random.Random(name)
    supernet, archs = Supernet(space), architectures(space, 10)
    outcomes = {True: 0, False: 0}
    for k in range(120):
        arch = mutated(rng.choice(archs), rng) if k % 10 else rng.choice(archs)
        known = {label: value for label, value in arch.items() if label in {d.label for d in space.decisions}}
        valid = not space.decision_space.problems(known)
        outcomes[valid] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels that no choice asked for
            if valid:
                with model_context(known):
                    case.make()
            else:
                with pytest.raises(SpaceError), model_context(known):
                    case.make()
                with pytest.raises(SpaceError), model_context(arch):  # type: ignore[arg-type]
                    case.make()
        for door in (space.freeze, supernet.select, supernet.freeze, space.canonical, space.encode):
            if valid and arch == known:
                door(arch)
            elif not valid:
                with pytest.raises(SpaceError):
                    door(arch)
    assert min(outcomes.values()) >= 10


@cache
def made(name: str) -> ModelSpace:
    """A toy space, made once."""
    return CASES[name].make()


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    name=st.sampled_from(["layers", "inputs", "triples", "values"]),
    changes=st.dictionaries(st.integers(0, 20), VALUES, max_size=3),
    extra=st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
)
def test_arbitrary_data_in_place_of_values(name: str, changes: dict[int, Any], extra: dict[str, Any]) -> None:
    space = made(name)
    labels = [decision.label for decision in space.decisions]
    arch = space.default() | {labels[i % len(labels)]: value for i, value in changes.items()} | extra
    if space.decision_space.problems(arch):
        with pytest.raises(SpaceError, match=r"^the architecture has "):
            space.validate(arch)
    else:
        space.freeze(arch)


@pytest.mark.parametrize("junk", [None, 3, "arch", [], [("layer", 1)], {1, 2}, object(), nested(3)["x"]])
def test_what_is_no_dict_is_refused_everywhere(junk: Any) -> None:
    space = CASES["layers"].make()
    for door in (space.validate, space.freeze, space.canonical, Supernet(space).select):
        with pytest.raises(SpaceError, match="an architecture is a dict"):
            door(junk)
    with pytest.raises(SpaceError, match="expected an architecture dict"), model_context(junk):
        pass


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        operations = {name: plain.Identity() for name in ("conv_3x3", "conv_5x5", "pool")}
        self.first = LayerChoice(operations, label="normal/op_2_0")
        self.second = LayerChoice(operations, label="normal/op_2_1")
        self.third = nn.Linear(2, value_choice([16, 32], label="width"))


def test_every_problem_is_told_at_once_with_the_nearest_name() -> None:
    with pytest.raises(SpaceError) as error:
        Net().validate({"normal/op_2_0": "conv_7x7", "normal/op2_1": "pool", "width": 24})
    assert str(error.value) == (
        "the architecture has 4 problems:\n"
        "  'normal/op2_1' (= 'pool') is not a label of this space. Closest: 'normal/op_2_1'.\n"
        "  'normal/op_2_0' got 'conv_7x7'; candidates are 'conv_3x3', 'conv_5x5', 'pool'. "
        "Closest: 'conv_5x5'.\n"
        "  'normal/op_2_1' is missing; candidates are 'conv_3x3', 'conv_5x5', 'pool'.\n"
        "  'width' got 24; candidates are 16, 32."
    )


def test_one_problem_reads_as_one() -> None:
    arch = {"one": 0, "two": [0, 1], "mean": [1, 0], "any_sum": [2], "any_mean": [0, 0]}
    with pytest.raises(SpaceError) as error:
        CASES["inputs"].make().validate(arch)
    assert str(error.value) == (
        "the architecture has a problem:\n"
        "  'any_mean' got [0, 0]; expected a list of one or more different candidates out of 0, 1, 2."
    )


def test_model_context_tells_every_problem_of_the_constructor() -> None:
    with pytest.raises(SpaceError) as error, model_context({"normal/op_2_0": "conv_7x7", "width": 24}):
        Net()
    assert str(error.value) == (
        "the architecture for Net has 3 problems:\n"
        "  'normal/op_2_0' got 'conv_7x7'; candidates are 'conv_3x3', 'conv_5x5', 'pool'. "
        "Closest: 'conv_5x5'.\n"
        "  'normal/op_2_1' is missing; candidates are 'conv_3x3', 'conv_5x5', 'pool'.\n"
        "  'width' got 24; candidates are 16, 32."
    )


def test_violated_constraints_are_told_with_their_message() -> None:
    space = CASES["values"].make()
    arch = space.default() | {"width": 6, "kernel": 5}
    with pytest.raises(SpaceError, match=r"a problem:\n  kernel 5 is too large for width 6\."):
        space.validate(arch)
    with pytest.raises(SpaceError, match=r"kernel 5 is too large for width 6\."), model_context(arch):
        CASES["values"].make()


def test_two_equal_inputs_are_refused_by_cells_that_forbid_them() -> None:
    case = CASES["distinct cells"]
    arch = case.make().default() | {"cell/input_2_0": 1, "cell/input_2_1": 1}
    message = "node 2 of cell 'cell' must read different inputs in 'cell/input_2_0', 'cell/input_2_1'"
    with pytest.raises(SpaceError, match=message):
        case.make().validate(arch)
    with pytest.raises(SpaceError, match=message), model_context(arch):
        case.make()


def test_inactive_labels_may_hold_anything() -> None:
    arch = {"outer": "scale", "inner": nested(3), "layer_1": 0, "a": 1, "b": "junk", "c": -1}
    case = CASES["layers"]
    assert case.make().canonical(arch) == {"outer": "scale", "layer_1": 0, "a": 1}
    with model_context(arch):
        model = case.make()
    assert model.state_dict().keys() == case.make().freeze(arch).state_dict().keys()


def test_one_element_lists_are_accepted_for_one_input() -> None:
    space = CASES["inputs"].make()
    arch = space.default() | {"one": [2], "two": (1, 0)}
    assert space.canonical(arch)["one"] == 2
    assert space.canonical(arch)["two"] == [0, 1]
