"""Evaluator of a plain function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import nn

from spacelang.errors import SpaceError
from spacelang.language import Tunable, require_decided
from spacelang.trials import Reporter


class Functional(Tunable):
    """An evaluator that calls `function(model, **arguments)`.

    The function returns one number, which becomes the metric `default`, or a dict of numbers by metric name.
    If it has a parameter named `report`, it gets a callable `report(metrics, epoch)` for intermediate
    results.

    Args:
        function: Function to call, with the model as its first argument.
        arguments: Further keyword arguments of every call; each trial decides those that are value choices.

    Raises:
        SpaceError: `function` is not callable or does not accept these arguments.

    >>> Functional(lambda model, scale: scale * sum(p.numel() for p in model.parameters()), scale=2).evaluate(
    ...     nn.Linear(3, 1))
    {'default': 8.0}
    """

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        if not callable(function):
            raise SpaceError(f"Functional got {function!r}; expected a function that takes a model")
        self.function = function
        self.arguments = arguments
        self._takes_report = _check_call(function, arguments)

    def evaluate(self, model: nn.Module, report: Reporter | None = None) -> dict[str, float]:
        """Call the function with `model`; return its metrics.

        Raises:
            SpaceError: The function returned neither a number nor a dict of numbers by name; arguments are
                still to be chosen.
        """
        require_decided(self, "The trials of an Experiment do so; to measure a model yourself, use")
        arguments = dict(self.arguments)
        if self._takes_report and "report" not in arguments:
            arguments["report"] = report if report is not None else _silent
        return _as_metrics(self.function(model, **arguments), _name(self.function))


def _silent(metrics: dict[str, float], epoch: int) -> None:
    """Ignore a report."""


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _check_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Check that `function(model, **arguments)` is a legal call; return whether it also takes `report`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none; the call itself will tell
        return False
    takes_report = "report" in signature.parameters
    offered = {"report": _silent, **arguments} if takes_report else dict(arguments)
    try:
        signature.bind(None, **offered)
    except TypeError as error:
        given = ", ".join(["model", *(f"{name}=..." for name in arguments)])
        raise SpaceError(
            f"Functional would call {_name(function)}({given}), but its signature is {signature}: {error}"
        ) from None
    return takes_report


def _as_metrics(result: object, name: str) -> dict[str, float]:
    if _is_number(result):
        return {"default": float(result)}  # type: ignore[arg-type]  # a Real, checked by _is_number
    if isinstance(result, Mapping) and result:
        for key, value in result.items():
            if not (isinstance(key, str) and _is_number(value)):
                raise SpaceError(
                    f"{name} returned a dict whose entry {key!r} is {_described(value)}; "
                    f"expected metric names (str) with numbers (float).{_hint(value)}"
                )
        return {key: float(value) for key, value in result.items()}
    raise SpaceError(
        f"{name} returned {_described(result)}; expected a float, or a dict of floats by metric name."
        f"{_hint(result)}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _described(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _hint(value: object) -> str:
    if value is None:
        return " Is a `return` missing?"
    return " Use `.item()` to return its value." if hasattr(value, "item") else ""
