"""`Functional`: any function as an evaluator."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
import torch
from torch import nn

from spacelang.errors import SpaceError
from spacelang.evaluators import Functional


def count(model: nn.Module, scale: float = 1.0) -> float:
    return scale * sum(parameter.numel() for parameter in model.parameters())


def test_a_float_is_named_default() -> None:
    assert Functional(count).evaluate(nn.Linear(3, 1)) == {"default": 4.0}


def test_arguments_are_passed_on() -> None:
    assert Functional(count, scale=2.5).evaluate(nn.Linear(3, 1)) == {"default": 10.0}


def test_a_dict_of_numbers_of_any_kind_becomes_floats() -> None:
    evaluator = Functional(lambda model: {"a": 1, "b": np.float32(0.5), "c": float("nan")})
    metrics = evaluator.evaluate(nn.Identity())
    assert [type(value) for value in metrics.values()] == [float, float, float]
    assert (metrics["a"], metrics["b"]) == (1.0, 0.5)
    assert np.isnan(metrics["c"])


def test_report_reaches_the_function() -> None:
    def train(model: nn.Module, epochs: int, report) -> float:
        for epoch in range(epochs):
            report({"loss": 1 / (epoch + 1)}, epoch)
        return 0.0

    seen: list[tuple[dict[str, float], int]] = []
    evaluator = Functional(train, epochs=2)
    evaluator.evaluate(nn.Identity(), lambda metrics, epoch: seen.append((metrics, epoch)))
    assert seen == [({"loss": 1.0}, 0), ({"loss": 0.5}, 1)]
    assert evaluator.evaluate(nn.Identity()) == {"default": 0.0}  # without a listener too


def test_report_is_not_forced_on_a_function_without_it() -> None:
    assert Functional(count).evaluate(nn.Linear(1, 1), lambda metrics, epoch: None) == {"default": 2.0}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "None (NoneType).*missing"),
        ("0.9", "'0.9' (str)"),
        (True, "True (bool)"),
        ({}, "{} (dict)"),
        ([0.5], "(list)"),
        (torch.tensor(0.5), "(Tensor).*item"),
        ({"acc": "high"}, "entry 'acc' is 'high' (str)"),
        ({"acc": torch.tensor(1.0)}, "entry 'acc'.*item"),
        ({1: 0.5}, "entry 1 is 0.5"),
    ],
)
def test_other_results_are_described(result: object, words: str) -> None:
    pattern = words.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{")
    with pytest.raises(SpaceError, match=pattern):
        Functional(lambda model: result).evaluate(nn.Identity())


def test_a_call_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(SpaceError, match=r"count\(model, scal=...\)"):
        Functional(count, scal=2.0)
    with pytest.raises(SpaceError, match="expected a function"):
        Functional(3)


def test_errors_of_the_function_pass_through() -> None:
    def broken(model: nn.Module) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Functional(broken).evaluate(nn.Identity())


def test_docstring_examples() -> None:
    module = importlib.import_module("spacelang.evaluators.functional")
    assert doctest.testmod(module).failed == 0
