"""Value choices and the arithmetic on them."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from ..errors import SpaceError, quoted
from .context import current_context, replacing
from .decisions import Categorical, Decision
from .labels import make_label

_MAX_COMBINATIONS = 100_000


class Value:
    """A number (or any plain value) that depends on the architecture.

    Supports `+ - * / // % **`, comparisons, `&`, `|`, negation, and the functions `minimum`, `maximum`,
    `where` and `to_int`. In a frozen model it has become the plain value.
    """

    # Comparisons build expressions, so identity is the only sensible hash.
    __hash__ = object.__hash__

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions this value depends on, each once."""
        raise NotImplementedError

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        """Return the value under an architecture dict; `KeyError` when a label it needs is missing."""
        raise NotImplementedError

    def possible(self) -> tuple[Any, ...]:
        """Return every value this can take, each once, in order of first appearance."""
        decisions = self.decisions()
        if math.prod(decision.cardinality for decision in decisions) > _MAX_COMBINATIONS:
            raise SpaceError(
                f"the expression {self} combines too many values to enumerate (over {_MAX_COMBINATIONS}); "
                "use fewer value choices in one expression."
            )
        seen: list[Any] = []
        for values in itertools.product(*(decision.values() for decision in decisions)):
            arch = {decision.label: value for decision, value in zip(decisions, values, strict=True)}
            result = self.evaluate(arch)
            if result not in seen:
                seen.append(result)
        return tuple(seen)

    def __bool__(self) -> bool:
        raise SpaceError(
            f"the value of {self} is not known while the space is being declared, so it cannot decide an "
            "`if`, `and`, `min` or `max`; use spacelang.language.where, minimum, maximum, `&` or `|`."
        )

    def __index__(self) -> int:
        raise SpaceError(
            f"the value of {self} is not known while the space is being declared; use it as an argument of "
            "a layer of spacelang.nn, as the depth of a Repeat, or as an attribute of the module."
        )

    __int__ = __float__ = __index__

    def __repr__(self) -> str:
        return f"<value {self}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        replace = replacing()
        return self if replace is None else replace(self)

    def __add__(self, other: object) -> Value:
        return Expression("+", self, other)

    def __radd__(self, other: object) -> Value:
        return Expression("+", other, self)

    def __sub__(self, other: object) -> Value:
        return Expression("-", self, other)

    def __rsub__(self, other: object) -> Value:
        return Expression("-", other, self)

    def __mul__(self, other: object) -> Value:
        return Expression("*", self, other)

    def __rmul__(self, other: object) -> Value:
        return Expression("*", other, self)

    def __truediv__(self, other: object) -> Value:
        return Expression("/", self, other)

    def __rtruediv__(self, other: object) -> Value:
        return Expression("/", other, self)

    def __floordiv__(self, other: object) -> Value:
        return Expression("//", self, other)

    def __rfloordiv__(self, other: object) -> Value:
        return Expression("//", other, self)

    def __mod__(self, other: object) -> Value:
        return Expression("%", self, other)

    def __rmod__(self, other: object) -> Value:
        return Expression("%", other, self)

    def __pow__(self, other: object) -> Value:
        return Expression("**", self, other)

    def __rpow__(self, other: object) -> Value:
        return Expression("**", other, self)

    def __neg__(self) -> Value:
        return Expression("-", 0, self)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        # No value is a dict, and Lightning asks which argument of a module equals the dict it is to save.
        return NotImplemented if isinstance(other, dict) else Expression("==", self, other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return NotImplemented if isinstance(other, dict) else Expression("!=", self, other)

    def __lt__(self, other: object) -> Value:
        return Expression("<", self, other)

    def __le__(self, other: object) -> Value:
        return Expression("<=", self, other)

    def __gt__(self, other: object) -> Value:
        return Expression(">", self, other)

    def __ge__(self, other: object) -> Value:
        return Expression(">=", self, other)

    def __and__(self, other: object) -> Value:
        return Expression("&", self, other)

    def __rand__(self, other: object) -> Value:
        return Expression("&", other, self)

    def __or__(self, other: object) -> Value:
        return Expression("|", self, other)

    def __ror__(self, other: object) -> Value:
        return Expression("|", other, self)


class Choice(Value):
    """The value of one decision."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def decisions(self) -> tuple[Decision, ...]:
        return (self.decision,)

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        return self.decision.parse(arch[self.decision.label])

    def __str__(self) -> str:
        return self.decision.label

    def __repr__(self) -> str:
        return f"<value {self.decision}>"


def _where(condition: object, yes: object, no: object) -> object:
    return yes if condition else no


def _distinct(*values: object) -> bool:
    return len(set(values)) == len(values)


_INFIX: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "&": operator.and_,
    "|": operator.or_,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "minimum": min,
    "maximum": max,
    "where": _where,
    "to_int": int,
    "distinct": _distinct,
}


class Expression(Value):
    """An operation on values and plain constants."""

    def __init__(self, name: str, *args: object) -> None:
        self.name = name
        self.args = args

    def decisions(self) -> tuple[Decision, ...]:
        return merge_decisions(decisions_of(argument) for argument in self.args)

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        function = _INFIX.get(self.name) or _FUNCTIONS[self.name]
        operands = [evaluate(argument, arch) for argument in self.args]
        try:
            return function(*operands)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise SpaceError(f"{self} cannot be computed for {quoted(operands)}: {error}.") from error

    def __str__(self) -> str:
        if self.name in _INFIX:
            return f"({self.args[0]} {self.name} {self.args[1]})"
        return f"{self.name}({', '.join(map(str, self.args))})"


def merge_decisions(groups: Iterable[Iterable[Decision]]) -> tuple[Decision, ...]:
    """Chain groups of decisions, keeping the first of each label."""
    return tuple({d.label: d for group in groups for d in group}.values())


def decisions_of(value: object) -> tuple[Decision, ...]:
    """Return the decisions in a value, a plain constant or a list, tuple or dict of them."""
    if isinstance(value, Value):
        return value.decisions()
    if isinstance(value, list | tuple):
        return merge_decisions(map(decisions_of, value))
    if isinstance(value, dict):
        return merge_decisions(map(decisions_of, value.values()))
    return ()


def evaluate(value: Any, arch: Mapping[str, Any]) -> Any:
    """Replace every `Value` in a value, list, tuple or dict by what it is under `arch`."""
    if isinstance(value, Value):
        return value.evaluate(arch)
    if isinstance(value, list | tuple):
        return type(value)(evaluate(item, arch) for item in value)
    if isinstance(value, dict):
        return {key: evaluate(item, arch) for key, item in value.items()}
    return value


def value_choice(
    candidates: Sequence[Any], *, label: str | None = None, prior: Sequence[float] | None = None
) -> Any:
    """Choose one of several plain values: a width, a kernel size, a ratio, a hyper-parameter.

    In a space it returns a `Value` for arithmetic and for layers of `spacelang.nn`; inside
    `model_context` the chosen value itself.

    Args:
        candidates: Different numbers, strings, booleans, None or tuples of them.
        label: Name of the decision; numbered (`value_1`, ...) inside `ModelSpace.__init__` when missing.
        prior: Weight of each candidate in random sampling.

    Raises:
        SpaceError: No candidates, one given twice, or a missing label outside `ModelSpace.__init__`.
    """
    choice = Choice(Categorical(make_label("value", label), candidates, prior))
    context = current_context()
    if context is None:
        return choice
    return context.resolve(choice)


def _apply(name: str, *args: Any) -> Any:
    if any(isinstance(argument, Value) for argument in args):
        return Expression(name, *args)
    return _FUNCTIONS[name](*args)


def minimum(*values: Any) -> Any:
    """Return the smallest of values that may depend on the architecture."""
    return reduce(lambda a, b: _apply("minimum", a, b), values)


def maximum(*values: Any) -> Any:
    """Return the largest of values that may depend on the architecture."""
    return reduce(lambda a, b: _apply("maximum", a, b), values)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Return `yes` if the condition holds under the architecture, else `no`."""
    return _apply("where", condition, yes, no)


def to_int(value: Any) -> Any:
    """Truncate a value that may depend on the architecture to an integer."""
    return _apply("to_int", value)


def distinct(*values: Any) -> Any:
    """Return whether all values differ."""
    return _apply("distinct", *values)
