"""Names that a configuration may use: strategies, spaces and evaluators, of spacelang and of plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..doors import exports
from ..errors import SpaceError
from ..language import Space
from ..plugins import GROUPS, loaded, origin, plugins

_METHODS = {
    "spacelang.strategies": ("attach", "start"),  # one-shot, and by trials
    "spacelang.evaluators": ("evaluate", "evaluate_architecture"),
}


def catalogue() -> dict[str, list[str]]:
    """Return the names of each package's own strategies, spaces or evaluators, sorted."""
    return {group: sorted(filter(_is_of(group), exports(group))) for group in GROUPS}


def added() -> list[tuple[str, str, str, str]]:
    """Return each plug-in: its name, group, package, and what is wrong with it, if anything is."""
    return [
        (name, group, origin(point), _problem(point))
        for group in GROUPS
        for name, point in sorted(plugins(group).items())
    ]


def _is_of(group: str) -> Callable[[str], bool]:
    """Return whether a name of a package can be named in the section that belongs to it."""
    package = import_module(group)
    parts = exports(f"{group}.framework") if group == "spacelang.strategies" else {}

    def is_of(name: str) -> bool:
        value = getattr(package, name)
        if not isinstance(value, type) or name in parts:
            return False
        if group == "spacelang.hub":
            return issubclass(value, Space)
        return any(callable(getattr(value, method, None)) for method in _METHODS[group])

    return is_of


def _problem(point: Any) -> str:
    try:
        loaded(point)
    except SpaceError as error:
        return str(error)
    return ""
