"""How a worker runs a trial."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..errors import SpaceError
from ..files import write_atomic
from ..language import Architecture, Space, Tunable, model_context, open_decisions
from ..language.context import count_as_used
from ..language.given_weights import copy_weights
from ..randomness import seed_global_generators, torch_generators_kept
from .evaluator import ArchitectureEvaluator, Reporter, TrialEvaluator, as_metrics
from .inheritance import Heir, inherit_weights
from .trial import Report, Trial, storable

OnReport: TypeAlias = Callable[[int, Report], bool]
"""Called with a trial's number and its report; returns whether the trial continues."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: Number of the trial.
        metrics: Metrics by name; empty where there is an error.
        reports: All reports.
        error: Traceback, or an empty text.
        duration: Seconds that it ran.
    """

    number: int
    metrics: Mapping[str, float]
    reports: tuple[Report, ...] = ()
    error: str = ""
    duration: float = 0.0


@dataclass(frozen=True)
class Work:
    """Everything needed to run any trial of a search; it can be sent to another process.

    Args:
        space_type: Class of the space.
        arguments: Arguments of its constructor.
        evaluator: Measures a model, or an architecture (`ArchitectureEvaluator`); the architecture decides
            the settings of one that is `Tunable`.
        weights: Folder that keeps the weights of trained models; None to drop them.
        folder: Folder with a folder of each trial, named by its number; None for no such folders.
        given: File of the weights with which models begin; None for newly drawn ones.
        inherits: Whether models begin with the weights of the trial that their note names as "parent".
    """

    space_type: type[Space]
    arguments: Mapping[str, Any]
    evaluator: Any
    weights: Path | None = None
    folder: Path | None = None
    given: Path | None = None
    inherits: bool = False

    def run(self, trial: Trial, on_report: OnReport) -> Outcome:
        """Build and evaluate one architecture; what it raises becomes the outcome's error.

        An interruption (KeyboardInterrupt) and what `on_report` raises are not the trial's: they are raised.
        """
        start = time.perf_counter()
        reports: list[Report] = []
        metrics: Mapping[str, float] = {}
        error = ""

        def report(metrics: Mapping[str, float], epoch: int) -> None:
            reports.append(Report(int(epoch), as_metrics(metrics)))
            try:
                goes_on = on_report(trial.number, reports[-1])
            except Exception as cause:
                raise _NotOfTrial(cause) from None
            if not goes_on or (trial.max_epochs is not None and epoch + 1 >= trial.max_epochs):
                raise _Stop

        try:
            metrics = as_metrics(self._evaluate(trial, report))
        except _Stop:
            metrics = reports[-1].metrics
        except _NotOfTrial as wrapped:
            raise wrapped.error from None
        except BaseException as raised:  # a trial may raise anything, SystemExit too; the search continues
            if _is_interruption(raised):
                raise KeyboardInterrupt from None
            error = _formatted(raised)
        return Outcome(trial.number, metrics, tuple(reports), error, time.perf_counter() - start)

    def _evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        seed_global_generators(trial.seed)
        evaluator = self.evaluator
        if isinstance(evaluator, Tunable):
            evaluator = evaluator.decided(trial.arch)
        if isinstance(evaluator, TrialEvaluator) and self.folder is not None:
            evaluator = evaluator.for_trial(self.folder / str(trial.number), trial)
        if isinstance(evaluator, ArchitectureEvaluator):
            return evaluator.evaluate_architecture(trial.arch, report)
        model = self.build(trial.arch, trial.overrides)
        if self.inherits and "parent" in trial.note:
            self._inherit(model, int(trial.note["parent"]))
        try:
            found: Mapping[str, float] = evaluator.evaluate(model, report)
            return found
        finally:
            self._keep(trial, model)

    def build(self, arch: Architecture, overrides: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
        """Return the plain model of an architecture, its weights given or drawn from torch's generator.

        Args:
            arch: Architecture of the space, or of the space rebuilt with `overrides`.
            overrides: Constructor arguments that differ from the space's.
        """
        if self.given is not None:
            return self._inheriting(arch, overrides)
        with model_context(arch):
            model = self.space_type(**{**self.arguments, **overrides})
            count_as_used(decision.label for decision in open_decisions(self.evaluator))
            return model

    def _inheriting(self, arch: Architecture, overrides: Mapping[str, Any]) -> nn.Module:
        from safetensors.torch import load_file

        assert self.given is not None
        space = self.space_type(**{**self.arguments, **overrides})
        copy_weights(load_file(self.given), space)
        known = space.decision_space.by_label
        return space.freeze({label: value for label, value in arch.items() if label in known})

    def _inherit(self, model: nn.Module, parent: int) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_model

        assert self.weights is not None
        path = weights_file(self.weights, parent)
        if not path.exists():
            raise SpaceError(
                f"the weights of trial {parent} are to be inherited, and {str(path)!r} is not there. With "
                "several machines the run folder must be on a disk that all of them see."
            )
        with safe_open(path, "pt") as file:
            origin = json.loads(file.metadata()["trial"])
        with torch_generators_kept():  # the training draws the same whoever the parent was
            theirs = self.build(origin["arch"], origin["overrides"])
            load_model(theirs, str(path))
            if isinstance(model, Heir):
                model.inherit(theirs)
            else:
                inherit_weights(model, theirs)

    def _keep(self, trial: Trial, model: nn.Module) -> None:
        if self.weights is not None:
            from safetensors.torch import save  # not `save_model`: a kill leaves its temporary files behind

            # Copies, because safetensors refuses tensors that share memory.
            whole = torch.contiguous_format
            tensors = {name: value.clone(memory_format=whole) for name, value in model.state_dict().items()}
            self.weights.mkdir(parents=True, exist_ok=True)
            origin = json.dumps({"arch": trial.arch, "overrides": dict(trial.overrides)})
            write_atomic(weights_file(self.weights, trial.number), save(tensors, {"trial": origin}))


def weights_file(folder: Path, number: int) -> Path:
    """Return the path of a trial's weights."""
    return folder / f"{number}.safetensors"


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors by name to a file that `Work(given=path)` reads."""
    from safetensors.torch import save  # late: a file format that most searches do not need

    write_atomic(path, save({name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}))


class _Stop(Exception):
    """End of an evaluation before its last epoch."""


class _NotOfTrial(BaseException):
    """Wrapper that carries an exception of the driver through the code of a trial."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _is_interruption(raised: BaseException) -> bool:
    """Return whether somebody pressed Ctrl-C; Lightning's Trainer turns that into a SystemExit."""
    if isinstance(raised, SystemExit):
        raised = raised.__context__ or raised
    return isinstance(raised, KeyboardInterrupt)


def _formatted(raised: BaseException) -> str:
    try:
        return storable("".join(traceback.format_exception(raised)))
    except Exception as error:
        return f"{type(raised).__name__}, whose traceback cannot be written: {type(error).__name__}."


T = TypeVar("T")


class Rebuilt(Generic[T]):
    """Something made of a space, and made once more for each set of other constructor arguments.

    Args:
        space: Space that is searched.
        make: Makes it of a space.
    """

    def __init__(self, space: Space, make: Callable[[Space], T]) -> None:
        self._space = space
        self._make = make
        self._made: dict[str, T] = {}

    def __call__(self, overrides: Mapping[str, Any]) -> T:
        """Return what was made of `space.rebuild(**overrides)`.

        Raises:
            SpaceError: The constructor does not accept them, or they are not plain values.
        """
        key = json.dumps(plain_overrides(overrides), sort_keys=True)
        if key not in self._made:
            self._made[key] = self._make(self._space.rebuild(**overrides) if overrides else self._space)
        return self._made[key]

    def concerned(self, arch: Architecture, overrides: Mapping[str, Any]) -> T:
        """Return what was made of the space itself if it has the architecture, else of the rebuilt one."""
        foreign = overrides and self._space.decision_space.problems(arch)
        return self(overrides if foreign else {})


def plain_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments as the ledger gives them back: tuples are lists.

    Raises:
        SpaceError: They are not plain values.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(overrides)))
        return plain
    except TypeError as error:
        raise SpaceError(
            f"overrides={dict(overrides)!r} are kept in the ledger, so they must be numbers, texts, None, or "
            f"lists and dicts of them: {error}."
        ) from None
