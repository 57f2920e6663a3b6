"""What is known of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..language import Architecture

State: TypeAlias = Literal["waiting", "running", "done", "failed", "infeasible"]


@dataclass(frozen=True)
class Proposal:
    """What a strategy wants tried.

    Args:
        arch: architecture dict.
        max_epochs: Epochs after which the trial is stopped; None for as many as the evaluator trains.
        note: plain values the strategy wants to find again in the trial.
        overrides: constructor arguments, plain values; the trial is measured on a model of
            `space.rebuild(**overrides)`, whose architecture `arch` is.
    """

    arch: Architecture
    max_epochs: int | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Metrics an evaluator announced after an epoch, counted from 0."""

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One architecture, tried once.

    Attributes:
        number: from 0, in the order of proposals.
        arch: architecture dict, canonical; of the space rebuilt with `overrides`, if there are any.
        seed: of the model's first weights and of everything else random in the trial.
        state: "waiting", "running", "done", "failed" (it raised) or "infeasible" (never trained).
        max_epochs, note, overrides: See `Proposal`.
        metrics: of a finished trial; measured costs are among them.
        reports: metrics after each epoch that was announced.
        error: of a failed trial, with its traceback; of an infeasible one, the limit it breaks.
        duration: seconds.
        owner: which worker process ran it.
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
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "infeasible")
