"""The data a results file may hold: what JSON and YAML both write and read back exactly."""

from __future__ import annotations

from typing import Any

from ..errors import SpaceError

MAX_DEPTH = 64
MAX_INT_BITS = 8192  # Python itself refuses to print integers far beyond this


def plain(data: object, where: str = "data") -> Any:
    """Copy `data` into dicts, lists, str, int, float, bool and None; tuples become lists.

    Args:
        data: Nested dicts (scalar keys), lists and tuples of scalars.
        where: How an error message names the top of `data`.

    Raises:
        SpaceError: A value of another type, a text outside Unicode, or nesting deeper than 64 (a cycle too);
            names the place.
    """
    return _plain(data, where, 0)


def _plain(data: object, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise SpaceError(f"{where[:80]}... is nested deeper than {MAX_DEPTH} levels (or contains itself).")
    if isinstance(data, dict):
        copy = {}
        for key, value in data.items():
            if isinstance(key, dict | list | tuple):
                raise SpaceError(f"{where} has the key {key!r}; a key is a str, int, float, bool or None.")
            copy[_scalar(key, f"key {key!r} of {where}")] = _plain(value, f"{where}[{key!r}]", depth + 1)
        return copy
    if isinstance(data, list | tuple):
        return [_plain(value, f"{where}[{index}]", depth + 1) for index, value in enumerate(data)]
    return _scalar(data, where)


def _scalar(value: object, where: str) -> str | int | float | bool | None:
    """Return `value` as an exact built-in scalar; subclasses (numpy.float64, IntEnum) lose their type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            raise SpaceError(f"{where} is an integer of {value.bit_length()} bits; at most {MAX_INT_BITS}.")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str.__str__(value), where)
    raise SpaceError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a file holds only str, int, "
        "float, bool, None, lists and dicts. Convert it first, for example with float(...) or str(...)."
    )


def _text(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SpaceError(f"{where} is not valid Unicode text: {error.reason} at {error.start}.") from error
    return text
