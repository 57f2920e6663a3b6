"""Evaluator that looks metrics up in a table, in place of training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from spacelang.arguments import KnownArguments
from spacelang.errors import SpaceError, closest, quoted, short
from spacelang.language import Architecture
from spacelang.trials import Reporter, key_of

from .table_file import read_columns

ARCH, SEED, SECONDS = "arch", "seed", "seconds"


class Columns(Protocol):
    """Columns by name: a dict of lists, or a pandas DataFrame."""

    def items(self) -> Iterable[tuple[Any, Iterable[Any]]]:
        """Return the name and cells of each column."""
        ...


class Tabular(KnownArguments):
    """An evaluator that looks architectures up in a table of finished trainings.

    A row is one training. Its columns are

        arch       the canonical architecture dict as JSON
        seed       seed of the training, an integer; needed only to tell rows of one architecture apart
        val_acc    a metric at the end, and any other name likewise
        val_acc@3  the metric after epoch 3, counted from 0; passed to `report`

    A metric without a column of its own is that of the last epoch. An empty cell is NaN; epochs at the end
    of a row that are empty in every column were not reached. "seconds" is the time of training: nobody waits
    for it, it is added up in `seconds`. Reported epochs have the seconds up to there, from columns
    "seconds@0", ... or, without them, in equal shares.

    For an architecture with several rows one is drawn from torch's global generator, which a search seeds
    with the seed of the trial.

    Args:
        table: Path of a .csv or .parquet file (Parquet needs pyarrow, extra `spacelang-nas[parquet]`), or the
            columns themselves: a dict of lists or a pandas DataFrame.
        metrics: Metrics to read; by default all columns must hold numbers.
        average: Whether to return the mean over an architecture's rows instead of one row.
        key: Function of an architecture, equal for those that share rows, such as `space.hash` for a table
            that holds one of several isomorphic cells; by default those that are equal.

    Attributes:
        seconds: Seconds of simulated training, over everything this object evaluated.

    Raises:
        SpaceError: The table cannot be read or is malformed; names row (from 1, without the header)
            and column.

    >>> archs = ['{"layer": "conv"}', '{"layer": "skip"}']
    >>> evaluator = Tabular({"arch": archs, "val_acc": [0.9, 0.5], "seconds": [60, 20]})
    >>> evaluator.evaluate_architecture({"layer": "conv"})
    {'val_acc': 0.9, 'seconds': 60.0}
    >>> evaluator.seconds
    60.0
    """

    def __init__(
        self,
        table: str | Path | Columns,
        *,
        metrics: Sequence[str] | None = None,
        average: bool = False,
        key: Callable[[Architecture], str] = key_of,
    ) -> None:
        self._name = f"the table {str(table)!r}" if isinstance(table, str | Path) else "the table"
        self.seconds = 0.0
        self._average = average
        self._key = key
        try:
            cells = read_columns(Path(table)) if isinstance(table, str | Path) else _columns(table)
            self._archs, self._rows = _rows_by_key(cells, key)
            columns = _metric_columns(cells, metrics)
            self._values = np.stack(
                [_numbers(name, cells[name]) for name in columns], axis=1
            )  # (rows, columns)
        except SpaceError as error:
            raise SpaceError(f"{self._name}: {error}") from None
        self._final: dict[str, int] = {}
        epochs: dict[int, dict[str, int]] = {}
        for i, (name, epoch) in enumerate(columns.values()):
            (self._final if epoch is None else epochs.setdefault(epoch, {}))[name] = i
        self._epochs = dict(sorted(epochs.items()))

    def __len__(self) -> int:
        return len(self._rows)

    def architectures(self) -> Iterator[Architecture]:
        """Return every architecture of the table once."""
        return map(json.loads, self._archs.values())

    def evaluate_architecture(
        self, arch: Mapping[str, Any], report: Reporter | None = None
    ) -> dict[str, float]:
        """Return the metrics of a row of `arch`.

        Args:
            arch: Canonical architecture dict.
            report: Called with the metrics of each epoch.

        Raises:
            SpaceError: The table does not have it; says what the most similar one has instead.
        """
        rows = self._rows.get(self._key(dict(arch)))
        if rows is None:
            raise SpaceError(self._unknown(arch))
        values = self._row(rows)
        epochs = self._reached(values)
        final = {**(epochs[max(epochs)] if epochs else {}), **_at(self._final, values)}
        spent = 0.0
        try:
            for epoch, metrics in epochs.items() if report is not None else ():
                spent = metrics.get(SECONDS, spent)
                report(metrics, epoch)  # type: ignore[misc]  # it is not None; may end the trial by raising
            spent = final.get(SECONDS, spent)
        finally:
            self.seconds += 0.0 if math.isnan(spent) else spent
        return final

    def mean(self, arch: Mapping[str, Any]) -> dict[str, float]:
        """Return the means over all rows of `arch`; nobody waits, and no seconds are added up.

        Raises:
            SpaceError: The table does not have it.
        """
        rows = self._rows.get(self._key(dict(arch)))
        if rows is None:
            raise SpaceError(self._unknown(arch))
        values = np.asarray(self._values[rows].mean(axis=0))
        epochs = self._reached(values)
        return {**(epochs[max(epochs)] if epochs else {}), **_at(self._final, values)}

    def _row(self, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        if self._average:
            return np.asarray(self._values[rows].mean(axis=0))
        drawn = int(torch.randint(len(rows), ())) if len(rows) > 1 else 0
        return np.asarray(self._values[rows[drawn]])

    def _reached(self, values: np.ndarray[Any, Any]) -> dict[int, dict[str, float]]:
        """Return metrics by epoch, up to the last epoch that has any."""
        epochs = {epoch: _at(columns, values) for epoch, columns in self._epochs.items()}
        while epochs and all(math.isnan(value) for value in epochs[max(epochs)].values()):
            del epochs[max(epochs)]
        if SECONDS in self._final:
            for count, metrics in enumerate(epochs.values(), start=1):
                metrics.setdefault(SECONDS, float(values[self._final[SECONDS]]) * count / len(epochs))
        return epochs

    def _unknown(self, arch: Mapping[str, Any]) -> str:
        """Return a message on an architecture that is not in the table."""

        def different(known: Architecture) -> list[str]:
            labels = dict.fromkeys((*arch, *known))
            return [
                x
                for x in labels
                if x not in arch or x not in known or key_of({x: arch[x]}) != key_of({x: known[x]})
            ]

        nearest = min(self.architectures(), key=lambda known: len(different(known)))
        labels = different(nearest)
        here = {label: arch[label] for label in labels if label in arch}
        there = {label: nearest[label] for label in labels if label in nearest}
        return (
            f"{self._name} does not have the architecture {short(dict(arch))}. The closest of its "
            f"{len(self):,} has {short(there)} where this one has {short(here)}."
        )


def _at(columns: Mapping[str, int], values: np.ndarray[Any, Any]) -> dict[str, float]:
    return {name: float(values[i]) for name, i in columns.items()}


# -- reading the table ---------------------------------------------------------------------------------


def _columns(table: Columns) -> dict[str, list[Any]]:
    if not hasattr(table, "items"):
        raise SpaceError(f"expected a path, a dict of columns or a DataFrame; got {short(table)}.")
    cells = {str(name): list(column) for name, column in table.items()}
    if len({len(column) for column in cells.values()}) > 1:
        lengths = {name: len(column) for name, column in cells.items()}
        raise SpaceError(f"its columns differ in length: {short(lengths)}.")
    return cells


def _rows_by_key(
    cells: Mapping[str, Sequence[Any]], key_of_arch: Callable[[Architecture], str]
) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return an architecture as JSON, and row numbers, by key."""
    if ARCH not in cells:
        raise SpaceError(
            f"it has no column {ARCH!r} with architecture dicts as JSON; its columns are {quoted(cells)}."
        )
    if not cells[ARCH]:
        raise SpaceError("it has no rows.")
    archs: dict[str, str] = {}
    rows: dict[str, list[int]] = {}
    keys: dict[Any, str] = {}  # by text, which the rows of an architecture usually share
    for number, text in enumerate(cells[ARCH]):
        if text not in keys:
            keys[text] = key_of_arch(_arch(text, number))
        archs.setdefault(keys[text], text)
        rows.setdefault(keys[text], []).append(number)
    if SEED in cells:
        for key, numbers in rows.items():
            seeds = [str(cells[SEED][number]) for number in numbers]
            if len(set(seeds)) < len(seeds):
                raise SpaceError(
                    f"it has the architecture {short(key)} twice with the same seed: {quoted(seeds)}."
                )
    return archs, rows


def _arch(text: object, number: int) -> Architecture:
    try:
        arch = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        arch = None
    if not isinstance(arch, dict):
        raise SpaceError(
            f"row {number + 1}, column {ARCH!r}: expected an architecture dict as JSON, "
            f"""such as {{"layer": "conv"}}; got {short(text)}."""
        )
    return arch


def _metric_columns(
    cells: Mapping[str, object], metrics: Sequence[str] | None
) -> dict[str, tuple[str, int | None]]:
    """Return metric and epoch by the name of their column; epoch None is the end."""
    found: dict[str, tuple[str, int | None]] = {}
    for column in cells:
        name, at, epoch = column.rpartition("@")
        if column in (ARCH, SEED):
            continue
        if at and not (name and epoch.isascii() and epoch.isdigit()):
            raise SpaceError(f"column {column!r}: the part after @ must be an epoch, counted from 0.")
        found[column] = (name, int(epoch)) if at else (column, None)
    names = dict.fromkeys(name for name, _ in found.values())
    wanted = names if metrics is None else metrics
    for name in wanted:
        if name not in names:
            raise SpaceError(f"it has no metric {name!r}; it has {quoted(names)}." + closest(name, names))
    if not wanted:
        raise SpaceError("it has no metrics: every column but 'arch' and 'seed' is one.")
    return {column: meaning for column, meaning in found.items() if meaning[0] in wanted}


def _numbers(name: str, column: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a column of numbers, (rows,); empty cells are NaN."""
    try:
        return np.array([math.nan if x is None or x == "" else float(x) for x in column])
    except (TypeError, ValueError):
        row, value = next((i, x) for i, x in enumerate(column) if not _is_number(x))
        raise SpaceError(
            f"row {row + 1}, column {name!r}: expected a number, or nothing for NaN; got {short(value)}. "
            "metrics=[...] reads only the columns you name."
        ) from None


def _is_number(cell: Any) -> bool:
    try:
        float(cell or 0)
    except (TypeError, ValueError):
        return False
    return True
