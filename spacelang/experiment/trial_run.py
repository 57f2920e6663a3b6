"""Multi-trial search, from its seed to its results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from torch import nn

from ..costs import CostLimit, ExpectedCost, LatencyTable, expected_cost, measure_latency
from ..errors import SpaceError, require_integer, require_one_of, short
from ..files import remove_leftovers
from ..language import Architecture, Space, open_decisions
from ..trials import (
    ArchitectureEvaluator,
    Budget,
    Evaluator,
    Executor,
    History,
    InProcess,
    Ledger,
    Maximize,
    MultiTrialStrategy,
    Objective,
    Proposal,
    Rebuilt,
    Trial,
    TrialSearch,
    Work,
    warn_of_unused_features,
    weights_file,
    write_weights,
)
from ..trials.export import to_optuna
from ..trials.ledger import DEFAULT_STUDY, hidden_password
from ..trials.objectives import parse_objective
from .report_file import ReportFile
from .run_folder import IDENTITY, RunFolder, finished, stopped
from .trial_progress import TrialProgress, counted, first_error

if TYPE_CHECKING:
    import optuna


_COSTS = ("params", "flops", "macs", "latency")
_LONGEST_NAME = 200
_FEW = 10_000  # architectures that somebody may want to try all


class TrialOptions(TypedDict, total=False):
    """Keywords of an `Experiment` that searches by trials: the fields of `TrialSettings`."""

    max_trials: int | None
    max_duration: float | None
    max_failures: int | None
    objectives: Sequence[Objective]
    limits: Sequence[CostLimit]
    executor: Executor | None
    ledger: str | None
    study: str
    example_inputs: Any
    keep_weights: int
    inherit: Literal["parent"] | None


@dataclass(frozen=True, kw_only=True)
class TrialSettings(Budget):
    """Settings of a search by trials: its budget, its goal, and where trials run and are kept.

    Args:
        max_trials: See `Budget`, as for `max_duration` and `max_failures`.
        objectives: `Maximize(metric)`, `Minimize(metric)`, of the evaluator's metrics or "params", "flops",
            "macs", "latency" (milliseconds, by a table that is measured on this machine once and kept in the
            run folder). By default the evaluator's `default_objective`, such as `Maximize("val_acc")` of a
            Classification, or `Maximize("default")`.
        limits: Limits on costs; an architecture that breaks one is recorded and never trained.
        executor: Runner of the trials: in this process by default; `ProcessPool()`, `RayExecutor()`.
        ledger: URL of a database that several machines and several searches may share; `trials.db` in the
            run folder by default.
        study: Name of the search in that database. Runs with the same name and the same settings work on one
            search; other settings need another name.
        example_inputs: Example for costs that depend on the input, such as FLOPs.
        keep_weights: How many of the best trials keep their trained weights.
        inherit: "parent" to begin each model with the weights of the trial from which its architecture was
            made, if the strategy says so (`note["parent"]`, as `RegularizedEvolution` does). A model
            with a method `inherit(parent)` says how; others copy what fits (`inherit_weights`). The weights
            of all trials are kept, so that the search can be continued.

    Raises:
        SpaceError: A setting is of the wrong kind or out of range.
    """

    objectives: Sequence[Objective] = ()
    limits: Sequence[CostLimit] = ()
    executor: Executor | None = None
    ledger: str | None = field(default=None, repr=False)  # it may hold a password
    study: str = DEFAULT_STUDY
    example_inputs: Any = None
    keep_weights: int = 1
    inherit: Literal["parent"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("keep_weights", self.keep_weights, least=0)
        require_one_of("inherit", self.inherit, ("parent", None))
        if not isinstance(self.study, str) or not 0 < len(self.study) <= _LONGEST_NAME:
            raise SpaceError(f"study={short(self.study)} must be a name of 1 to {_LONGEST_NAME} characters.")
        _require_list("objectives", self.objectives, Objective, "Maximize(metric) or Minimize(metric)")
        _require_list("limits", self.limits, CostLimit, 'CostLimit("params", at_most=1e6)')
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise SpaceError(
                f"executor={self.executor!r}; expected one such as ProcessPool() or RayExecutor()."
            )


def _require_end(strategy: MultiTrialStrategy, space: Space, budget: Budget) -> None:
    """Raise where nothing but the last architecture of a large space would end the search."""
    is_limited = budget.max_trials is not None or budget.max_duration is not None
    if is_limited or getattr(strategy, "has_end", False) or space.decision_space.bound <= _FEW:
        return
    raise SpaceError(
        f"{type(strategy).__name__} ends when it has tried every architecture, and {type(space).__name__} "
        f"has more than {_FEW:,}: pass max_trials=200, or max_duration=3600 (seconds), to Experiment."
    )


def _require_list(name: str, values: object, kind: type, expected: str) -> None:
    if not isinstance(values, list | tuple):
        raise SpaceError(f"{name}={values!r} must be a list of {expected}.")
    for value in values:
        if not isinstance(value, kind):
            raise SpaceError(f"{name} holds {value!r}; expected {expected}.")


class TrialRun:
    """A search that tries architectures one by one, or several at a time, and keeps a ledger of them.

    Args:
        space: Space to search.
        evaluator: Measures a model, or an architecture.
        strategy: Proposes architectures.
        directory: Run folder.
        seed: Seeds every random draw of the search.
        settings: Budget, objectives and the rest.
        given: Whether trials begin with the weights of `space`.
    """

    def __init__(
        self,
        space: Space,
        evaluator: Any,
        strategy: MultiTrialStrategy,
        directory: Path,
        seed: int,
        settings: TrialSettings,
        *,
        given: bool = False,
    ) -> None:
        if not isinstance(evaluator, Evaluator | ArchitectureEvaluator):
            raise SpaceError(
                f"the second argument of Experiment measures a model; {type(evaluator).__name__} has no "
                "evaluate(model, report). Pass one of spacelang.evaluators."
            )
        self.space = space = space.joined(open_decisions(evaluator))
        _require_end(strategy, space, settings)
        self.settings = settings
        self.objectives = tuple(settings.objectives) or (_default_objective(evaluator),)
        self.seed = seed
        self._folder = RunFolder(directory)
        directory = directory.absolute()  # workers may stand elsewhere
        self._weights = directory / "weights" if settings.keep_weights or settings.inherit else None
        self._given = directory / "given.safetensors" if given else None
        self._work = Work(
            type(space),
            dict(space.arguments),
            evaluator,
            self._weights,
            directory / "trials",
            self._given,
            settings.inherit == "parent",
        )
        self._strategy = strategy
        strategy.start(space)  # refuses now, before any work, a space it cannot search
        self._costs = Rebuilt(space, self._cost_functions)
        self._costs({})  # refuses now costs that cannot be computed
        self._report = ReportFile(self._folder, space)
        self._history: History | None = None

    def _cost_functions(self, space: Space) -> dict[str, Any]:
        """Return functions that compute, before training, the costs that objectives and limits name."""
        example_inputs = self.settings.example_inputs
        named = {o.metric for o in self.objectives if o.metric in _COSTS}
        if example_inputs is None:
            named.discard("latency")  # it is the evaluator's to measure then
        wanted: dict[str, Any] = {name: name for name in sorted(named)}
        wanted |= {cost_name(limit): limit.metric for limit in self.settings.limits}
        inputs = () if example_inputs is None else example_inputs
        found: dict[str, Any] = {}
        for name, metric in wanted.items():
            if metric in ("flops", "macs") and example_inputs is None:
                raise SpaceError(
                    f"{name!r} depends on the size of the input; pass Experiment(..., example_inputs=tensor)."
                )
            if metric == "latency":
                found[name] = self._latency(space)
                continue
            halves = metric == "macs"
            cost = expected_cost(space, "flops" if halves else metric, inputs)
            found[name] = (lambda arch, c=cost: c.of(arch) / 2) if halves else cost.of
        return found

    def _latency(self, space: Space) -> Callable[[Architecture], float]:
        """Return the latency of an architecture; the first call measures a table, or reads the one it finds.

        All runs of a search compare by one table.
        """

        @functools.cache
        def cost() -> ExpectedCost:
            path = self._folder.latency_table(space.arguments if space is not self.space else {})
            if path.exists():
                table = LatencyTable.load(path)
            else:
                table = measure_latency(space, self.settings.example_inputs)
                table.save(path)
            return expected_cost(space, table, self.settings.example_inputs)

        return lambda arch: cost().of(arch)

    # -- running ---------------------------------------------------------------------------------------

    def run(self, record: Mapping[str, Any], *, resume: bool) -> None:
        """Search; `record` describes the run."""
        self._folder.create()
        record = {**record, **self._record()}
        if self.settings.inherit:
            record["weights"] += ", then inherited"
        ledger = self._ledger(record)
        try:
            self._begin(record, ledger, resume=resume)
            if self._given is not None and not self._given.exists():
                write_weights(self._given, self.space.state_dict())
            if self._weights is not None:
                remove_leftovers(self._weights)
            warn_of_unused_features(self._strategy, self.space)
            with self._report.running(), TrialProgress(self.settings) as progress:
                search = TrialSearch(
                    self.space,
                    self._strategy.start(self.space),
                    ledger,
                    self.settings.executor or InProcess(),
                    self._work,
                    objectives=self.objectives,
                    budget=self.settings,
                    seed=self.seed,
                    costs=self._costs_of,
                    check=self._broken,
                    on_change=lambda search: self._changed(search, progress),
                    say=progress.say,
                )
                self._history = self._report.history = search.history
                ended = search.run()
                self._folder.write_summary({"ended": ended, "trials": counted(search.history)})
                self._folder.write_architectures([trial.arch for trial in self._results()[:1]])
        finally:
            ledger.close()
        self._say_end(ended, progress)

    def _say_end(self, ended: str, progress: TrialProgress) -> None:
        """Say what happened.

        Raises:
            SpaceError: Nothing was measured.
        """
        history = self.history
        counts, error = counted(history), first_error(history)
        if not history.measured and not history.running:
            raise SpaceError(f"the search ended and measured nothing: {ended}; {counts}.{error}")
        end = stopped if history.running else finished
        progress.say(end(self._folder.root, ended, counts) + error)

    def _ledger(self, record: Mapping[str, Any]) -> Ledger:
        """Return the ledger of this search, begun if it is not there."""
        url = self.settings.ledger or self._folder.trials
        return Ledger(url, self.settings.study, {name: record[name] for name in IDENTITY})

    def _begin(self, record: Mapping[str, Any], ledger: Ledger, *, resume: bool) -> None:
        """Claim the run folder; only a resume continues a search that was begun in another folder."""
        begun = ledger.count()
        if begun and not resume and not self._folder.description.exists():
            raise SpaceError(
                f"the ledger {ledger.name!r} already holds {begun} trials of this search, study "
                f"{ledger.study.name!r}. Continue it with experiment.run(resume=True), or pass "
                "study='another name'."
            )
        self._folder.begin(record, resume=resume, begun=begun > 0)
        self._folder.write_decisions(self.space.decision_space)

    def _record(self) -> dict[str, Any]:
        return {
            "objectives": [str(objective) for objective in self.objectives],
            "ledger": hidden_password(self.settings.ledger) if self.settings.ledger else "",
            "study": self.settings.study,
            "limits": [str(limit) for limit in self.settings.limits],
        }

    def _costs_of(self, proposal: Proposal) -> dict[str, float]:
        """Return the costs of the proposed model of the space, which may be trained as a smaller one."""
        costs = self._costs.concerned(proposal.arch, proposal.overrides)
        return {name: float(cost(proposal.arch)) for name, cost in costs.items()}

    def _broken(self, costs: Mapping[str, float]) -> str:
        """Return which limits an architecture of these costs breaks, or an empty text."""
        return "; ".join(
            f"{limit}, but it has {costs[cost_name(limit)]:,.6g}"
            for limit in self.settings.limits
            if limit.excess(costs[cost_name(limit)]) > 0
        )

    def _changed(self, search: TrialSearch, progress: TrialProgress) -> None:
        progress.update(search)
        self._report.update()
        if self._weights is not None and not self.settings.inherit:
            drop_weights(self._weights, search.history, keep=self.settings.keep_weights)

    # -- results ---------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """Every trial.

        Raises:
            SpaceError: Nothing was run yet.
        """
        if self._history is None:
            raise SpaceError(
                "nothing was searched yet: call experiment.run(), or experiment.run(resume=True) to continue "
                f"the run in {self._folder.root}."
            )
        return self._history

    @property
    def present_history(self) -> History:
        """Every trial that is known here; none before the search."""
        return self._history or History(self.space.search_space, self.objectives)

    def ranked(self, count: int) -> list[Architecture]:
        """Return the best architectures, best first."""
        return [dict(trial.arch) for trial in self._ranked(count)]

    def _ranked(self, count: int | None = None) -> list[Trial]:
        history = self.history
        ranked = self._results()[:count]
        if not ranked:
            if history.measured:
                raise SpaceError(
                    "no architecture of this space was measured: "
                    f"the {history.measured} measured trials are of the space with other arguments; "
                    "see experiment.history."
                )
            raise SpaceError(
                f"no trial was measured: {counted(history)}; the trials of experiment.history say why."
                + first_error(history)
            )
        return ranked

    def _results(self) -> list[Trial]:
        """Return a trial of each architecture whose objectives are numbers, best first."""
        return [trial for trial in self.history.ranked() if self.history.has_scores(trial)]

    def instance(self, arch: Architecture) -> nn.Module:
        """Return a plain model with the weights of its trial, or new weights where they were not kept.

        Weights of a model with other constructor arguments are not this model's.
        """
        model = self._work.build(arch)
        trial = next((t for t in self._ranked() if t.arch == arch), None)
        if trial is not None and not trial.overrides and self._weights is not None:
            path = weights_file(self._weights, trial.number)
            if path.exists():
                from safetensors.torch import load_model

                load_model(model, str(path))
        return model


def drop_weights(folder: Path, history: History, *, keep: int) -> None:
    """Delete the weights of all but the best finished trials that have some.

    Only these are compared, so that the work does not grow with the number of trials.
    """
    paths = {int(path.stem): path for path in folder.glob("*.safetensors") if path.stem.isdigit()}
    ended = [number for number in paths if number < len(history) and history[number].is_finished]
    best = {trial.number for trial in history.ranked(keep, among=ended)}
    for number in ended:
        if number not in best:
            paths[number].unlink(missing_ok=True)


def recorded_trials(folder: RunFolder, url: str | None = None) -> tuple[list[Trial], list[Objective]]:
    """Return the trials of a run folder, and its objectives.

    Args:
        folder: The folder.
        url: URL of the ledger, needed where it has a password.

    Raises:
        SpaceError: The folder holds no multi-trial search, or its ledger needs a password.
    """
    record = folder.record()
    if not isinstance(record.get("objectives"), list):
        raise SpaceError(f"the folder {str(folder.root)!r} holds no multi-trial search.")
    ledger = Ledger(*folder.ledger_of_trials(url))
    try:
        return ledger.trials(), [parse_objective(str(text)) for text in record["objectives"]]
    finally:
        ledger.close()


def mirror(directory: Path, storage: Any, url: str | None = None) -> optuna.Study:
    """Return the trials of a run folder as an Optuna study in `storage`.

    Args:
        directory: Run folder.
        storage: Optuna storage.
        url: URL of the ledger, needed where it has a password: the run folder does not keep passwords.

    Raises:
        SpaceError: The folder holds no multi-trial search, or its ledger needs a password.
    """
    folder = RunFolder(directory)
    trials, objectives = recorded_trials(folder, url)
    return to_optuna(trials, objectives, folder.decisions.by_label, storage, directory.resolve().name)


def _default_objective(evaluator: object) -> Objective:
    """Return the evaluator's own objective, or to maximize the metric "default"."""
    objective: Objective = getattr(evaluator, "default_objective", None) or Maximize("default")
    return objective


def cost_name(limit: CostLimit) -> str:
    """Return the name of the metric that a limit adds to a trial's."""
    return limit.metric if isinstance(limit.metric, str) else "latency"
