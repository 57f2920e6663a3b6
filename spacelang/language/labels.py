"""Labels: explicit ones, and those numbered by construction order within a scope."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple, TypeAlias

from torch import nn

from ..errors import SpaceError
from .decisions import Decision, clash
from .nesting import make_room

_OWN_CODE = (f"{__package__}.", f"{__package__.rpartition('.')[0]}.nn.", "contextlib")


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Declared: TypeAlias = dict[str, tuple[Decision, Place]]
"""The decisions that a space declares, by label, and where each was made."""


@dataclass(frozen=True)
class _Scope:
    """Where a label is being made.

    Two prefixes, because they answer different needs: a `label_scope` the user opened renames every label
    inside it, while a candidate or a repeated block only keeps automatic labels of different places apart,
    so that an explicit label written in a block is shared by all repetitions of that block.
    """

    explicit: str = ""
    automatic: str = ""
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    declared: Declared = field(default_factory=dict)
    levels: int = 0  # of candidates and blocks, one inside another

    def number(self, kind: str) -> int:
        """Count one more unlabelled `kind` here, from 1."""
        key = (self.automatic, kind)
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key]


_scope: ContextVar[_Scope | None] = ContextVar("spacelang_scope", default=None)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


@contextmanager
def _entered(scope: _Scope) -> Iterator[None]:
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def root_scope() -> Iterator[Declared | None]:
    """Number unlabelled choices from one, unless an outer space is already numbering.

    Yields what is declared inside; None if an outer space is being declared, to which that belongs.
    """
    outer = _scope.get()
    scope = outer or _Scope()
    with _entered(scope):
        yield scope.declared if outer is None else None


@contextmanager
def label_scope(name: str) -> Iterator[None]:
    """Prefix every label made inside with `name/`.

    >>> from spacelang.language import label_scope, value_choice
    >>> with label_scope("stage1"):
    ...     str(value_choice([16, 32], label="width"))
    'stage1/width'
    """
    outer = _scope.get() or _Scope()
    explicit, automatic = _join(outer.explicit, name), _join(outer.automatic, name)
    with _entered(_Scope(explicit, automatic, outer.counts, outer.declared, outer.levels)):
        yield


@contextmanager
def branch_scope(label: str, branch: object) -> Iterator[None]:
    """Number unlabelled choices inside one candidate or block on their own.

    Counts start at one, so building one candidate alone (freezing) numbers it as building all of them does.
    """
    outer = _scope.get() or _Scope()
    levels = outer.levels + 1
    make_room(3 * levels)  # a choice, its list of candidates, and the candidate
    with _entered(_Scope(outer.explicit, f"{label}/{branch}", {}, outer.declared, levels)):
        yield


def in_scope() -> bool:
    """Return whether missing labels can be numbered here."""
    return _scope.get() is not None


def make_label(kind: str, label: str | None) -> str:
    """Return the full label of a choice: the given one in its scope, or `{kind}_{number}`.

    Raises:
        SpaceError: `label` is not a non-empty string, it is missing outside `ModelSpace.__init__`, or the
            choice is made while a model computes.
    """
    scope = _scope.get()
    if scope is None:
        _refuse_forward(kind)
    if label is not None:
        if not isinstance(label, str) or not label:
            raise SpaceError(f"a label must be a non-empty string; got {label!r}. Write label='my_{kind}'.")
        return _join(scope.explicit, label) if scope else label
    if scope is None:
        raise SpaceError(
            f"a {kind} choice outside ModelSpace.__init__ needs a label: write label='my_{kind}' "
            "(inside ModelSpace.__init__ missing labels are numbered)."
        )
    return _join(scope.automatic, f"{kind}_{scope.number(kind)}")


def _refuse_forward(kind: str) -> None:
    """Raise a `SpaceError` if a module's `forward` is running."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "forward" else None
        if isinstance(owner, nn.Module):
            raise SpaceError(
                f"a {kind} choice is made in {type(owner).__name__}.forward, at {_place()}, where it is a "
                "decision of no space. Make it in __init__ and keep it as an attribute; use that in forward."
            )
        frame = frame.f_back


def declare(decisions: Iterable[Decision]) -> None:
    """Note the decisions of a choice that was made in the space being declared, if there is one.

    Raises:
        SpaceError: A label is in use for another decision; names both places.
    """
    scope = _scope.get()
    if scope is None:
        return
    place = _place()
    for decision in decisions:
        known, made_at = scope.declared.setdefault(decision.label, (decision, place))
        if known is not decision and known != decision:
            raise clash(known, decision, str(made_at), str(place))


def warn_of_lost(declared: Declared, kept: Container[str]) -> None:
    """Warn of each declared decision that is not among those `kept`, at the place where it was made."""
    for label, (_, place) in declared.items():
        if label not in kept:
            warnings.warn_explicit(
                f"the choice {label!r} is made here and kept nowhere, so it is not a decision of the space. "
                "Keep it as an attribute of a module, or pass it to a layer of spacelang.nn or to Repeat; "
                "or remove it.",
                UserWarning,
                place.file,
                place.line,
            )


def _place() -> Place:
    """Return the line of the code that uses the language."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OWN_CODE):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)
