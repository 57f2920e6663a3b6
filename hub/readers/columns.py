"""Columns of a table, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from spacelang.errors import SpaceError

Table: TypeAlias = dict[str, list[Any]]
"""Cells by column, as `spacelang.evaluators.Tabular` and `pandas.DataFrame` take them."""


def as_columns(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return the columns of all rows; a row without some column has None there."""
    table: Table = {}
    count = 0
    for count, row in enumerate(rows, start=1):
        for name, value in row.items():
            column = table.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)
    for column in table.values():
        column.extend([None] * (count - len(column)))
    return table


def read_bytes(path: Path, expected: str) -> bytes:
    """Read a file.

    Raises:
        SpaceError: It cannot be read; says what was expected.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpaceError(f"cannot read '{path}': {error.strerror or error}; expected {expected}.") from error
