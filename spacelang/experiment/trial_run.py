"""A multi-trial search from its seed to its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..costs import CostLimit, expected_cost
from ..errors import SpaceError
from ..files import load_yaml
from ..language import Architecture, Space, open_decisions
from ..trials import (
    ArchitectureEvaluator,
    Executor,
    History,
    InProcess,
    Ledger,
    Limits,
    Maximize,
    MultiTrialStrategy,
    Objective,
    Proposal,
    Rebuilt,
    Trial,
    TrialSearch,
    Work,
    weights_file,
)
from ..trials.export import candidates_seen, to_optuna
from ..trials.ledger import hidden_password
from ..trials.objectives import parse_objective
from .protocols import Evaluator
from .run_folder import RunFolder, finished
from .trial_progress import TrialProgress

if TYPE_CHECKING:
    import optuna


_COSTS = ("params", "flops", "macs")


class TrialRun:
    """Tries architectures one by one, or several at a time, and keeps a ledger of them.

    Args:
        space, evaluator, strategy, directory, seed: of the `Experiment`.
        objectives: what makes a trial good; by default what the evaluator says, else its "default" metric.
        constraints: on costs; an architecture that breaks one is recorded and never trained.
        limits: when to end.
        executor: where trials run.
        ledger: URL of a database; None for `trials.db` in the run folder.
        example_inputs: for costs that depend on it, such as FLOPs.
        keep_weights: of how many of the best trials the trained weights are kept.
    """

    def __init__(
        self,
        space: Space,
        evaluator: Any,
        strategy: MultiTrialStrategy,
        directory: Path,
        seed: int,
        *,
        objectives: Sequence[Objective] = (),
        constraints: Sequence[CostLimit] = (),
        limits: Limits,
        executor: Executor | None = None,
        ledger: str | None = None,
        example_inputs: Any = None,
        keep_weights: int = 1,
    ) -> None:
        if not isinstance(evaluator, Evaluator | ArchitectureEvaluator):
            raise SpaceError(
                f"the second argument of Experiment measures a model; {type(evaluator).__name__} has no "
                "evaluate(model, report). Give one of spacelang.evaluators."
            )
        if executor is not None and not isinstance(executor, Executor):
            raise SpaceError(f"executor={executor!r}; expected one such as ProcessPool() or RayExecutor().")
        self.space = space = space.joined(open_decisions(evaluator))
        self.objectives = tuple(objectives) or (_default_objective(evaluator),)
        self._check_objectives()
        self.constraints = tuple(constraints)
        self.limits = limits
        self.seed = seed
        self._folder = RunFolder(directory)
        self._executor = executor or InProcess()
        self._url = ledger
        self._keep = keep_weights
        directory = directory.absolute()  # workers may stand elsewhere
        self._weights = directory / "weights" if keep_weights else None
        self._work = Work(type(space), dict(space.arguments), evaluator, self._weights, directory / "trials")
        self._strategy = strategy
        strategy.start(space)  # what cannot be searched is refused before any work
        self._costs = Rebuilt(space, lambda rebuilt: self._cost_functions(rebuilt, example_inputs))
        self._costs({})  # what cannot be computed is refused before any work, too
        self._history: History | None = None

    def _check_objectives(self) -> None:
        for objective in self.objectives:
            if not isinstance(objective, Objective):
                raise SpaceError(
                    f"objectives holds {objective!r}; expected Maximize(metric) or Minimize(metric)."
                )

    def _cost_functions(self, space: Space, example_inputs: Any) -> dict[str, Any]:
        """How to know, before training, the costs that objectives and constraints name."""
        named = {o.metric for o in self.objectives if o.metric in _COSTS}
        wanted: dict[str, Any] = {name: name for name in sorted(named)}
        wanted |= {cost_name(limit): limit.metric for limit in self.constraints}
        inputs = () if example_inputs is None else example_inputs
        found: dict[str, Any] = {}
        for name, metric in wanted.items():
            if metric in ("flops", "macs") and example_inputs is None:
                raise SpaceError(
                    f"{name!r} depends on the size of the input; give Experiment(..., example_inputs=tensor)."
                )
            halves = metric == "macs"
            cost = expected_cost(space, "flops" if halves else metric, inputs)
            found[name] = (lambda arch, c=cost: c.of(arch) / 2) if halves else cost.of
        return found

    # -- running ---------------------------------------------------------------------------------------

    def run(self, record: Mapping[str, Any], *, resume: bool) -> None:
        """Search; `record` describes the run."""
        self._folder.root.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self._url or self._folder.root / "trials.db")
        try:
            self._folder.begin({**record, **self._record()}, resume=resume, begun=bool(ledger.trials()))
            with TrialProgress(self.limits) as progress:
                search = TrialSearch(
                    self.space,
                    self._strategy.start(self.space),
                    ledger,
                    self._executor,
                    self._work,
                    objectives=self.objectives,
                    limits=self.limits,
                    seed=self.seed,
                    costs=self._costs_of,
                    check=self._broken,
                    on_change=lambda search: self._changed(search, progress),
                )
                self._history = search.history
                ended = search.run()
        finally:
            ledger.close()
        self._folder.write_summary({"ended": ended})
        self._folder.write_architectures([trial.arch for trial in search.history.best(1)])
        progress.say(finished(self._folder.root, ended))

    def _record(self) -> dict[str, Any]:
        return {
            "objectives": [str(objective) for objective in self.objectives],
            "ledger": "" if self._url is None else hidden_password(self._url),
            "constraints": [str(limit) for limit in self.constraints],
        }

    def _costs_of(self, proposal: Proposal) -> dict[str, float]:
        """Costs of the model that is searched for, which may be trained as a smaller one."""
        costs = self._costs.concerned(proposal.arch, proposal.overrides)
        return {name: float(cost(proposal.arch)) for name, cost in costs.items()}

    def _broken(self, costs: Mapping[str, float]) -> str:
        """The constraints an architecture of these costs breaks."""
        return "; ".join(
            f"{limit}, but it has {costs[cost_name(limit)]:,.6g}"
            for limit in self.constraints
            if limit.excess(costs[cost_name(limit)]) > 0
        )

    def _changed(self, search: TrialSearch, progress: TrialProgress) -> None:
        progress.update(search)
        if self._weights is not None and self._weights.exists():
            kept = {trial.number for trial in search.history.best(self._keep)}
            kept |= {trial.number for trial in search.history.running}
            for path in self._weights.glob("*.safetensors"):
                if int(path.stem) not in kept:
                    path.unlink()

    # -- results ---------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """Every trial.

        Raises:
            SpaceError: nothing was run yet.
        """
        if self._history is None:
            raise SpaceError(
                "nothing was searched yet: call experiment.run(), or experiment.run(resume=True) to go on "
                f"with the run in {self._folder.root}."
            )
        return self._history

    def top(self, count: int) -> list[Architecture]:
        """The best architectures, best first."""
        return [dict(trial.arch) for trial in self._best(count)]

    def _best(self, count: int) -> list[Trial]:
        best = self.history.best(count)
        if not best:
            failed, infeasible = self.history.count("failed"), self.history.count("infeasible")
            if self.history.done:
                raise SpaceError(
                    f"no architecture of this space was measured: the {len(self.history.done)} trials that "
                    "were are of the space with other arguments; see experiment.history."
                )
            raise SpaceError(
                f"no trial was measured: {failed} failed and {infeasible} broke a constraint; the trials of "
                "experiment.history tell why."
            )
        return best

    def instance(self, arch: Architecture) -> nn.Module:
        """A plain model with the weights its trial trained, or new ones where they were not kept.

        Weights of a model with other constructor arguments are not this model's.
        """
        model = self._work.build(arch)
        trial = next((t for t in self._best(len(self.history)) if t.arch == arch), None)
        if trial is not None and not trial.overrides and self._weights is not None:
            path = weights_file(self._weights, trial.number)
            if path.exists():
                from safetensors.torch import load_model

                load_model(model, str(path))
        return model


def mirror(directory: Path, storage: Any, url: str | None = None) -> optuna.Study:
    """The trials of a run folder as an Optuna study in `storage`.

    Args:
        directory: the run folder.
        storage: of Optuna.
        url: of the ledger, where the run folder does not have it whole: passwords are not written there.

    Raises:
        SpaceError: the folder holds no multi-trial search; its ledger needs a password.
    """
    folder = RunFolder(directory)
    record = load_yaml(folder.description) if folder.description.exists() else {}
    if not isinstance(record, dict) or "objectives" not in record:
        raise SpaceError(f"the folder {str(directory)!r} holds no multi-trial search.")
    url = url or record.get("ledger") or str(directory / "trials.db")
    if ":***@" in url:
        raise SpaceError(
            f"the trials of {str(directory)!r} are in {url}, and the password is not kept; give the whole "
            f"URL: spacelang dashboard {directory} --ledger URL."
        )
    ledger = Ledger(url)
    try:
        trials = ledger.trials()
    finally:
        ledger.close()
    objectives = [parse_objective(text) for text in record["objectives"]]
    return to_optuna(trials, objectives, candidates_seen(trials), storage, directory.resolve().name)


def _default_objective(evaluator: object) -> Objective:
    """What an evaluator says it is judged by, if it does."""
    objective: Objective = getattr(evaluator, "default_objective", None) or Maximize("default")
    return objective


def cost_name(limit: CostLimit) -> str:
    """Name of the metric a constraint adds to a trial's."""
    return limit.metric if isinstance(limit.metric, str) else "latency"
