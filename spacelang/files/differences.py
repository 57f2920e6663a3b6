"""Where two records differ, said shortly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import short

_HASH = re.compile("[0-9a-f]{40,}")  # says nothing to people


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of two nested records that differ: by the path of each a line with both values.

    Of parts that are of different classes only the class is said.

    >>> differences({"seed": 0, "strategy": {"size": 8}}, {"seed": 1, "strategy": {"size": 4}})
    {'seed': 'seed was 0, now 1', 'strategy.size': 'strategy.size was 8, now 4'}
    """
    return dict(_found(before, now, ""))


def _found(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
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
            yield path, f"{path} is another" if hashed else f"{path} was {was}, now {is_now}"
