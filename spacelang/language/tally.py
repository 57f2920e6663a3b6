"""Results of many decisions, of which nothing else matters."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from .decisions import Categorical
from .values import Expression


@runtime_checkable
class Tally(Protocol):
    """A result that is read off decisions one after another, with few states in between.

    The number of nodes that nobody reads is one: it depends on every input of a cell, and has few values.
    Costs ask for its distribution, which takes a pass over the decisions instead of all their combinations.
    Two tallies with the same text are the same.
    """

    @property
    def start(self) -> Hashable:
        """State before the first decision."""
        ...

    def decisions(self) -> tuple[Categorical, ...]:
        """Return the decisions, in the order in which they are read."""
        ...

    def step(self, state: Any, position: int, value: Any) -> Hashable | None:
        """Return the state after the decision at `position` takes `value`; None where that is not allowed."""
        ...

    def result(self, state: Any) -> Hashable:
        """Return the result, from the state after the last decision."""
        ...


def tallied(tally: Tally, arch: Mapping[str, Any]) -> Hashable | None:
    """Return the result of a tally under `arch`; None where it is not allowed."""
    state: Hashable | None = tally.start
    for position, decision in enumerate(tally.decisions()):
        if state is None:
            return None
        state = tally.step(state, position, decision.parse(arch[decision.label]))
    return None if state is None else tally.result(state)


def tallies_of(value: object) -> tuple[Tally, ...]:
    """Return the tallies in a value, a plain constant or a list, tuple or dict of them, each once."""
    if isinstance(value, Tally):
        return (value,)
    parts: Iterable[object] = ()
    if isinstance(value, Expression):
        parts = value.args
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    return tuple({str(tally): tally for part in parts for tally in tallies_of(part)}.values())
