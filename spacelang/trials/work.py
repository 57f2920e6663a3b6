"""What a worker does with a trial."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

from torch import nn

from ..errors import SpaceError
from ..language import Architecture, Space, Tunable, model_context, open_decisions
from ..language.context import count_as_used
from ..randomness import seed_global_generators
from .evaluator import ArchitectureEvaluator, Reporter, TrialEvaluator, as_metrics
from .trial import Report, Trial

OnReport: TypeAlias = Callable[[int, Report], bool]
"""Called with a trial's number and what it announced; returns whether the trial goes on."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: of the trial.
        metrics: by name; empty where there is an error.
        reports: everything announced.
        error: traceback, or empty.
        duration: seconds.
    """

    number: int
    metrics: Mapping[str, float]
    reports: tuple[Report, ...] = ()
    error: str = ""
    duration: float = 0.0


@dataclass(frozen=True)
class Work:
    """How to run any trial of a search; it can be sent to another process.

    Args:
        space_type, arguments: class of the space and arguments of its constructor.
        evaluator: measures a model, or an architecture (`ArchitectureEvaluator`); the architecture decides
            the settings of one that is `Tunable`.
        weights: folder that keeps the weights of trained models; None to drop them.
        folder: where a trial has a folder of its own, named by its number; None for no such folder.
    """

    space_type: type[Space]
    arguments: Mapping[str, Any]
    evaluator: Any
    weights: Path | None = None
    folder: Path | None = None

    def run(self, trial: Trial, on_report: OnReport) -> Outcome:
        """Build, evaluate and measure one architecture; what it raises becomes its error."""
        start = time.perf_counter()
        reports: list[Report] = []
        metrics: Mapping[str, float] = {}
        error = ""

        def report(metrics: Mapping[str, float], epoch: int) -> None:
            reports.append(Report(int(epoch), as_metrics(metrics)))
            goes_on = on_report(trial.number, reports[-1])
            if not goes_on or (trial.max_epochs is not None and epoch + 1 >= trial.max_epochs):
                raise _Stop

        try:
            metrics = as_metrics(self._evaluate(trial, report))
        except _Stop:
            metrics = reports[-1].metrics
        except Exception:  # a trial may raise anything; the search goes on
            error = traceback.format_exc()
        return Outcome(trial.number, metrics, tuple(reports), error, time.perf_counter() - start)

    def _evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        seed_global_generators(trial.seed)
        evaluator = self.evaluator
        if isinstance(evaluator, Tunable):
            evaluator = evaluator.decided(trial.arch)
        if isinstance(evaluator, TrialEvaluator) and self.folder is not None:
            evaluator = evaluator.for_trial(self.folder / str(trial.number))
        if isinstance(evaluator, ArchitectureEvaluator):
            return evaluator.evaluate_architecture(trial.arch, report)
        model = self.build(trial.arch, trial.overrides)
        try:
            found: Mapping[str, float] = evaluator.evaluate(model, report)
            return found
        finally:
            self._keep(trial.number, model)

    def build(self, arch: Architecture, overrides: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
        """The plain model of an architecture, its weights newly drawn from torch's generator.

        Args:
            arch: of the space, or of the space with other constructor arguments.
            overrides: those.
        """
        with model_context(arch):
            model = self.space_type(**{**self.arguments, **overrides})
            count_as_used(decision.label for decision in open_decisions(self.evaluator))
            return model

    def _keep(self, number: int, model: nn.Module) -> None:
        if self.weights is not None:
            from safetensors.torch import save_model

            self.weights.mkdir(parents=True, exist_ok=True)
            save_model(model, str(weights_file(self.weights, number)))


def weights_file(folder: Path, number: int) -> Path:
    """Where the weights of a trial are kept."""
    return folder / f"{number}.safetensors"


class _Stop(Exception):
    """Leave an evaluation early."""


T = TypeVar("T")


class Rebuilt(Generic[T]):
    """Something made of a space, and made again, once, for every set of other constructor arguments.

    Args:
        space: as it is searched.
        make: makes it of a space.
    """

    def __init__(self, space: Space, make: Callable[[Space], T]) -> None:
        self._space = space
        self._make = make
        self._made: dict[str, T] = {}

    def __call__(self, overrides: Mapping[str, Any]) -> T:
        """What is made of `space.rebuild(**overrides)`.

        Raises:
            SpaceError: the constructor does not take them, or they are no plain values.
        """
        key = json.dumps(plain_overrides(overrides), sort_keys=True)
        if key not in self._made:
            self._made[key] = self._make(self._space.rebuild(**overrides) if overrides else self._space)
        return self._made[key]

    def concerned(self, arch: Architecture, overrides: Mapping[str, Any]) -> T:
        """What is made of the space itself if it has the architecture, else of the rebuilt one."""
        foreign = overrides and self._space.decision_space.problems(arch)
        return self(overrides if foreign else {})


def plain_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments as the ledger gives them back: tuples are lists.

    Raises:
        SpaceError: they are no plain values.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(overrides)))
        return plain
    except TypeError as error:
        raise SpaceError(
            f"overrides={dict(overrides)!r} are kept in the ledger, so they must be numbers, texts, None, or "
            f"lists and dicts of them: {error}."
        ) from None
