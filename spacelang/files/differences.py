"""Where two records differ, said shortly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import listed, short

_HASH = re.compile("[0-9a-f]{40,}")  # says nothing to people


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which entries of two nested records differ, with both values; an empty text if none does.

    Of parts that are of different classes only the class is said.

    >>> differences({"seed": 0, "strategy": {"size": 8}}, {"seed": 1, "strategy": {"size": 4}})
    'seed was 0, now 1, strategy.size was 8, now 4'
    """
    found = list(_found(before, now, ""))
    return listed(found) if found else ""


def _found(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    names = list(dict.fromkeys([*before, *now]))
    if before.get("class") != now.get("class"):
        names = ["class"]
    for name in names:
        old, new, path = before.get(name), now.get(name), f"{where}{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _found(old, new, f"{path}.")
        elif old != new:
            was, is_now = (short(r[name]) if name in r else "missing" for r in (before, now))
            hashed = any(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new))
            yield f"{path} is another" if hashed else f"{path} was {was}, now {is_now}"
