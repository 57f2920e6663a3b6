"""Functions of values that may depend on the architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ..errors import SpaceError, quoted
from .values import FUNCTIONS, Choice, Expression, decisions_of


def _apply(name: str, *args: Any) -> Any:
    return Expression(name, *args) if decisions_of(args) else FUNCTIONS[name](*args)


def minimum(*values: Any) -> Any:
    """Return the smallest of values, or of one list of them, that may depend on the architecture.

    >>> minimum(3, 1), minimum([3, 1])
    (1, 1)
    """
    return _extreme("minimum", values)


def maximum(*values: Any) -> Any:
    """Return the largest of values, or of one list of them, that may depend on the architecture."""
    return _extreme("maximum", values)


def _extreme(name: str, values: tuple[Any, ...]) -> Any:
    one_list = len(values) == 1 and isinstance(values[0], list | tuple)
    given = values[0] if one_list else values
    if not given:
        raise SpaceError(f"{name} needs at least one value.")
    return reduce(lambda a, b: _apply(name, a, b), given)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Return `yes` if the condition holds under the architecture, else `no`."""
    return _apply("where", condition, yes, no)


def to_int(value: Any) -> Any:
    """Truncate a value that may depend on the architecture to an integer."""
    return _apply("to_int", value)


def distinct(*values: Any) -> Any:
    """Return whether all values differ."""
    return _apply("distinct", *values)


def to_float(value: Any) -> Any:
    """Return a value that may depend on the architecture as a floating-point number."""
    return _apply("to_float", value)


def item(values: Sequence[Any] | Mapping[Any, Any], index: Any) -> Any:
    """Return `values[index]`, where items and index may depend on the architecture.

    Raises:
        SpaceError: There is no item for some value of a choice.

    >>> item(["a", "b", "c"], 1), item({"small": 8, "large": 32}, "large")
    ('b', 32)
    """
    if isinstance(index, Choice):
        keys = values if isinstance(values, Mapping) else range(len(values))
        missing = [value for value in index.possible() if value not in keys]
        if missing:
            raise SpaceError(f"item: {index} can be {quoted(missing)}, but items are at {quoted(keys)}.")
    return _apply("item", values, index)


def switch_case(value: Any, branches: Mapping[Any, Any]) -> Any:
    """Return what `branches` has for a value, as `item` does.

    >>> switch_case("bottleneck", {"basic": 1, "bottleneck": 4})
    4
    """
    return item(branches, value)


def case(branches: Sequence[tuple[Any, Any]], otherwise: Any) -> Any:
    """Return the value of the first `(condition, value)` whose condition holds, or else `otherwise`.

    >>> case([(False, 8), (True, 16)], otherwise=32)
    16
    """
    return reduce(lambda rest, branch: where(branch[0], branch[1], rest), reversed(branches), otherwise)
