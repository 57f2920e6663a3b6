"""Spaces joined with decisions that are no part of their models, and objects that hold value choices."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import SpaceError, model_context, value_choice
from spacelang.graph import architecture_graph
from spacelang.language import Categorical, Tunable, architecture_of, is_frozen, open_decisions

from ..toys.spaces import CASES, Case
from ..toys.trials import Chain, Conditional

RATES = (0.001, 0.01, 0.1)
RATE = Categorical("lr", RATES)
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


# ---- joined spaces


@pytest.mark.slow
@EVERY_CASE
def test_every_architecture_comes_with_every_further_value(case: Case) -> None:
    space = case.space()
    joined = space.joined([RATE])
    assert joined.size() == 3 * space.size()
    rng = np.random.default_rng(0)
    arch = joined.sample(rng)
    joined.validate(arch)
    own = {label: value for label, value in arch.items() if label != "lr"}
    space.validate(own)
    assert list(joined.encode(arch)) == [*space.encode(own), *RATE.indicator(arch["lr"])]
    others = [a for a in joined.neighbours(arch) if a["lr"] != arch["lr"]]
    assert sorted(a["lr"] for a in others) == sorted(set(RATES) - {arch["lr"]})
    assert {frozenset(a) - {"lr"} for a in others} == {frozenset(space.canonical(own))}
    assert len(list(joined.neighbours(arch))) == len(list(space.neighbours(own))) + 2
    joined.validate(joined.mutate(arch, rng))
    joined.validate(joined.crossover(arch, joined.default(), rng))


def test_the_grid_takes_the_further_decisions_last() -> None:
    grid = list(Chain(1).joined([RATE]).grid())
    assert grid == [{"layer0": layer, "lr": rate} for layer in ("one", "two", "three") for rate in RATES]


def test_joining_leaves_the_space_and_shares_its_modules() -> None:
    space = Chain(2)
    joined = space.joined([RATE])
    assert [d.label for d in space.decisions] == ["layer0", "layer1"]
    assert [d.label for d in joined.decisions] == ["layer0", "layer1", "lr"]
    assert joined.layers is space.layers
    assert space.joined([]) is space
    assert [d.label for d in joined.joined([Categorical("wd", (0, 1))]).decisions][2:] == ["lr", "wd"]
    assert copy.deepcopy(joined).decisions == joined.decisions


def test_hashes_differ_by_further_decisions_and_graphs_do_not() -> None:
    space = Conditional()
    joined = space.joined([RATE])
    assert len({joined.hash(arch) for arch in joined.grid()}) == joined.size() == 84
    arch = joined.default()
    assert joined.graph.nodes == space.graph.nodes
    assert architecture_graph(joined, arch).nodes == architecture_graph(space, space.default()).nodes


def test_models_know_only_what_is_theirs() -> None:
    joined = Conditional().joined([RATE])
    arch = {"depth": 1, "block0": "two", "bias": 3, "lr": 0.1}
    model = joined.freeze(arch)
    assert is_frozen(model)
    assert not model.decisions
    assert architecture_of(model) == {"depth": 1, "block0": "two", "bias": 3}
    assert model(torch.tensor(5.0)) == 13
    with pytest.raises(SpaceError, match="'lr' is missing"):
        joined.freeze({"depth": 0, "bias": 0})
    with pytest.raises(SpaceError, match=r"'lr' .* is not a label of this space"):
        Conditional().freeze(arch)


def test_rebuilding_keeps_the_further_decisions() -> None:
    joined = Chain(2).joined([RATE])
    assert [d.label for d in joined.rebuild(layers=1).decisions] == ["layer0", "lr"]
    with model_context({"layer0": "two"}):
        assert not joined.rebuild(layers=1).decisions


def test_a_shared_label_is_one_decision() -> None:
    bias = Categorical("bias", (0, 1, 2, 3))
    assert Conditional().joined([bias]).size() == Conditional().size() == 28
    with pytest.raises(SpaceError, match="label 'bias' is used for two different decisions"):
        Conditional().joined([Categorical("bias", (0, 1))])


def test_a_shared_label_is_decided_even_where_the_space_does_not_use_it() -> None:
    """Of depth 0, 1, 2 the second block exists in the last alone: 4 * (2 + 2 * 2 + 2 * 2)."""
    joined = Conditional().joined([Categorical("block1", ("one", "two"))])
    assert joined.size() == 40
    shallow = {"depth": 0, "block1": "two", "bias": 1}
    assert joined.canonical(shallow) == shallow
    assert joined.freeze(shallow)(torch.tensor(5.0)) == 6


# ---- tunable objects


class Settings(Tunable):
    """Keeps everything it is given."""

    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(settings)


@dataclass(frozen=True)
class Rate(Tunable):
    """A dataclass."""

    rate: float


class Module(nn.Module):
    """A module that keeps what it is given, in itself and in a part of it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.part = nn.CrossEntropyLoss(label_smoothing=rate)
        self.make = partial(torch.optim.SGD, lr=rate)
        self.weight = nn.Parameter(torch.ones(()))


LR = value_choice(RATES, label="lr")


@pytest.mark.parametrize(
    ("held", "read"),
    [
        (LR, lambda held: held),
        (2 * LR / 2, lambda held: held),
        ([0, (LR, 1)], lambda held: held[1][0]),
        ({"optimizer": {"lr": LR}}, lambda held: held["optimizer"]["lr"]),
        (partial(dict, lr=LR), lambda held: held()["lr"]),
        (partial(max, LR), lambda held: held(0)),
        (Rate(LR), lambda held: held.rate),
        ([Rate(LR)], lambda held: held[0].rate),
        (Module(LR), lambda held: held.part.label_smoothing),
        (Module(LR), lambda held: held.make.keywords["lr"]),
    ],
)
def test_choices_are_found_and_decided_wherever_they_are_kept(held: Any, read: Any) -> None:
    data = [torch.zeros(1)]
    thing = Settings(held=held, data=data, note="kept")
    assert thing.decisions() == (RATE,)
    decided = thing.decided({"lr": 0.01, "layer": "conv"})
    assert read(decided.held) == 0.01
    assert decided.decisions() == ()
    assert (decided.data is data, decided.note) == (True, "kept")
    assert thing.decisions() == (RATE,)


def test_what_has_no_choices_is_not_copied() -> None:
    module, space = Module(0.1), Conditional()  # what is open in a space is the space's
    thing = Settings(rate=LR, module=module, space=space, tuned=Rate(0.5))
    decided = thing.decided({"lr": 0.1})
    assert all(vars(decided)[name] is vars(thing)[name] for name in ("module", "space", "tuned"))
    assert Settings(space=space).decisions() == ()


def test_wrong_architectures_are_refused_with_everything_wrong() -> None:
    thing = Settings(rate=LR, decay=value_choice([0, 1], label="wd"))
    with pytest.raises(SpaceError, match=r"(?s)the Settings has 2 problems.*'lr' got 0.5.*'wd' is missing"):
        thing.decided({"lr": 0.5})


def test_two_decisions_with_one_label_are_refused_by_the_space() -> None:
    thing = Settings(a=LR, b=value_choice([1, 2], label="lr"))
    with pytest.raises(SpaceError, match="label 'lr' is used for two different decisions"):
        Chain(1).joined(thing.decisions())


def test_any_class_with_the_two_methods_is_tunable() -> None:
    class Own:
        def decisions(self) -> tuple[Categorical, ...]:
            return (RATE,)

        def decided(self, arch: Any) -> Own:
            return self

    assert open_decisions(Own()) == (RATE,)
    assert open_decisions(nn.Identity()) == open_decisions(None) == ()


def test_model_context_does_not_warn_of_labels_that_were_used_beside_the_model(recwarn: Any) -> None:
    arch = {"layer0": "one", "lr": 0.1}
    with model_context(arch):
        model = Chain(1)
        assert Settings(rate=LR).decided(arch).rate == 0.1
    assert not recwarn
    assert architecture_of(model) == {"layer0": "one"}
    hint = r"asked for these labels: 'lr'.*evaluator.decided\(arch\)"
    with pytest.warns(UserWarning, match=hint), model_context(arch):
        Chain(1)


def test_settings_made_inside_model_context_are_plain(recwarn: Any) -> None:
    with model_context({"layer0": "one", "lr": 0.1}):
        Chain(1)
        assert Settings(rate=value_choice(RATES, label="lr")).rate == 0.1
    assert not recwarn


def test_a_choice_equals_no_dict() -> None:
    """Lightning compares a module's arguments with the dict it is asked to save."""
    assert (LR == {"lr": 0.1}) is False
    assert (LR != {}) is True
