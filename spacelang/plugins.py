"""Plug-ins: strategies, spaces and evaluators of other packages, found by entry points.

A package that has these lines in its `pyproject.toml` adds `spacelang.strategies.Tabu`, to Python, to YAML
and to `spacelang list`:

    [project.entry-points."spacelang.strategies"]
    Tabu = "their_package:Tabu"

The groups are `spacelang.strategies`, `spacelang.hub` (classes of spaces) and `spacelang.evaluators`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import SpaceError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

LEAVES = ("strategies", "hub", "evaluators")
GROUPS = tuple(f"{__package__}.{leaf}" for leaf in LEAVES)


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; none of any other name."""
    if group not in GROUPS:
        return {}
    from importlib.metadata import entry_points  # late: it costs more than `import spacelang`

    return {point.name: point for point in entry_points(group=group)}


def loaded(point: EntryPoint) -> object:
    """Import what an entry point names.

    Raises:
        SpaceError: It cannot be imported; names the package it belongs to.
    """
    try:
        return point.load()
    except Exception as error:  # whatever a foreign module raises
        raise SpaceError(
            f"the plug-in {point.name!r} ({point.value}) of the package {origin(point)!r} cannot be "
            f"imported: {type(error).__name__}: {error}"
        ) from error


def origin(point: EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    return point.dist.name if point.dist else "?"
