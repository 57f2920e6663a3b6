"""Operations of a supernet: the modules of its cells and layer choices, which are skips, which are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from spacelang import SpaceError
from spacelang.errors import quoted
from spacelang.language import Absent
from spacelang.supernet import Group, MixedCell, MixedLayer, Supernet

Operations: TypeAlias = list[list[list[nn.Module]]]
"""Modules of a group by `[row][column]`: a candidate has one for each place that shares the label."""


def operations(supernet: Supernet) -> dict[str, Operations]:
    """Return the operations of every cell and layer choice by group label, without those that are absent."""
    found: dict[str, Operations] = {}
    for child in supernet.modules():
        if not isinstance(child, MixedCell | MixedLayer):
            continue
        group = child.group
        rows: Any = child.edges if isinstance(child, MixedCell) else [child.candidates]
        table = found.setdefault(group.label, [[[] for _ in group.columns] for _ in group.rows])
        for row, modules in zip(rows, table, strict=True):
            for module, known in zip(row, modules, strict=True):
                if not isinstance(module, Absent):
                    known.append(module)
    return found


def candidates(supernet: Supernet) -> list[nn.Module]:
    """Return every module of every operation."""
    return [
        module
        for table in operations(supernet).values()
        for row in table
        for modules in row
        for module in modules
    ]


def skips(supernet: Supernet) -> dict[str, set[int]]:
    """Return the columns of skip connections by group label, for cells and layer choices that have any.

    A candidate is a skip connection if its name contains "skip" or if it is an `nn.Identity` in some place.
    """
    found: dict[str, set[int]] = {}
    for label, table in operations(supernet).items():
        for k, name in enumerate(supernet.groups[label].columns):
            modules = [module for row in table for module in row[k]]
            if "skip" in str(name).lower() or any(isinstance(m, nn.Identity) for m in modules):
                found.setdefault(label, set()).add(k)
    return found


def skips_of_cells(supernet: Supernet, pattern: str) -> dict[str, set[int]]:
    """Return the `skips` of cells whose label matches a shell-style pattern."""
    return {
        label: columns
        for label, columns in skips(supernet).items()
        if supernet.groups[label].kind == "cell" and fnmatchcase(label, pattern)
    }


def no_such_skips(supernet: Supernet, pattern: str, what: str) -> SpaceError:
    """Return the error for a pattern that matches no cell with skips.

    Args:
        supernet: Network with the cells.
        pattern: Shell-style pattern for labels.
        what: Beginning of the message: the extra, and what it wants cells for.
    """
    cells = list(skips_of_cells(supernet, "*"))
    if not cells:
        return SpaceError(
            f"{what}, but no cell of this space has a skip connection: a candidate that is an nn.Identity "
            "or has 'skip' in its name."
        )
    return SpaceError(
        f"{what} whose label matches cells={pattern!r}; cells with skip connections are {quoted(cells)}. "
        f"Write cells={cells[0]!r}."
    )


def chosen_columns(group: Group, arch: Mapping[str, Any]) -> list[int]:
    """Return the columns that an architecture chooses in a cell or layer choice, with repeats."""
    if any(decision.label not in arch for decision in group.decisions):
        return []  # inside a candidate that was not chosen
    if group.kind != "cell":
        return [group.columns.index(arch[group.label])]
    return [column for slots in group.cell.chosen(arch).values() for _, column in slots]


def count_skips(
    supernet: Supernet, columns: Mapping[str, set[int]], arch: Mapping[str, Any]
) -> dict[str, int]:
    """Return, by group label, how many operations of `arch` are in `columns`."""
    return {
        label: sum(k in skipping for k in chosen_columns(supernet.groups[label], arch))
        for label, skipping in columns.items()
    }


def is_decided(entries: Sequence[bool]) -> bool:
    """Return whether one candidate of a row is left."""
    return sum(entries) == 1


def takes_part(group: Group) -> bool:
    """Return whether each row of a group decides for one of several candidates."""
    return not group.is_subset and len(group.columns) > 1
