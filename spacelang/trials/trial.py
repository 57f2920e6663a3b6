"""One trial, from its proposal to its outcome."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..language import Architecture

_TRACEBACK = "Traceback (most recent call last):"

State: TypeAlias = Literal["waiting", "running", "done", "failed", "infeasible"]


@dataclass(frozen=True)
class Proposal:
    """An architecture to try, as a strategy proposes it.

    Args:
        arch: Architecture dict.
        max_epochs: Epochs after which the trial is stopped; None for as many as the evaluator trains.
        note: Plain values that the strategy will find again in the trial.
        overrides: Constructor arguments, plain values; the trial trains a model of
            `space.rebuild(**overrides)`, to which `arch` belongs.
    """

    arch: Architecture
    max_epochs: int | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Metrics that an evaluator reported after an epoch, counted from 0."""

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One architecture, tried once.

    Attributes:
        number: Position among the proposals, from 0.
        arch: Canonical architecture dict, of the space rebuilt with `overrides` if there are any.
        seed: Seeds the model's first weights and every other random draw of the trial.
        state: "waiting", "running", "done", "failed" (it raised) or "infeasible" (never trained).
        max_epochs, note, overrides: See `Proposal`.
        metrics: Metrics of a finished trial, measured costs among them.
        reports: Metrics after each epoch that was reported.
        error: Traceback of a failed trial; the limit that an infeasible one breaks.
        duration: Seconds that it ran.
        owner: Name of the worker process that runs or ran it.
    """

    number: int
    arch: Architecture
    seed: int
    state: State = "waiting"
    max_epochs: int | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    error: str = ""
    duration: float = 0.0
    owner: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The choices of this trial, as hyper-parameters for a logger."""
        chosen: dict[str, Any] = {"trial": self.number, "architecture": dict(self.arch)}
        return chosen | ({"overrides": dict(self.overrides)} if self.overrides else {})

    @property
    def reason(self) -> str:
        """The error in one line, without the traceback; empty where there is none."""
        lines = self.error.rpartition(_TRACEBACK)[2].splitlines()
        return next((line for line in lines if line and not line[0].isspace()), "")

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "infeasible")


MAX_ERROR = 20_000  # characters
_UNSTORABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def storable(text: str) -> str:
    """Return a text that every database accepts: of at most `MAX_ERROR` characters, its middle left out.

    Control characters and lone surrogates are replaced.
    """
    if len(text) > MAX_ERROR:
        note = f"\n[... {len(text) - MAX_ERROR} characters left out ...]\n"
        half = (MAX_ERROR - len(note)) // 2
        text = text[:half] + note + text[-half:]
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
