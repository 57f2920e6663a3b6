"""Conditions: under which choices of others a decision exists at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from .values import Value


class Condition(Protocol):
    """A statement about an architecture."""

    @property
    def labels(self) -> frozenset[str]:
        """Labels it depends on."""
        ...

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Return whether it is true of `arch`; a statement about a missing label is false."""
        ...


@dataclass(frozen=True, eq=False)
class Is:
    """`value` takes one of the `accepted` values."""

    value: Value
    accepted: tuple[Any, ...]

    # `==` on values builds an expression, so equality goes by what the statement says.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Is) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset(decision.label for decision in self.value.decisions())

    @cached_property
    def _accepted(self) -> frozenset[Any] | tuple[Any, ...]:
        """The accepted values, found at once however many there are, where all have a hash."""
        try:
            return frozenset(self.accepted)
        except TypeError:
            return self.accepted

    @cached_property
    def _known(self) -> dict[Any, bool]:
        """Whether it is true, by the type and value of the only label it depends on."""
        return {}

    @cached_property
    def _label(self) -> str | None:
        return next(iter(self.labels)) if len(self.labels) == 1 else None

    def holds(self, arch: Mapping[str, Any]) -> bool:
        given = None if self._label is None else arch.get(self._label)
        if not isinstance(given, str | int):
            return self._is_true(arch)
        key = type(given), given
        if key not in self._known:
            self._known[key] = self._is_true(arch)
        return self._known[key]

    def _is_true(self, arch: Mapping[str, Any]) -> bool:
        return self.labels <= arch.keys() and self.value.evaluate(arch) in self._accepted

    def __str__(self) -> str:
        if len(self.accepted) == 1:
            return f"{self.value} = {self.accepted[0]!r}"
        return f"{self.value} in {list(self.accepted)!r}"


@dataclass(frozen=True)
class AllOf:
    """Every part holds; with no parts, always."""

    parts: tuple[Condition, ...] = ()

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset().union(*(part.labels for part in self.parts))

    def holds(self, arch: Mapping[str, Any]) -> bool:
        return all(part.holds(arch) for part in self.parts)

    def __str__(self) -> str:
        return " and ".join(f"({p})" if isinstance(p, AnyOf) else str(p) for p in self.parts) or "always"


@dataclass(frozen=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Condition, ...]

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset().union(*(part.labels for part in self.parts))

    def holds(self, arch: Mapping[str, Any]) -> bool:
        return any(part.holds(arch) for part in self.parts)

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts)) or "never"


ALWAYS = AllOf()


def both(outer: Condition, inner: Condition) -> Condition:
    """Return the condition that both hold."""
    if outer == ALWAYS:
        return inner
    return outer if inner == ALWAYS else AllOf((*_parts(outer), *_parts(inner)))


def _parts(condition: Condition) -> tuple[Condition, ...]:
    return condition.parts if isinstance(condition, AllOf) else (condition,)


def either(conditions: list[Condition]) -> Condition:
    """Return the condition that at least one of `conditions` holds."""
    if ALWAYS in conditions:
        return ALWAYS
    return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))


@dataclass(frozen=True, eq=False)
class Constraint:
    """A statement every architecture must satisfy; vacuous when a decision in it is inactive.

    Args:
        expression: A `Value` that is true or false.
        message: Text of the error when it is violated.
        gives_way: Label of a decision that is taken again where a change of another breaks the constraint:
            it is another decision then, as the operation is when a slot reads another edge. Empty for none.
    """

    expression: Value
    message: str
    gives_way: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and str(self.expression) == str(other.expression)

    def __hash__(self) -> int:
        return hash(str(self.expression))

    def __deepcopy__(self, memo: dict[int, Any]) -> Constraint:
        return self  # immutable, and its values stay symbolic in copies

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset(decision.label for decision in self.expression.decisions())

    def holds(self, arch: Mapping[str, Any]) -> bool:
        return not self.labels <= arch.keys() or bool(self.expression.evaluate(arch))


@dataclass(frozen=True)
class Symmetry:
    """Slots of labels whose contents may be swapped without changing the model.

    A node of a cell that adds two operations is the same with the two exchanged. The canonical
    architecture has the slots in increasing order.

    Args:
        slots: Equally long tuples of labels; position by position they have the same candidates.
    """

    slots: tuple[tuple[str, ...], ...]

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset(label for slot in self.slots for label in slot)
