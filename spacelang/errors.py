"""The one error class of the language."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches


class SpaceError(ValueError):
    """A space, an architecture or an argument is wrong; the message says what, where and what to type."""


class _Short(reprlib.Repr):
    """Representations cut to a readable length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python refuses to print integers of more than some 4300 digits
            return f"<int of {x.bit_length()} bits>"


def short(value: object) -> str:
    """Represent any object on one line of readable length."""
    return " ".join(line.strip() for line in _Short().repr(value).splitlines())


def quoted(names: Iterable[object], limit: int = 12) -> str:
    """List names for a message: `'a', 'b', ..., 'z'`; past `limit` the middle is left out."""
    texts = [repr(name) for name in names]
    if len(texts) > limit:
        texts = [*texts[: limit - 1], "...", texts[-1]]
    return ", ".join(texts) if texts else "none"


def closest(name: object, known: Iterable[object]) -> str:
    """Return ` Closest: 'x'.` for the known name most like `name`, or an empty string."""
    by_text = {str(candidate): candidate for candidate in known}
    matches = get_close_matches(str(name), by_text, n=1, cutoff=0.4)
    return f" Closest: {by_text[matches[0]]!r}." if matches else ""
