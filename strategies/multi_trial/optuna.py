"""Any sampler of Optuna as a strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.arguments import KnownArguments
from spacelang.language import Architecture, Categorical, Decision, DecisionSpace, Interval, Subset
from spacelang.quiet import quiet
from spacelang.trials import Exhausted, History, Maximize, Objective, Proposal, Proposer, Trial, key_of

from .stateless import drawn_once, require_untried

if TYPE_CHECKING:
    import optuna  # optional

_TRIES = 100


@dataclass(frozen=True)
class Optuna(KnownArguments):
    """Ask a sampler of Optuna: TPE, GP, NSGA-II and III, CMA-ES, QMC, or one of your own.

    An Optuna study in memory mirrors the history: objectives with their directions, failed and NaN trials as
    failed, infeasible ones as pruned (failed where there are several objectives) with a constraint violated.
    A decision is a parameter with its full label; its value is the position of the candidate, an integer
    where candidates are numbers in order, a category elsewhere. A range is a parameter on its own scale. A
    set of any size is one parameter, 0 or 1, for each candidate: `label[candidate]`. Only decisions that are
    active are suggested.

    TPE learns all decisions. With genetic samplers, NSGA-II and III, those that are active in some
    architectures alone are crossed like the others: a parent that lacks one gets it from another parent.
    The GP, QMC and CMA-ES samplers draw these at random, whatever they have learnt, and CMA-ES also all
    categories; a search warns of that. CMA-ES is refused where there are several objectives.

    A resumed search restores whatever a sampler keeps in the study, by asking it again for every trial. State
    of the sampler itself is lost: every trial has a new one.

    Args:
        sampler: Class of sampler, or function that returns a sampler, called with `seed=`:
            `Optuna(functools.partial(TPESampler, multivariate=True, group=True))`. None is TPE.

    Raises:
        SpaceError: Optuna is not installed, or no sampler is made.
    """

    sampler: Callable[..., optuna.samplers.BaseSampler] | None = None

    def __post_init__(self) -> None:
        self.make(0)

    def make(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a new sampler."""
        try:
            import optuna
        except ImportError as error:
            raise SpaceError(
                "the strategy Optuna needs the package optuna: pip install 'spacelang-nas[optuna]'."
            ) from error
        make: Any = self.sampler or optuna.samplers.TPESampler
        if isinstance(make, str):
            known = {name.removesuffix("Sampler").lower(): name for name in optuna.samplers.__all__}
            name = known.get(make.lower().removesuffix("sampler"), "TPESampler")
            raise SpaceError(
                f"Optuna({make!r}): a sampler is a class, not its name. Write Optuna(optuna.samplers.{name})."
            )
        if isinstance(make, optuna.samplers.BaseSampler) or not callable(make):
            raise SpaceError(
                "Optuna needs a class of sampler, or a function seed -> sampler, because each trial has a "
                f"seed of its own; got {make!r}. Write Optuna(functools.partial({type(make).__name__}, ...))."
            )
        sampler = make(seed=seed)
        if not isinstance(sampler, optuna.samplers.BaseSampler):
            raise SpaceError(f"{make!r} returned {sampler!r}, which is not a sampler of Optuna.")
        return sampler

    def unused_features(self, space: ModelSpace) -> list[str]:
        """Return sentences on features that the space leaves without effect, as for `spacelang.trials`."""
        from optuna.samplers import CmaEsSampler, GPSampler, QMCSampler

        decisions, sampler = space.decision_space, self.make(0)
        labels = decisions.by_label
        joint = isinstance(sampler, CmaEsSampler | GPSampler | QMCSampler)
        lost = {label for label in labels if joint and decisions.conditions[label].labels}
        if isinstance(sampler, CmaEsSampler):
            lost |= {label for label in labels if not is_number(labels[label])}
        if not lost:
            return []
        return [
            f"{type(sampler).__name__} draws {len(lost)} of {len(labels)} decisions at random, whatever "
            "it has learnt: those that exist in some architectures alone, and with CMA-ES all categories. "
            "TPESampler and NSGAIISampler do not."
        ]

    def start(self, space: ModelSpace) -> Proposer:
        """Begin a search."""
        return _Search(self._make_for_conditions, space.decision_space)

    def _make_for_conditions(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a new sampler; a genetic one also crosses conditional decisions."""
        from optuna.samplers import BaseGASampler

        from .genetic_sampler import WholeParents

        sampler = self.make(seed)
        return WholeParents(sampler, seed) if isinstance(sampler, BaseGASampler) else sampler


@dataclass
class _Asked:
    """A proposal, as the study knows it.

    Args:
        number: Number that its trial will have.
        seed: Seeds its samplers.
        trial: Its trial in the study.
        arch: Canonical architecture.
    """

    number: int
    seed: int
    trial: optuna.Trial
    arch: Architecture


@dataclass
class _Search:
    """One search: a study that follows the history.

    Args:
        make: Function from a seed to a sampler.
        space: Decisions to suggest.

    Attributes:
        study: The study; None before the first trial.
        trials: Trials of the study, by number in the history.
        told: Numbers of trials whose end the study knows.
        asked: Proposal that is not yet in the history.
    """

    make: Callable[[int], optuna.samplers.BaseSampler]
    space: DecisionSpace
    study: optuna.Study | None = field(init=False, default=None)
    trials: list[optuna.Trial] = field(init=False, default_factory=list)
    told: set[int] = field(init=False, default_factory=set)
    asked: _Asked | None = field(init=False, default=None)

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        search = drawn_once("search", history, rng)
        if self.asked is not None and not self._came_true(self.asked, history):
            self._forget()
        for number in range(len(self.trials), len(history)):
            self._follow(history[number], history)
        running = [trial.number for trial in history.running]
        self._tell(set(range(len(history))) - set(running), history)
        seed = int(rng.integers(2**32))
        self.asked = self._ask(len(history), seed, search, history)
        return Proposal(self.asked.arch, note={"search": search, "seed": seed, "running": running})

    # -- following the history -------------------------------------------------------------------------

    def _forget(self) -> None:
        self.study, self.trials, self.told, self.asked = None, [], set(), None

    def _came_true(self, asked: _Asked, history: History) -> bool:
        """Return whether the last proposal became the trial it was made for."""
        if asked.number >= len(history):
            return False
        trial = history[asked.number]
        return trial.note.get("seed") == asked.seed and trial.arch == asked.arch

    def _follow(self, trial: Trial, history: History) -> None:
        """Add a trial to the study as it was when it was proposed."""
        if self.asked is None and "seed" in trial.note:
            earlier = set(range(trial.number))
            self._tell(earlier - set(trial.note["running"]), history)
            self.asked = self._ask(trial.number, trial.note["seed"], trial.note["search"], history)
        if self.asked is not None and key_of(self.asked.arch) == key_of(trial.arch):
            self.trials.append(self.asked.trial)
        else:
            self._drop(self.asked.trial if self.asked else None)
            self.trials.append(self._given(trial.arch, history))
        self.asked = None

    def _tell(self, numbers: set[int], history: History) -> None:
        """Tell the study how the trials among `numbers` ended."""
        from optuna.trial import TrialState

        for number in sorted(numbers - self.told):
            trial, ours = history[number], self.trials[number]
            study = self._study(history)
            if trial.state == "infeasible":
                ours.set_constraint("infeasible", 1.0)
                study.tell(ours, state=TrialState.FAIL if len(study.directions) > 1 else TrialState.PRUNED)
            elif trial.state == "done" and all(map(math.isfinite, history.scores(trial))):
                study.tell(ours, [trial.metrics[o.metric] for o in history.objectives])
            else:
                study.tell(ours, state=TrialState.FAIL)
            self.told.add(number)

    # -- asking ----------------------------------------------------------------------------------------

    def _study(self, history: History) -> optuna.Study:
        from optuna.storages import InMemoryStorage
        from optuna.study import Study

        if self.study is None:
            _check_objectives(self.make(0), history.objectives)
            storage = InMemoryStorage()
            directions = [_direction(objective) for objective in history.objectives]
            with quiet(("optuna.storages._in_memory",), 30):
                storage.create_new_study(directions, "search")
            self.study = Study("search", storage, sampler=self.make(0))
        return self.study

    def _ask(self, number: int, seed: int, search: int, history: History) -> _Asked:
        """Ask samplers until an architecture satisfies the constraints of the space."""
        from optuna.samplers import QMCSampler

        study, seeds = self._study(history), np.random.default_rng(seed)
        for _ in range(_TRIES):
            study.sampler = self.make(int(seeds.integers(2**31)))
            if isinstance(study.sampler, QMCSampler):
                study.sampler = self.make(search)  # one sequence, along which the study counts
            trial = study.ask()
            arch = self._suggested(trial)
            if not self.space.unfit(arch):
                return _Asked(number, seed, trial, self.space.canonical(arch))
            self._drop(trial)
            if any(rule.gives_way and not rule.holds(arch) for rule in self.space.constraints):
                repaired = self.space.repaired(arch, seeds)
                if repaired is not None:
                    return _Asked(number, seed, self._given(repaired, history), repaired)
        raise Exhausted(f"{_TRIES} suggestions in a row broke a constraint of the space")

    def _drop(self, trial: optuna.Trial | None) -> None:
        from optuna.trial import TrialState

        if trial is not None:
            trial.study.tell(trial, state=TrialState.FAIL)

    def _suggested(self, trial: optuna.Trial) -> Architecture:
        """Let a sampler decide all decisions that are active."""
        arch: Architecture = {}
        for label, decision in self.space.by_label.items():
            if self.space.active(label, arch):
                arch[label] = _suggested_value(trial, decision)
        return arch

    def _given(self, arch: Architecture, history: History) -> optuna.Trial:
        """Return a trial of the study for an architecture from elsewhere."""
        study = self._study(history)
        study.sampler = self.make(0)
        parameters = [_parameters_of(self.space.by_label[label], value) for label, value in arch.items()]
        study.enqueue_trial({name: value for found in parameters for name, value in found.items()})
        trial = study.ask()
        self._suggested(trial)
        return trial


def _suggested_value(trial: optuna.Trial, decision: Decision) -> Any:
    """Return a suggested value; for a set of any size it may be the empty set, which is invalid."""
    if is_any_set(decision):
        chosen = {c: trial.suggest_categorical(f"{decision.label}[{c}]", (0, 1)) for c in decision.candidates}
        return [c for c in decision.candidates if chosen[c]]
    if isinstance(decision, Interval):
        return decision.parse(_suggested_number(trial, decision))
    values = list(decision.values())
    if is_number(decision):
        return values[trial.suggest_int(decision.label, 0, len(values) - 1)]
    return values[trial.suggest_categorical(decision.label, range(len(values)))]


def _suggested_number(trial: optuna.Trial, decision: Interval) -> float:
    if decision.is_integer:
        step = int(decision.step or 1)
        return trial.suggest_int(decision.label, int(decision.low), int(decision.top), step=step)
    scale: dict[str, Any] = {"log": decision.log, "step": decision.step}
    return trial.suggest_float(decision.label, decision.low, decision.top, **scale)


def _parameters_of(decision: Decision, value: Any) -> dict[str, float]:
    """Return the parameters that make `_suggested_value` return a value."""
    if is_any_set(decision):
        included = zip(decision.candidates, decision.indicator(value), strict=True)
        return {f"{decision.label}[{c}]": int(x) for c, x in included}
    if isinstance(decision, Interval):
        return {decision.label: value}
    return {decision.label: list(decision.values()).index(value)}


def is_any_set(decision: Decision) -> bool:
    """Return whether a decision is a set of inputs of any size."""
    return isinstance(decision, Subset) and decision.n_chosen is None


def _check_objectives(sampler: optuna.samplers.BaseSampler, objectives: Sequence[Objective]) -> None:
    """Raise a `SpaceError` if a sampler cannot search for so many objectives."""
    from optuna.samplers import CmaEsSampler

    if isinstance(sampler, CmaEsSampler) and len(objectives) > 1:
        raise SpaceError(
            f"{type(sampler).__name__} searches for one objective; got {len(objectives)}: "
            f"{', '.join(map(str, objectives))}. Write Optuna(NSGAIISampler) or Optuna(TPESampler), or set "
            "one objective."
        )


def _direction(objective: Objective) -> optuna.study.StudyDirection:
    from optuna.study import StudyDirection

    return StudyDirection.MAXIMIZE if isinstance(objective, Maximize) else StudyDirection.MINIMIZE


def is_number(decision: Decision) -> bool:
    """Return whether candidates are numbers in order, not positions of unordered things."""
    if not isinstance(decision, Categorical):
        return False
    candidates: Sequence[Any] = decision.candidates
    if not all(type(c) in (int, float) for c in candidates) or list(candidates) == list(
        range(len(candidates))
    ):
        return False
    return list(candidates) in (sorted(candidates), sorted(candidates, reverse=True))
