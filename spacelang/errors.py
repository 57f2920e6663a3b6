"""SpaceError, its wording, and checks of arguments that raise it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any


class SpaceError(ValueError):
    """A space, an architecture or an argument is wrong; the message says what, where and what to type."""


class DivergenceError(SpaceError):
    """A training met a number that is infinite or not a number; its results mean nothing."""


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


def listed(names: Iterable[object], limit: int = 12) -> str:
    """Join names by commas: `a, b, ..., z`; past `limit` the middle is left out."""
    texts = [str(name) for name in names]
    if len(texts) > limit:
        texts = [*texts[: limit - 1], "...", texts[-1]]
    return ", ".join(texts) if texts else "none"


def quoted(names: Iterable[object], limit: int = 12) -> str:
    """List names for a message: `'a', 'b', ..., 'z'`; past `limit` the middle is left out."""
    return listed(map(repr, names), limit)


def written(count: int | float) -> str:
    """Write a count in full; past a hundred digits as a power of ten.

    >>> written(1_200), written(3**1_000)
    ('1,200', 'about 10^477')
    """
    if count == math.inf:
        return "infinitely many"
    return f"{count:,}" if count < 10**100 else f"about 10^{math.log10(count):.0f}"


def closest(name: object, known: Iterable[object], cutoff: float = 0.4) -> str:
    """Return ` Closest: 'x'.` for the known name most like `name`, or an empty string.

    Args:
        name: The unknown name; capital and small letters count as equal.
        known: Legal names.
        cutoff: Likeness from 0 to 1 that the closest must reach.
    """
    by_text = {str(candidate).casefold(): candidate for candidate in known}
    matches = get_close_matches(str(name).casefold(), by_text, n=1, cutoff=cutoff)
    return f" Closest: {by_text[matches[0]]!r}." if matches else ""


# -- checks of arguments ---------------------------------------------------------------------------------


def require_integer(
    name: str, value: object, *, least: int | None = None, most: int | None = None, optional: bool = False
) -> None:
    """Raise unless `value` is an integer from `least` to `most`.

    Args:
        name: Name of the argument, for the message.
        value: Given value; booleans are not integers.
        least: Smallest legal value; None for no bound.
        most: Largest legal value; None for no bound.
        optional: Whether None is legal, too.

    Raises:
        SpaceError: Names the argument, what was given and what is legal.

    >>> require_integer("max_epochs", 0, least=1)
    Traceback (most recent call last):
    spacelang.errors.SpaceError: max_epochs=0 must be an integer of at least 1.
    """
    legal = type(value) is int and (least is None or value >= least) and (most is None or value <= most)
    if legal or (optional and value is None):
        return
    if least is not None and most is not None:
        bounds = f" from {least} to {most}"
    else:
        bounds = "" if least is None else f" of at least {least}"
        bounds += "" if most is None else f" of at most {most}"
    raise SpaceError(f"{name}={short(value)} must be an integer{bounds}{', or None' * optional}.")


def require_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    optional: bool = False,
) -> None:
    """Raise unless `value` is a finite number within bounds.

    Args:
        name: Name of the argument, for the message.
        value: Given value; booleans are not numbers.
        above: Bound that a legal value exceeds.
        least: Smallest legal value.
        below: Bound that a legal value stays under.
        most: Largest legal value.
        optional: Whether None is legal, too.

    Raises:
        SpaceError: Names the argument, what was given and what is legal.

    >>> require_number("learning_rate", -1.0, above=0)
    Traceback (most recent call last):
    spacelang.errors.SpaceError: learning_rate=-1.0 must be a number above 0.
    >>> require_number("momentum", 1, least=0, below=1)
    Traceback (most recent call last):
    spacelang.errors.SpaceError: momentum=1 must be a number of at least 0 and below 1.
    """
    bounds = {"above": above, "of at least": least, "below": below, "of at most": most}
    if optional and value is None:
        return
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        within = (
            (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
        )
        if within:
            return
    said = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    raise SpaceError(f"{name}={short(value)} must be a number {said}".rstrip() + f"{', or None' * optional}.")


def require_one_of(name: str, value: object, options: Iterable[object]) -> None:
    """Raise unless `value` is one of `options`.

    Raises:
        SpaceError: Names the argument, what was given, the options, and the closest of them.

    >>> require_one_of("mode", "mx", ("max", "min"))
    Traceback (most recent call last):
    spacelang.errors.SpaceError: mode='mx' must be one of 'max', 'min'. Closest: 'max'.
    """
    legal = list(options)
    if value not in legal:
        raise SpaceError(f"{name}={short(value)} must be one of {quoted(legal)}.{closest(value, legal)}")


def require_all(check: Callable[..., None], settings: object, *names: str, **bounds: Any) -> None:
    """Apply a check to several attributes: `require_all(require_integer, self, "width", "depth", least=1)`.

    Raises:
        SpaceError: From the first attribute that fails.
    """
    for name in names:
        check(name, getattr(settings, name), **bounds)
