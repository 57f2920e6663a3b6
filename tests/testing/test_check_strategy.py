"""Every strategy keeps the promises of `check_strategy`, and strategies that break one are caught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import ModelSpace
from spacelang.strategies import (
    DARTS,
    DARTSPT,
    DSNAS,
    ENAS,
    GAEA,
    GAEAGDAS,
    GAEAPCDARTS,
    GDAS,
    PCDARTS,
    PDARTS,
    RDARTS,
    SDARTS,
    SETN,
    SGAS,
    SMASH,
    SNAS,
    SPOS,
    ZODARTS,
    DARTSMinus,
    DenseNAS,
    DrNAS,
    DropNAS,
    EntropyPenalty,
    FairDARTS,
    GumbelDARTS,
    MetAdapt,
    Mixture,
    Moment,
    OneShot,
    OperationDropout,
    Penalty,
    ProgressiveShrinking,
    ProxylessNAS,
    RandomOneShot,
    Sandwich,
    Softmax,
    ZODARTSPlus,
    ZODARTSPlusPlus,
    one_shot,
)
from spacelang.supernet import Group, Supernet
from spacelang.testing import check_strategy, toy_spaces

pytestmark = pytest.mark.slow

EVERY = set(toy_spaces())
SOFT = EVERY - {"ListedInputs"}  # a concatenation of a varying set has no mixture

GATES: dict[str, Any] = {"learning_rate": 0.1, "warmup_epochs": 0, "update_every": 1}
STAGES: dict[str, Any] = {
    "overrides": ({}, {}),
    "drops": (1,),
    "skip_dropout": (0.1, 0.4),
    "warmup_epochs": 1,
    "cells": "*",
}
FEW: dict[str, Any] = {"calibration_batches": 1, "validation_batches": 1}
STRATEGIES = {
    "darts": (DARTS(learning_rate=0.05), SOFT),
    "darts-2": (DARTS(order=2, learning_rate=0.05), SOFT),
    "darts-2-exact": (DARTS(order=2, hvp="exact", learning_rate=0.05), SOFT),
    "sgas-1": (SGAS(first_decision=0, period=1), SOFT),
    "sgas-2": (SGAS(criterion=2, first_decision=0, period=1, batch_growth=4), SOFT),
    "gumbel": (GumbelDARTS(), SOFT),
    "gdas": (GDAS(), SOFT),
    "gdas-gates": (GDAS(estimator="gates"), SOFT),
    "gdas-straight-through": (GDAS(estimator="straight_through"), SOFT),
    "proxyless": (ProxylessNAS(**GATES), SOFT),
    "proxyless-two": (ProxylessNAS(gates="two", **GATES), SOFT),
    "pcdarts": (PCDARTS(partial=2, warmup_epochs=1), SOFT),
    "drnas": (DrNAS(partial_channels=(4, 2), operations=(2,), warmup_epochs=1), SOFT),
    "pdarts": (PDARTS(**STAGES), SOFT),
    "dropout": (DARTS(extras=(OperationDropout((0.5, 0.2)), EntropyPenalty((0.0, 0.1)))), SOFT),
    "strength": (DARTS(learning_rate=0.05, derive="strength"), SOFT),
    "dartspt": (DARTSPT(learning_rate=0.05, search_epochs=1, interval=1), SOFT),
    "fairdarts": (FairDARTS(learning_rate=0.1), SOFT),
    "dartsminus": (DARTSMinus(learning_rate=0.05), SOFT),
    "dropnas": (DropNAS(learning_rate=0.05, drop=0.05), SOFT),
    "gaea": (GAEA(), SOFT),
    "gaea-pcdarts": (GAEAPCDARTS(partial=2, entropy_weight=0.01), SOFT),
    "gaea-gdas": (GAEAGDAS(warmup_epochs=1), SOFT),
    "sdarts": (SDARTS(learning_rate=0.05), SOFT),
    "sdarts-adversarial": (SDARTS(perturbation="adversarial", steps=2, learning_rate=0.05), SOFT),
    "snas": (SNAS(learning_rate=0.05), SOFT),
    "dsnas": (DSNAS(learning_rate=0.05), SOFT),
    "setn": (SETN(learning_rate=0.05, candidates=3), SOFT),
    "rdarts": (RDARTS(learning_rate=0.05), SOFT),
    "zodarts": (ZODARTS(rounds=2), SOFT),
    "zodarts-plus": (ZODARTSPlus(rounds=2, cooled_every=1), SOFT),
    "zodarts-plus-plus": (
        ZODARTSPlusPlus(rounds=2, cooled_every=1, opened=1, sizes=("depth", "width", "size"), upper=500.0),
        SOFT,
    ),
    "penalty": (DARTS(learning_rate=0.05, extras=(Penalty("params", 500.0),)), SOFT),
    "random": (RandomOneShot(candidates=3, first_batches=1, finalists=2, **FEW), EVERY),
    "spos": (SPOS(population=3, generations=2, parents=2, mutations=1, crossovers=1, **FEW), EVERY),
    "enas": (ENAS(controller_steps=2, samples=2, candidates=2, **FEW), EVERY),
}


# Forms of a strategy that another one stands for.
FORMS = (
    *("darts-2-exact", "sgas-1", "gdas-gates", "gdas-straight-through", "proxyless", "dropout", "sdarts"),
    *("penalty", "strength", "gaea-gdas", "gaea", "rdarts", "zodarts", "zodarts-plus", "random"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.exhaustive) if n in FORMS else n for n in STRATEGIES]
)
def test_every_strategy_conforms(name: str) -> None:
    strategy, expected = STRATEGIES[name]
    result = check_strategy(strategy)
    assert set(result.searched) == expected
    assert set(result.refused) == EVERY - expected


def test_every_strategy_with_a_supernet_is_among_them() -> None:
    """Or is checked in a file of its own."""
    public = {x for x in vars(one_shot).values() if isinstance(x, type) and issubclass(x, OneShot)}
    own = {DenseNAS, MetAdapt, ProgressiveShrinking, Sandwich, SMASH}
    assert {type(strategy) for strategy, _ in STRATEGIES.values()} == public - own


def test_refusals_name_the_choice_the_place_and_what_to_do() -> None:
    reason = check_strategy(DARTS()).refused["ListedInputs"]
    assert "'two': reduction='concat' of a varying set has no fixed shape (at two)" in reason
    assert "RandomOneShot, SPOS, ENAS" in reason


# -- strategies that break a promise -------------------------------------------------------------------------


@dataclass(frozen=True)
class GlobalNoise(Softmax):
    """Draws from torch's global generator."""

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        weights = super().mixture(group, logits, moment).weights
        return Mixture(weights * torch.rand(weights.shape, generator=DRAWN))


DRAWN = torch.Generator().manual_seed(0)  # of this module, not of the experiment


@dataclass(frozen=True, kw_only=True)
class Unseeded(DARTS):
    @property
    def relaxation(self) -> Softmax:
        return GlobalNoise()


@dataclass(frozen=True, kw_only=True)
class Forgetful(DARTS):
    """Its search does not store the logits."""

    def attach(self, supernet: Supernet, **settings: Any) -> Any:
        search = super().attach(supernet, **settings)
        load = search.load_state_dict

        def forgetting(state: dict[str, Any]) -> None:
            load(state | {"logits": {label: torch.zeros_like(p) for label, p in state["logits"].items()}})

        search.load_state_dict = forgetting  # type: ignore[method-assign]
        return search


@dataclass(frozen=True, kw_only=True)
class Repeating(DARTS):
    def architectures(self, supernet: Supernet, probabilities: Any, count: int) -> Any:
        return super().architectures(supernet, probabilities, 1) * count


@dataclass(frozen=True, kw_only=True)
class Invalid(DARTS):
    def architectures(self, supernet: Supernet, probabilities: Any, count: int) -> Any:
        return [{"nothing": 0}]


@dataclass(frozen=True, kw_only=True)
class Meddling(DARTS):
    """Trains the user's space itself."""

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        with torch.no_grad():
            next(space.parameters()).zero_()
        return super().supernet(space, stage)


@dataclass(frozen=True, kw_only=True)
class Leaking(DARTS):
    """Puts a parameter of its own into the network."""

    def attach(self, supernet: Supernet, **settings: Any) -> Any:
        supernet.register_parameter("alpha", nn.Parameter(torch.zeros(1)))
        return super().attach(supernet, **settings)


@dataclass(frozen=True)
class Sigmoids(Softmax):
    """Takes sigmoids, whose rows have any sum, for a distribution."""

    def distribution(self, group: Group, logits: Tensor) -> Tensor:
        return self.probabilities(group, logits).sigmoid() * torch.tensor(group.alive)


@dataclass(frozen=True, kw_only=True)
class Overcounting(DARTS):
    @property
    def relaxation(self) -> Softmax:
        return Sigmoids()


class Nothing:
    """No strategy."""


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Unseeded(learning_rate=0.05), "the same seed gave two results"),
        (Forgetful(learning_rate=0.05), "ended otherwise when resumed"),
        (Repeating(), "derived architectures repeat"),
        (Leaking(), "architecture parameters are among the network's"),
        (Meddling(), "the space's weights changed"),
        (Overcounting(), "rows of the distribution of 'first' sum to"),
        (Nothing(), "it must have start, or else stages"),
    ],
)
def test_a_broken_promise_is_caught(strategy: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)


def test_an_invalid_architecture_is_caught_and_its_space_named() -> None:
    with pytest.raises(Exception, match="nothing") as error:
        check_strategy(Invalid())
    assert "space 'Layers'" in str(error.value.__notes__)
