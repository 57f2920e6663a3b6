"""Value choices and the arithmetic on them."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import SpaceError, quoted
from .context import current_context, replacing
from .decisions import Categorical, Decision, Subset, clash
from .intervals import FIRST, Interval
from .labels import declare, make_label
from .misuse import layer_error, layer_under_construction, running

_MAX_COMBINATIONS = 100_000
_USES = (
    "use it as an argument of a layer of spacelang.nn, as the depth of a Repeat, or as an attribute of "
    "the module"
)
_TENSOR_OPERATORS = ("add", "sub", "rsub", "mul", "div", "floor_divide", "remainder", "pow")


class Value:
    """A number (or any plain value) that depends on the architecture.

    Supports `+ - * / // % **`, comparisons, `&`, `|`, negation, `round`, `abs`, `divmod`, `math.floor`,
    `math.ceil` and `math.trunc`, items (of a tuple that is a candidate), and the functions `minimum`,
    `maximum`, `where`, `case`, `switch_case`, `item`, `to_int` and `to_float`. In a frozen model it has
    become the plain value.
    """

    def __hash__(self) -> int:
        raise self._unknown("be a key of a dict or a member of a set; use spacelang.language.item")

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions this value depends on, each once."""
        raise NotImplementedError

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        """Return the value under an architecture dict; `KeyError` when a label it needs is missing."""
        raise NotImplementedError

    def possible(self) -> tuple[Any, ...]:
        """Return every value this can take, each once, in order of first appearance.

        Of a range without a step, a few of its values stand for all.
        """
        decisions = self.decisions()
        counts = [decision.cardinality for decision in decisions if decision.cardinality != math.inf]
        if math.prod(counts) > _MAX_COMBINATIONS:
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
        raise self._unknown(
            "decide an `if`, `and`, `min` or `max`; use spacelang.language.where, minimum, maximum, `&` or "
            "`|`"
        )

    def __index__(self) -> int:
        raise self._unknown(f"be a plain number; {_USES}, or in spacelang.language.item(values, index)")

    def __int__(self) -> int:
        raise self._unknown(f"be a plain number; {_USES}, or in spacelang.language.to_int or round")

    def __float__(self) -> float:
        raise self._unknown(f"be a plain number; {_USES}, or in spacelang.language.to_float")

    def __getitem__(self, index: object) -> Value:
        return Expression("item", self, index)

    def __iter__(self) -> Iterator[Any]:
        raise self._unknown(f"be unpacked; {_USES}")

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], Tensor) and function.__name__ in _TENSOR_OPERATORS:
            return NotImplemented  # so that Python asks the value, which makes an expression of it
        value = _values_in([args, kwargs])[0]
        raise value._unknown(f"be an argument of torch's {function.__name__}; {_USES}")

    def _unknown(self, purpose: str) -> SpaceError:
        """Return the error of a use that needs the value itself."""
        layer = layer_under_construction(running())
        if layer is not None:
            return layer_error(layer[0], (decision.label for decision in self.decisions()))
        return SpaceError(
            f"the value of {self} is not known while the space is being declared, so it cannot {purpose}."
        )

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

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return Expression("abs", self)

    def __round__(self, digits: object = None) -> Value:
        return Expression("round", self) if digits is None else Expression("round", self, digits)

    def __floor__(self) -> Value:
        return Expression("floor", self)

    def __ceil__(self) -> Value:
        return Expression("ceil", self)

    def __trunc__(self) -> Value:
        return Expression("trunc", self)

    def __divmod__(self, other: object) -> tuple[Value, Value]:
        return self // other, self % other

    def __rdivmod__(self, other: object) -> tuple[Value, Value]:
        return other // self, other % self

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


class Named(Choice):
    """One of several objects that the decision knows by their names, such as classes.

    Args:
        decision: Choice of a name.
        objects: Objects by name.
    """

    def __init__(self, decision: Decision, objects: Mapping[str, Any]) -> None:
        super().__init__(decision)
        self.objects = objects

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        chosen = super().evaluate(arch)
        is_set = isinstance(self.decision, Subset)
        return tuple(self.objects[name] for name in chosen) if is_set else self.objects[chosen]


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
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "distinct": _distinct,
    "floor": math.floor,
    "item": operator.getitem,
    "maximum": max,
    "minimum": min,
    "round": round,
    "to_float": float,
    "to_int": int,
    "trunc": math.trunc,
    "where": _where,
}


class Expression(Value):
    """An operation on values and plain constants."""

    def __init__(self, name: str, *args: object) -> None:
        self.name = name
        self.args = args

    def decisions(self) -> tuple[Decision, ...]:
        found: list[tuple[Decision, ...]] = []
        seen, waiting = set[int](), list[object]([self])
        while waiting:
            value = waiting.pop()
            if not isinstance(value, Expression):
                found.append(decisions_of(value))
            elif id(value) not in seen:
                seen.add(id(value))
                waiting += reversed(value.args)
        return merge_decisions(found)

    def evaluate(self, arch: Mapping[str, Any]) -> Any:
        known: dict[int, Any] = {}
        for part in inner_first(self):
            operands = [known[id(a)] if id(a) in known else evaluate(a, arch) for a in part.args]
            known[id(part)] = part.applied(operands)
        return known[id(self)]

    def applied(self, operands: Sequence[Any]) -> Any:
        """Return the value for plain operands in place of the arguments.

        Raises:
            SpaceError: It cannot be computed.
        """
        function = _INFIX.get(self.name) or FUNCTIONS[self.name]
        try:
            return function(*operands)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise SpaceError(f"{self} cannot be computed for {quoted(operands)}: {error}.") from error

    def __str__(self) -> str:
        known: dict[int, str] = {}
        for part in inner_first(self):
            texts = [known[id(a)] if id(a) in known else _text(a) for a in part.args]
            infix = f"({texts[0]} {part.name} {texts[-1]})"
            known[id(part)] = infix if part.name in _INFIX else f"{part.name}({', '.join(texts)})"
        return known[id(self)]


def _text(argument: object) -> str:
    """Return an argument as it is written; values in a list or dict by their labels."""
    if isinstance(argument, list | tuple) and _values_in(argument):
        return f"[{', '.join(map(_text, argument))}]"
    if isinstance(argument, dict) and _values_in(argument):
        return f"{{{', '.join(f'{key!r}: {_text(value)}' for key, value in argument.items())}}}"
    return str(argument)


def inner_first(value: object) -> list[Expression]:
    """Return every expression in a value once, after those in its arguments; sums of thousands are deep."""
    found: dict[int, Expression] = {}
    waiting = [(value, False)]
    while waiting:
        part, is_ready = waiting.pop()
        if not isinstance(part, Expression) or id(part) in found:
            continue
        if is_ready:
            found[id(part)] = part
        else:
            waiting.append((part, True))
            waiting += [(argument, False) for argument in reversed(part.args)]
    return list(found.values())


def merge_decisions(groups: Iterable[Iterable[Decision]]) -> tuple[Decision, ...]:
    """Chain groups of decisions, each label once.

    Raises:
        SpaceError: A label stands for two different decisions.
    """
    found: dict[str, Decision] = {}
    for decision in itertools.chain.from_iterable(groups):
        known = found.setdefault(decision.label, decision)
        if known is not decision and known != decision:
            raise clash(known, decision)
    return tuple(found.values())


def decisions_of(value: object) -> tuple[Decision, ...]:
    """Return the decisions in a value, a plain constant or a list, tuple or dict of them."""
    found = _values_in(value)
    return merge_decisions(each.decisions() for each in found) if found else ()


def _values_in(value: object) -> list[Value]:
    """Return the values in a value, or in a list, tuple or dict of them, in their order."""
    found: list[Value] = []
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Value):
            found.append(part)
        elif isinstance(part, list | tuple):
            waiting += reversed(part)
        elif isinstance(part, dict):
            waiting += reversed(part.values())
    return found


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
    candidates: Sequence[Any] | Mapping[str, Any],
    *,
    label: str | None = None,
    prior: Sequence[float] | None = None,
    n_chosen: int | None = 1,
    default: Any = FIRST,
) -> Any:
    """Choose one of several values: a width, a kernel size, a ratio, a hyper-parameter, an optimiser.

    In a space it returns a `Value` for arithmetic and for layers of `spacelang.nn`; inside
    `model_context` the chosen value itself.

    Args:
        candidates: Different numbers, strings, booleans, None or tuples of them; classes; or any objects by
            name. An architecture holds the name of a class or object.
        label: Name of the decision; numbered (`value_1`, ...) inside `ModelSpace.__init__` when missing.
        prior: Weight of each candidate in random sampling; see `Categorical` and `Subset`.
        n_chosen: Number of values chosen together; None means any non-empty set. The value is then the tuple
            of those chosen, in the order of the candidates, and an architecture holds their list.
        default: Candidate, its name, or list of them, of the space's default architecture; the first where it
            is left out.

    Raises:
        SpaceError: No candidates, one given twice, or a missing label outside `ModelSpace.__init__`.
    """
    return _taken(_choice(candidates, make_label("value", label), n_chosen, prior, default))


def _choice(
    candidates: Any, label: str, n_chosen: int | None, prior: Sequence[float] | None, default: Any
) -> Choice:
    def decided(names: Sequence[Any]) -> Decision:
        if n_chosen == 1:
            return Categorical(label, names, prior, default)
        return Subset(label, names, n_chosen, prior, default)

    names = candidates
    if not isinstance(candidates, Mapping) and all(isinstance(candidate, type) for candidate in candidates):
        names = [candidate.__name__ for candidate in candidates]
        candidates = dict(zip(names, candidates, strict=True))
    if not isinstance(candidates, Mapping):
        return Choice(decided(candidates))
    for name in names:
        if not isinstance(name, str):
            raise SpaceError(f"{label!r}: candidate names are strings; got {name!r}.")
    return Named(decided(list(names)), candidates)


def value_range(
    low: float,
    high: float,
    *,
    log: bool = False,
    step: float | None = None,
    label: str | None = None,
    default: Any = FIRST,
) -> Any:
    """Choose a number of an interval, for what is no shape: a learning rate, dropout, the weight of a loss.

    Like `value_choice`, it returns a `Value` in a space, and inside `model_context` the chosen number.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Whether the scale, on which values are drawn and changed, is logarithmic.
        step: Distance of the values; None for all numbers between, of which there are infinitely many.
        label: Name of the decision; numbered (`value_1`, ...) inside `ModelSpace.__init__` when missing.
        default: Value of the space's default architecture; the middle of the scale where it is left out.

    Raises:
        SpaceError: Bounds are not numbers in order, or a missing label outside `ModelSpace.__init__`.
    """
    return _taken(Choice(Interval(make_label("value", label), low, high, log, step, default)))


def _taken(choice: Choice) -> Any:
    """Return a choice that is declared; inside `model_context` its value."""
    context = current_context()
    if context is None:
        declare(choice.decisions())
        return choice
    return context.resolve(choice)
