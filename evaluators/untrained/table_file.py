"""Reader of CSV and Parquet files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from spacelang.errors import SpaceError, quoted


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return cells by column; those of a CSV file are text.

    Raises:
        SpaceError: The file is missing, of another kind or malformed, or pyarrow is not installed.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise SpaceError(f"expected a file that ends in {quoted(readers)}; got {path.suffix!r}.")
    try:
        return readers[path.suffix.lower()](path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpaceError(f"cannot be read: {error}") from error


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        rows = [row for row in reader if row]
    _check_names(names)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise SpaceError(f"row {number} has {len(row)} cells; the header has {len(names)} columns.")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SpaceError(
            "a Parquet file needs pyarrow: pip install 'spacelang-nas[parquet]', or save the table as .csv."
        ) from error
    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise SpaceError(f"is not a Parquet file: {error}") from error
    _check_names(table.column_names)
    return {name: table.column(i).to_pylist() for i, name in enumerate(table.column_names)}


def _check_names(names: list[str]) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise SpaceError(f"it has the column {twice[0]!r} twice.")
