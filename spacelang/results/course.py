"""Course of a one-shot search: what was seen after each epoch, a line of JSON each in `epochs.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SpaceError
from ..language import Architecture

Table = list[list[float]]
"""Probabilities of a group, rows x columns."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One search of those that follow one another.

    Attributes:
        number: Its number, from 0.
        epochs: Epochs that were planned; None where that was open.
        groups: Names of the rows and of the columns of each group's table, by label.
    """

    number: int
    epochs: int | None
    groups: Mapping[str, tuple[Sequence[str], Sequence[str]]]


@dataclass(frozen=True)
class Epoch:
    """State of a search after an epoch.

    Attributes:
        stage: Number of its stage.
        number: Number of the epoch in its stage, from 0.
        seconds: Seconds that it took.
        metrics: Metrics that the module logged.
        tables: Probabilities by group label; empty where none are learned.
        records: Values that extras recorded in this epoch, by name.
        decisions: Decisions that a schedule took at its end.
        best: Best architectures so far, best first; empty where they are found at the end.
    """

    stage: int
    number: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    records: Mapping[str, Sequence[float]] = field(default_factory=dict)
    decisions: Sequence[Mapping[str, Any]] = ()
    best: Sequence[Architecture] = ()


@dataclass(frozen=True)
class Course:
    """Everything that was seen of a one-shot search.

    Attributes:
        stages: Stages that were begun.
        epochs: Epochs in order; one that was trained again counts once.
        ended: Reason for the end; empty while there is none.
        best: Best architectures, best first.
    """

    stages: tuple[Stage, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    ended: str = ""
    best: tuple[Architecture, ...] = ()

    @property
    def records(self) -> dict[str, list[float]]:
        """Every recorded value by name, in order."""
        found: dict[str, list[float]] = {}
        for epoch in self.epochs:
            for name, values in epoch.records.items():
                found.setdefault(name, []).extend(values)
        return found

    @property
    def decisions(self) -> list[Mapping[str, Any]]:
        """Every decision of a schedule, in order."""
        return [decision for epoch in self.epochs for decision in epoch.decisions]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a course, after whatever a kill has left of another."""
    broken = path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(broken) + json.dumps(line, separators=(",", ":")) + "\n")


def read_course(path: Path) -> Course:
    """Read a course; without a file it is empty. A line that a kill cut off is left out.

    Raises:
        SpaceError: A line does not hold what was written.
    """
    stages: dict[int, Stage] = {}
    epochs: dict[tuple[int, int], Epoch] = {}
    ended = ""
    best: tuple[Architecture, ...] = ()
    for number, line in _lines(path):
        try:
            if "groups" in line:
                stage = _stage(line)
                stages[stage.number] = stage
            elif "epoch" in line:
                epoch = _epoch(line)
                epochs.pop((epoch.stage, epoch.number), None)
                epochs[epoch.stage, epoch.number] = epoch
                ended, best = "", tuple(epoch.best) or best
            else:
                ended, best = str(line["ended"]), tuple(_architectures(line["best"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SpaceError(f"line {number} of '{path}' is damaged: {error!r}.") from error
    return Course(tuple(stages.values()), tuple(epochs[key] for key in sorted(epochs)), ended, best)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines that are whole, with their numbers."""
    if not path.exists():
        return
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            yield number, line


def _stage(line: Mapping[str, Any]) -> Stage:
    epochs = line["epochs"]
    groups = {
        str(label): (tuple(map(str, group["rows"])), tuple(map(str, group["columns"])))
        for label, group in line["groups"].items()
    }
    return Stage(int(line["stage"]), None if epochs is None else int(epochs), groups)


def _epoch(line: Mapping[str, Any]) -> Epoch:
    return Epoch(
        int(line["stage"]),
        int(line["epoch"]),
        float(line["seconds"]),
        _by_name(line["metrics"], float),
        _by_name(line["tables"], lambda rows: [_numbers(row) for row in rows]),
        _by_name(line["records"], _numbers),
        [dict(decision) for decision in line["decisions"]],
        _architectures(line["best"]),
    )


def _by_name(data: Mapping[str, Any], read: Callable[[Any], T]) -> dict[str, T]:
    return {str(name): read(value) for name, value in data.items()}


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _architectures(data: Sequence[Any]) -> list[Architecture]:
    return [{str(label): value for label, value in arch.items()} for arch in data]
