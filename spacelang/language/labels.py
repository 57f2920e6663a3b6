"""Labels: explicit ones, and those numbered by construction order within a scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..errors import SpaceError


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
def root_scope() -> Iterator[None]:
    """Number unlabelled choices from one, unless an outer space is already numbering."""
    with _entered(_scope.get() or _Scope()):
        yield


@contextmanager
def label_scope(name: str) -> Iterator[None]:
    """Prefix every label made inside with `name/`.

    >>> from spacelang.language import label_scope, value_choice
    >>> with label_scope("stage1"):
    ...     str(value_choice([16, 32], label="width"))
    'stage1/width'
    """
    outer = _scope.get() or _Scope()
    with _entered(_Scope(_join(outer.explicit, name), _join(outer.automatic, name), outer.counts)):
        yield


@contextmanager
def branch_scope(label: str, branch: object) -> Iterator[None]:
    """Number unlabelled choices inside one candidate or block on their own.

    Counts start at one, so building one candidate alone (freezing) numbers it as building all of them does.
    """
    outer = _scope.get() or _Scope()
    with _entered(_Scope(outer.explicit, f"{label}/{branch}", {})):
        yield


def in_scope() -> bool:
    """Return whether missing labels can be numbered here."""
    return _scope.get() is not None


def make_label(kind: str, label: str | None) -> str:
    """Return the full label of a choice: the given one in its scope, or `{kind}_{number}`.

    Raises:
        SpaceError: `label` is not a non-empty string, or it is missing outside `ModelSpace.__init__`.
    """
    scope = _scope.get()
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
