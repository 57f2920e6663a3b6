"""Freezing: model_context builds what was chosen and nothing else; space.freeze shares nothing."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
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
    Supernet,
    model_context,
    nn,
    value_choice,
)
from spacelang.language import (
    Categorical,
    Choice,
    ChosenInputs,
    Condition,
    FrozenCell,
    Is,
    Primitive,
    architecture_of,
    is_frozen,
)

from ..toys.spaces import CASES, Case, Custom, architectures, randomise_statistics

EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def built(make: Any, arch: dict[str, Any]) -> Any:
    with model_context(arch):
        return make()


class Counted(plain.Linear):
    """A layer that counts how often it is constructed."""

    made: Counter[str] = Counter()

    def __init__(self, name: str) -> None:
        super().__init__(2, 2)
        Counted.made[name] += 1


@pytest.fixture(autouse=True)
def fresh_count() -> Iterator[None]:
    Counted.made.clear()
    yield
    Counted.made.clear()


def test_a_choice_becomes_its_candidate_itself() -> None:
    tanh, linear = plain.Tanh(), plain.Linear(2, 2)
    with model_context({"layer": "b", "input": 1, "depth": 2, "width": 5, "list": 0}):
        assert LayerChoice({"a": tanh, "b": linear}, label="layer") is linear
        assert LayerChoice([tanh, linear], label="list") is tanh
        chosen = InputChoice(2, label="input")
        blocks = Repeat(lambda i: plain.Linear(2, 2), (0, 3), label="depth")
        layer = nn.Linear(2, value_choice([3, 5], label="width"))
    assert type(chosen) is ChosenInputs
    assert type(blocks) is plain.Sequential
    assert len(blocks) == 2
    assert type(layer) is plain.Linear
    assert layer.out_features == 5


def test_state_dict_keys_are_those_of_a_network_written_by_hand() -> None:
    arch = {"outer": "shifted", "inner": "linear", "layer_1": 0, "a": 0, "b": 0, "c": 0}
    keys = set(built(CASES["layers"].make, arch).state_dict())
    assert keys == {
        f"{module}.{name}"
        for module in ("outer.inner", "listed", "deep.0", "deep.1")
        for name in ("weight", "bias")
    }
    arch = CASES["values"].make().default()
    assert set(built(CASES["values"].make, arch).state_dict()) == {
        "features.0.weight", "features.0.bias", "features.3.weight", "features.3.bias",
        "features.4.weight", "features.4.bias", "features.5.weight", "features.5.bias",
        "features.1.weight", "features.1.bias", "features.1.running_mean", "features.1.running_var",
        "features.1.num_batches_tracked", "head.weight", "head.bias",
    }  # fmt: skip


@pytest.mark.slow
@EVERY_CASE
def test_frozen_models_are_plain_and_alike_whichever_way_they_are_made(case: Case) -> None:
    space = case.space()
    for arch in architectures(space, 3):
        model, copied = built(case.make, arch).double(), space.freeze(arch)
        assert is_frozen(model)
        assert is_frozen(copied)
        assert not any(isinstance(m, Primitive) for m in (*model.modules(), *copied.modules()))
        shapes = {name: t.shape for name, t in copied.state_dict().items()}
        assert {name: t.shape for name, t in model.state_dict().items()} == shapes
        model.load_state_dict(copied.state_dict())
        assert torch.equal(model(*case.example()), copied(*case.example()))
        assert copied.decisions == ()
        assert model.decisions == ()
    assert not is_frozen(space)


class Factories(ModelSpace):
    """Factories everywhere: in choices, repeats and cells, and within one another."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = LayerChoice({n: lambda n=n: Counted(n) for n in ("a", "b", "c")}, label="flat")
        self.nested = LayerChoice(
            [
                lambda: LayerChoice([lambda k=k: Counted(f"n{k}") for k in range(3)], label="deep"),
                plain.Identity,
            ],
            label="nested",
        )
        self.blocks = Repeat(
            lambda i: LayerChoice([lambda: Counted(f"r{i}x"), lambda: Counted(f"r{i}y")], label=f"b{i}"),
            (0, 4),
            label="depth",
        )
        self.cell = Cell(
            {n: lambda i, k, j, n=n: Counted(f"{n}{i}{k}{j}") for n in ("p", "q")},
            2,
            2,
            1,
            concat_dim=-1,
            label="c",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.blocks(self.nested(self.flat(x))))


def test_only_chosen_factories_are_called() -> None:
    space = Factories()
    assert sum(Counted.made.values()) == 3 + 3 + 8 + 2 * 3  # a cell has a module per edge and candidate
    assert Counted.made["p1None0"] == Counted.made["q2None1"] == 1
    arch = space.default() | {"flat": "b", "nested": 0, "deep": 2, "depth": 2, "b0": 1, "b1": 0}
    arch |= {
        "c/op_1_0": "p",
        "c/op_1_1": "q",
        "c/op_2_0": "q",
        "c/op_2_1": "q",
        "c/input_2_0": 1,
        "c/input_2_1": 1,
    }
    Counted.made.clear()
    model = built(Factories, arch)
    assert Counted.made == Counter(["b", "n2", "r0y", "r1x", "p100", "q110", "q201", "q211"])
    Counted.made.clear()
    with pytest.warns(UserWarning, match="no choice asked for these labels: 'deep', 'b0', 'b1'"):
        built(Factories, arch | {"nested": 1, "depth": 0})
    assert Counted.made == Counter(["b", "p100", "q110", "q201", "q211"])
    Counted.made.clear()
    space.freeze(arch)
    assert not Counted.made  # weights are inherited, nothing is constructed
    assert type(model.cell) is FrozenCell


def test_eager_candidates_that_are_not_chosen_need_no_labels() -> None:
    class Inner(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="inner")
            self.cell = Cell([plain.Identity()], 2, merge_op="loose_end", label="cell")
            self.head = nn.Conv2d(self.cell.num_outputs * 2, 2, 1)
            self.size = value_choice([1, 2], label="size")

    class Outer(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width = value_choice([2, 3], label="width")
            candidates = [
                LayerChoice([plain.Tanh(), plain.ReLU()], label="nested"),
                Repeat(LayerChoice([plain.Tanh(), plain.ReLU()], label="kind"), (1, 2), label="depth"),
                nn.Linear(2, width * 2),
                Cell([plain.Tanh()], 1, 2, label="c"),
                InputChoice(2, label="i"),
                Inner(),
                plain.Identity(),
            ]
            self.layer = LayerChoice(candidates, label="layer")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(built(Outer, {"layer": 6}).layer) is plain.Identity
        assert type(built(Outer, {"layer": 2, "width": 3}).layer) is plain.Linear
    with pytest.raises(
        SpaceError, match="for Outer has a problem:\n  'width' is missing; candidates are 2, 3"
    ):
        built(Outer, {"layer": 2})
    with pytest.raises(SpaceError) as error:
        built(Outer, {"layer": 5})
    assert str(error.value).count(" is missing") == 2 + 2 * 2
    assert is_frozen(Outer().freeze({"layer": 6}))


@EVERY_CASE
def test_missing_labels_raise_at_construction_all_of_them(case: Case) -> None:
    space = case.make()
    for arch in architectures(space, 2):
        for label in arch:
            rest = {key: value for key, value in arch.items() if key != label}
            with pytest.raises(SpaceError) as error:
                built(case.make, rest)
            assert f"  {label!r} is missing; candidates are " in str(error.value)
    unconditional = [d for d in space.decisions if not space.decision_space.conditions[d.label].labels]
    with pytest.raises(SpaceError) as error:
        built(case.make, {})
    assert {f"  {d.label!r} is missing" for d in unconditional} <= {
        line.split(";")[0] for line in str(error.value).splitlines()
    }


def test_a_choice_left_open_outside_a_space_says_so_when_it_runs() -> None:
    with model_context({"width": 4}):
        layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="x")
        cell = Cell([plain.Tanh()], 1, label="c")
        with pytest.raises(SpaceError, match="'x' is missing"):
            _ = layer.in_features
        assert not hasattr(layer, "_private")
        assert cell.num_outputs == 1
        value_choice([2, 4], label="width")
    with pytest.raises(SpaceError, match="'x' is missing; candidates are 0, 1"):
        layer(torch.zeros(1))


def test_labels_nobody_asked_for_warn_at_the_end() -> None:
    arch = CASES["layers"].make().default() | {"stray": 1, "other": "x"}
    with pytest.warns(UserWarning, match="no choice asked for these labels: 'stray', 'other'") as caught:
        built(CASES["layers"].make, arch)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_no_warning_hides_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError), model_context({"stray": 1}):
            1 / 0  # noqa: B018


def storages(module: plain.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.slow
@EVERY_CASE
def test_a_frozen_model_aliases_nothing(case: Case) -> None:
    space = case.space()
    supernet = Supernet(space)
    for arch in architectures(space, 2):
        models = [space.freeze(arch), space.freeze(arch), supernet.freeze(arch), supernet.freeze(arch)]
        seen = storages(space) | storages(supernet)
        for model in models:
            mine = storages(model)
            assert mine.isdisjoint(seen)
            distinct = [t for t in (*model.parameters(), *model.buffers()) if t.numel()]
            assert len(mine) == len(distinct)  # no two tensors of one model share memory either
            seen |= mine


def test_duplicated_slots_of_a_cell_become_separate_modules() -> None:
    space = CASES["cells"].space()
    randomise_statistics(space)
    arch = space.default() | {f"cell/op_{i}_{k}": o for i in (2, 3) for k, o in enumerate(["conv3", "conv3"])}
    arch |= {f"cell/input_{i}_{k}": 1 for i in (2, 3) for k in (0, 1)}
    for model in (space.freeze(arch), Supernet(space).freeze(arch)):
        first, second = model.cells[0].operations[0]
        assert first is not second
        assert torch.equal(first[1].weight, second[1].weight)
        assert storages(first).isdisjoint(storages(second))
        with torch.no_grad():
            first[1].weight.zero_()
        assert second[1].weight.abs().sum() > 0


@pytest.mark.slow
@EVERY_CASE
def test_weights_are_inherited_and_the_space_is_left_alone(case: Case) -> None:
    """Freezing, relaxing, selecting and training what comes of it change neither weights nor labels."""
    space = case.space()
    randomise_statistics(space)
    weights = {name: tensor.clone() for name, tensor in space.state_dict().items()}
    labels, keys = [d.label for d in space.decisions], list(space.state_dict())
    modules = [type(m) for m in space.modules()]
    default = space(*case.example()) if case.make is not CASES["loose ends"].make else None
    space.load_state_dict(weights)
    supernet = Supernet(space)
    for arch in architectures(space, 2):
        supernet.select(arch)
        for model in (supernet, space.freeze(arch), supernet.freeze(arch)):
            loss = model(*case.example()).square().mean()
            parameters = [p for p in model.parameters() if p.requires_grad]
            if loss.requires_grad:
                loss.backward()
            torch.optim.SGD(parameters or [torch.zeros(1)], lr=1.0).step()
            with torch.no_grad():
                for buffer in model.buffers():
                    buffer.add_(1)
    assert list(space.state_dict()) == keys
    assert [d.label for d in space.decisions] == labels
    assert [type(m) for m in space.modules()] == modules
    assert all(torch.equal(tensor, weights[name]) for name, tensor in space.state_dict().items())
    if default is not None:
        assert torch.equal(space(*case.example()), default)


def test_inherited_weights_are_those_of_the_space() -> None:
    space = CASES["layers"].space()
    arch = {"outer": "shifted", "inner": "linear", "layer_1": 0, "a": 0, "b": 0, "c": 0}
    model = space.freeze(arch)
    assert torch.equal(model.listed.weight, space.listed.candidates[0].weight)
    inner = space.outer.candidates[1].inner
    assert torch.equal(model.outer.inner.weight, inner.candidates[0].weight)


def test_training_mode_requires_grad_and_hooks_are_inherited() -> None:
    space = CASES["values"].space().eval()
    space.features[0].requires_grad_(False)
    for model in (space.freeze(space.default()), Supernet(space).freeze(space.default())):
        assert not any(module.training for module in model.modules())
        assert not model.features[0].weight.requires_grad
        assert model.head.weight.requires_grad


def test_freezing_draws_nothing_from_the_generator() -> None:
    space = CASES["values"].space()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    space.freeze(space.default())
    Supernet(space).freeze(space.default())
    assert torch.equal(torch.rand(1), expected)


def test_a_frozen_model_with_a_constraint_can_be_part_of_another_space() -> None:
    model = CASES["shared"].make().freeze({"stage/kind": 0, "x": "none", "width": 3})

    class Around(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([model, plain.Linear(3, 3)], label="layer")

    assert [d.label for d in Around().decisions] == ["layer"]


class Refined(Primitive):
    """A custom primitive that also says when its part is used, and builds choices of its own."""

    def __init__(self, *, label: str) -> None:
        super().__init__()
        self.decision = Categorical(label, [True, False])
        self.inner = LayerChoice([plain.Linear(2, 2), plain.Tanh()], label=f"{label}/inner")

    def decisions(self) -> tuple[Categorical, ...]:
        return (self.decision,)

    def branches(self) -> list[tuple[Condition, str, plain.Module]]:
        return [(Is(Choice(self.decision), (True,)), "inner", self.inner)]

    def freeze(self, arch: Mapping[str, Any]) -> plain.Module:
        return self.inner if arch[self.decision.label] else plain.Identity()


class WithRefined(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.part = Refined(label="use")


def test_a_custom_primitive_works_everywhere() -> None:
    space = Custom()
    assert {d.label for d in space.decisions} == {"gate", "around", "within", "either", "inner"}
    arch = {"gate": "off", "around": "on", "within": 1, "either": 0, "inner": "on"}
    model, x = space.freeze(arch), torch.randn(4, 3)
    assert [type(m) for m in model.children()] == [plain.Identity, plain.Tanh, plain.Linear]
    assert [type(m) for m in built(Custom, arch).children()] == [plain.Identity, plain.Tanh, plain.Linear]
    supernet = Supernet(space)
    supernet.select(arch)
    assert torch.equal(supernet(x), model(x))
    supernet.set_mixture({"gate": torch.tensor([[0.25, 0.75]])})
    mixed = 0.25 * space.gate.layer(x) + 0.75 * x
    assert torch.allclose(supernet(x), model.either(model.around(mixed)))
    supernet.select(arch | {"gate": "on"})
    with pytest.raises(SpaceError, match="'inner' is missing"):
        built(Custom, {key: value for key, value in arch.items() if key != "inner"})


def test_the_branches_of_a_custom_primitive_are_conditions() -> None:
    space = WithRefined()
    assert space.size() == 3
    assert type(built(WithRefined, {"use": False}).part) is plain.Identity
    assert type(built(WithRefined, {"use": True, "use/inner": 1}).part) is plain.Tanh
    assert type(space.freeze({"use": False}).part) is plain.Identity
    with pytest.raises(SpaceError, match="'use/inner' is missing"):
        built(WithRefined, {"use": True})
    with pytest.raises(SpaceError, match="'use' got 1; candidates are True, False"):
        built(WithRefined, {"use": 1})
    with pytest.raises(NotImplementedError, match=r"Refined must implement relax\(builder\)"):
        Supernet(space)


def test_a_module_used_twice_is_frozen_once() -> None:
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.first = LayerChoice([plain.Linear(2, 2), plain.Tanh()], label="x")
            self.second = self.first

    model = Twice().freeze({"x": 0})
    assert model.first is model.second


@EVERY_CASE
def test_a_frozen_copy_is_copied_like_any_module(case: Case) -> None:
    space = case.space()
    model = space.freeze(space.default()).eval()
    assert torch.equal(copy.deepcopy(model)(*case.example()), model(*case.example()))


@pytest.mark.slow
@EVERY_CASE
def test_a_frozen_model_knows_its_architecture(case: Case) -> None:
    space = case.space()
    for arch in architectures(space, 2):
        model = built(case.make, arch)
        for frozen in (space.freeze(arch), Supernet(space).freeze(arch), model, copy.deepcopy(model)):
            known = architecture_of(frozen)
            assert known is not None
            assert space.canonical(known) == space.canonical(arch)
    assert architecture_of(space) is None
    assert architecture_of(Supernet(space)) is None


def test_labels_that_nothing_asked_for_are_no_part_of_a_built_model() -> None:
    class One(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([plain.Tanh(), plain.ReLU()], label="layer")

    with pytest.warns(UserWarning, match="stray"):
        assert architecture_of(built(One, {"layer": 1, "stray": 2})) == {"layer": 1}
