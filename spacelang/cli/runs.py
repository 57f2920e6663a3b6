"""Run folders as commands read them, and tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SpaceError

if TYPE_CHECKING:
    from ..experiment import LoadedExperiment

directory_argument = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
ledger_option = click.option(
    "--ledger", help="URL of the ledger, where it has a password; default: what the run folder says."
)
_LONGEST = 600  # characters of a cell
_WIDTH = 160  # characters of a table that is not written to a terminal


def opened(directory: Path, ledger: str | None = None) -> LoadedExperiment:
    """Open a run folder, with its space if that is one of the hub."""
    from ..experiment import Experiment  # late: `spacelang --help` stays quick

    run = Experiment.load(directory, ledger=ledger)
    try:
        space = hub_space({"space": run.record.get("space")})
        return run if space is None else Experiment.load(directory, space=space, ledger=ledger)
    except SpaceError:  # it has other decisions in this version, or other arguments than YAML can hold
        return run


def hub_space(document: Mapping[str, Any]) -> Any:
    """Return the space of the hub that a document names, without weights; None where it names none.

    Args:
        document: An entry of the hub, or the description of a bundle or a run.

    Raises:
        SpaceError: The arguments in it do not fit.
    """
    import torch

    named = hub_class(document)
    if named is None:
        return None
    kind, arguments = named
    try:
        with torch.device("meta"):  # the graph needs no weights
            return kind(**arguments)
    except TypeError as error:
        raise SpaceError(f"the arguments of {kind.__name__} in the file do not fit: {error}") from error


def hub_class(document: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Return the class of the hub that a document names and its arguments; None where it names none."""
    from ..language import Space

    described = document.get("space")
    if isinstance(described, Mapping):  # of a bundle or a run
        name, arguments = str(described.get("class")), described.get("arguments")
        name = name.rpartition(".")[2] if name.startswith("spacelang.hub.") else ""
    else:
        name, arguments = str(described), document.get("arguments")
    hub = import_module("spacelang.hub")  # by name: the core imports no leaf
    kind = getattr(hub, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Space):
        return None
    given = arguments if isinstance(arguments, Mapping) else {}
    return kind, {str(k): tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def architecture_in(document: object, path: Path) -> dict[str, Any]:
    """Return the architecture dict that a file holds, by itself or under the key `architecture`.

    Raises:
        SpaceError: It holds none.
    """
    if not isinstance(document, dict):
        raise SpaceError(f"'{path}' holds a {type(document).__name__}; expected a mapping of label to value.")
    inner = document.get("architecture")
    arch: dict[str, Any] = inner if isinstance(inner, dict) else document
    return arch


def say_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; what stands in it is text, never markup or control characters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def printable(value: object) -> str:
    """Return a value as text without control characters; numbers are short."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def described(arch: Mapping[str, Any]) -> str:
    """Return an architecture on a line."""
    return ", ".join(f"{label}={value}" for label, value in arch.items())


def name_of(record: Mapping[str, Any], part: str) -> str:
    """Return the name of the class of the space, the strategy or the evaluator."""
    told = record.get(part)
    return str(told.get("class", "?") if isinstance(told, Mapping) else "?").rpartition(".")[2]


def size_of(run: LoadedExperiment) -> str:
    """Return how many trials or epochs a run has."""
    if run.is_one_shot:
        return f"{len(run.course.epochs)} epochs"
    return f"{run.history.measured} of {len(run.history)} trials measured"


def result_of(run: LoadedExperiment) -> str:
    """Return the best result in words."""
    if run.is_one_shot:
        last = run.course.epochs[-1].metrics if run.course.epochs else {}
        return ", ".join(f"{k} {v:.6g}" for k, v in last.items() if k.startswith("val")) or "none"
    best = run.history.best_trial
    if best is None:
        return "none"
    return ", ".join(f"{o.metric} {best.metrics[o.metric]:.6g}" for o in run.history.objectives)


def seconds_of(run: LoadedExperiment) -> float:
    """Return the seconds that the trials or the epochs took."""
    if run.is_one_shot:
        return sum(epoch.seconds for epoch in run.course.epochs)
    return sum(trial.duration for trial in run.history)
