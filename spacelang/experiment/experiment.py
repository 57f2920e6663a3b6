"""Experiment: a space, an evaluator and a strategy become a run folder and architectures."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch

from ..arguments import ArgumentError, refuse_unknown
from ..errors import SpaceError, quoted, require_integer, require_one_of
from ..files import fresh_run_folder
from ..language import Architecture, Space, Value, architecture_of, is_frozen, open_decisions
from ..randomness import global_generators_kept
from ..results import draw
from ..results.report import Contents, experiment_html
from ..supernet import Execution, ExecutionName, Supernet
from ..trials import History, MultiTrialStrategy, Objective, Trial
from ..trials.export import to_dataframe, to_optuna
from .loaded import LoadedExperiment, decisions_hash, load_experiment
from .one_shot_run import OneShotRun
from .protocols import OneShotStrategy, Search, SearchEvaluator, SearchStrategy
from .report_file import contents_of
from .run_folder import RunFolder, versions
from .stopping import clean_stop
from .supernet_front import (
    Front,
    FrontEvolution,
    check_front,
    example_of,
    inherited_evaluator,
    write_front,
)
from .trial_run import TrialOptions, TrialRun, TrialSettings

if TYPE_CHECKING:
    import optuna
    import pandas


class Experiment:
    """One search, from its seed to its results.

    A one-shot strategy trains one supernet; a multi-trial strategy trains architectures one by one, or
    several at a time. Every random draw comes from `seed`: first weights (the space is rebuilt for them),
    logits, proposals, the order of batches, dropout. The space, the evaluator, the strategy and the caller's
    global generators are left as they were. `run(resume=True)` continues a killed run.

    Args:
        space: Space to search.
        evaluator: Trains the supernet, or measures a model: see `spacelang.evaluators`. For a multi-trial
            search its settings may be value choices (`spacelang.language.Tunable`); they are searched with
            the space, and architectures also have their labels.
        strategy: How to search, such as `DARTS()` or `RegularizedEvolution()`.
        directory: Run folder; nothing is written elsewhere. Default: a new one below the cache folder,
            `$SPACELANG_CACHE` or `~/.cache/spacelang`; `experiment.directory` names it.
        seed: Seeds every random draw of the search; at least 0.
        weights: "given" to begin with the weights of `space`, in the supernet and in trials; "fresh" to
            construct the space again, which draws new ones (a constructor that loads pretrained weights loads
            them again). By default "given" where they were loaded or changed after the construction, with a
            warning, and "fresh" elsewhere.
        execution: How the supernet of a one-shot search computes: "native" with C++ that is compiled on its
            first use, "torch" with PyTorch alone, "plain" every operation by itself. "auto" is native on a
            CPU where the C++ can be compiled. See `spacelang.supernet.Execution`.
        checkpoint: Whether the supernet of a one-shot search keeps the inputs of cells alone, and computes
            cells again in the backward pass: less memory for more time, and the same results bit for bit.
        trials: Settings of a search by trials, as one object.
        options: The same settings one by one, such as `max_trials=200` or `objectives=[Minimize("params")]`:
            every field of `TrialSettings` by its name. They win over those of `trials`.

    Raises:
        SpaceError: An argument is of the wrong kind, the strategy cannot use an option, or it cannot search
            this space.
    """

    def __init__(
        self,
        space: Space,
        evaluator: SearchEvaluator,
        strategy: SearchStrategy,
        *,
        directory: str | Path | None = None,
        seed: int = 0,
        weights: Literal["given", "fresh"] | None = None,
        execution: ExecutionName = "auto",
        checkpoint: bool = False,
        trials: TrialSettings | None = None,
        **options: Unpack[TrialOptions],
    ) -> None:
        _check_arguments(space, evaluator, strategy, seed)
        self.evaluator = evaluator
        self.strategy = strategy
        self.seed = seed
        self.directory = Path(directory).expanduser() if directory is not None else fresh_run_folder()
        _check_options(strategy, trials, options)
        self._given = _keeps_weights(space, weights)
        if self._given:
            space = space.keeping_weights()
        _check_execution(strategy, execution, checkpoint)
        self._run: OneShotRun | TrialRun
        if isinstance(strategy, OneShotStrategy):
            self._run = OneShotRun(space, evaluator, strategy, self.directory, seed, execution, checkpoint)
        else:
            settings = dataclasses.replace(trials or TrialSettings(), **options)
            self._run = TrialRun(
                space, evaluator, strategy, self.directory, seed, settings, given=self._given
            )
        self.space = self._run.space  # joined with the decisions of the evaluator, if it has any

    def run(self, resume: bool = False) -> None:
        """Search.

        On Ctrl-C and SIGTERM it stops cleanly: trials are handed back and their processes ended. The process
        then ends as on SIGTERM otherwise.

        Args:
            resume: Whether to continue the run in `directory`. A finished run is loaded; if nothing was run
                there, the run begins.

        Raises:
            SpaceError: The folder holds a run and `resume` is false, or it holds another run.
        """
        with clean_stop(), global_generators_kept():
            self._run.run(self._record(), resume=resume)

    @staticmethod
    def load(
        directory: str | Path, *, space: Space | None = None, ledger: str | None = None
    ) -> LoadedExperiment:
        """Open a finished, interrupted or running search without its script; nothing is trained.

        Args:
            directory: Run folder.
            space: Space of the search, for models and for pictures of cells that are not made by `Cell`.
            ledger: URL of the ledger, where it has a password; the run folder does not keep passwords.

        Raises:
            SpaceError: The folder holds no run, or `space` is not its space.
        """
        return load_experiment(directory, space=space, ledger=ledger)

    # -- results ---------------------------------------------------------------------------------------

    def export_top_models(self, top_k: int = 1, formatter: Literal["dict", "instance"] = "dict") -> list[Any]:
        """Return the best architectures, best first, without duplicates.

        Args:
            top_k: How many to return; fewer where there are fewer.
            formatter: "dict" for architecture dicts, "instance" for plain modules. After a one-shot search
                they begin with the supernet's weights, which were trained as parts of a mixture: train an
                instance before you judge it. After a multi-trial search they have the weights of their
                trials where `keep_weights` kept them, and new weights elsewhere.

        Raises:
            SpaceError: Nothing was run yet, or the formatter is unknown.
        """
        require_one_of("formatter", formatter, ("dict", "instance"))
        archs = self._run.ranked(top_k)
        return archs if formatter == "dict" else [self._run.instance(arch) for arch in archs]

    @property
    def best(self) -> Architecture:
        """The best architecture."""
        best: Architecture = self.export_top_models(1)[0]
        return best

    def derive(self, by: Any = "probabilities", *, count: int = 1, **settings: Any) -> list[Architecture]:
        """Return the best architectures of the finished one-shot search, derived in another way.

        Nothing is trained, and the run folder stays as it is. The experiment needs the space, the evaluator
        and the strategy of the search; `run` need not have been called, where its folder holds a finished
        one. After any differentiable search:

            experiment.derive("strength")  # by the change of the loss without each operation
            experiment.derive(sample=20, temperature=1.0)  # measured: the most probable, and 20 draws

        Args:
            by: Derivation: "probabilities", "strength", or an object such as
                `OperationStrength(signed=True)` of spacelang.strategies.
            count: How many to return; fewer where there are fewer.
            settings: Settings of the derivation; with "probabilities" those of a `Judge`.

        Raises:
            SpaceError: There is no finished search, or it cannot be derived from so.
        """
        run = self._one_shot
        require_integer("count", count, least=1)
        deriving = getattr(self.strategy, "deriving", None)
        if deriving is None:
            raise SpaceError(
                f"{type(self.strategy).__name__} derives in one way alone, by what it has measured; see "
                "experiment.export_top_models(5)."
            )
        with clean_stop(), global_generators_kept():
            return run.derived(deriving(by, **settings), count)

    @property
    def supernet(self) -> Supernet:
        """The trained supernet of a one-shot search."""
        return self._one_shot.result[0]

    @property
    def search(self) -> Search:
        """The one-shot search that was run: its probabilities, history and schedule."""
        return self._one_shot.result[1]

    def pareto_from_supernet(
        self,
        objectives: Sequence[Objective],
        *,
        samples: int = 200,
        calibration_batches: int = 20,
        example_inputs: Any = None,
    ) -> Front:
        """Search the trade-offs that the trained supernet of a one-shot search offers, without training.

        Architectures are measured with the supernet's weights, as `Inherited` does, and the best are mixed
        and mutated. The search is a run of its own in the folder `pareto` of the run folder; called again
        with more samples, it continues. A candidate that the search has pruned cannot be measured.

        Args:
            objectives: Two at least, such as `[Maximize("val_acc"), Minimize("flops")]`.
            samples: Number of architectures to measure, all calls together.
            calibration_batches: Training batches for batch-norm statistics; see `Inherited`.
            example_inputs: Example for costs that depend on the input; by default a training sample.

        Returns:
            The front: a table, a picture, and a bundle of each point.

        Raises:
            SpaceError: The supernet was not trained yet, or an objective cannot be measured.
        """
        check_front(objectives, samples)
        supernet = self.supernet
        if example_inputs is None:
            example_inputs = example_of(self.evaluator, objectives)
        search = Experiment(
            self.space,
            inherited_evaluator(self.evaluator, supernet, calibration_batches),
            FrontEvolution(initial=max(2, min(20, samples // 4))),
            directory=self.directory / "pareto",
            seed=self.seed,
            weights="fresh",
            objectives=list(objectives),
            max_trials=samples,
            example_inputs=example_inputs,
            keep_weights=0,
        )
        search.run(resume=True)
        return write_front(search.history, self.space, supernet, search.directory)

    @property
    def history(self) -> History:
        """The trials of a multi-trial search."""
        return self._multi_trial.history

    @property
    def pareto(self) -> list[Trial]:
        """Trials of a multi-trial search that no other beats in every objective."""
        return self.history.pareto()

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the trials of a multi-trial search as a table with a row for each trial."""
        return to_dataframe(self.history)

    def to_optuna(self) -> optuna.Study:
        """Return the trials of a multi-trial search as an Optuna study in memory."""
        return to_optuna(self.history, self.history.objectives, self.space.decision_space.by_label)

    def _repr_html_(self) -> str:
        return experiment_html(self._contents())

    def _repr_svg_(self) -> str | None:
        best = self._contents().best
        return draw(best[0], space=self.space).svg if best else None

    def _contents(self) -> Contents:
        """Return what a report of this experiment shows."""
        history = self._run.present_history if isinstance(self._run, TrialRun) else None
        contents = contents_of(RunFolder(self.directory), self.space, history)
        return contents if contents.record else dataclasses.replace(contents, record=self._record())

    @property
    def _one_shot(self) -> OneShotRun:
        if isinstance(self._run, OneShotRun):
            return self._run
        raise SpaceError(f"{type(self.strategy).__name__} trains no supernet; see experiment.history.")

    @property
    def _multi_trial(self) -> TrialRun:
        if isinstance(self._run, TrialRun):
            return self._run
        raise SpaceError(f"{type(self.strategy).__name__} has no trials; see experiment.search.")

    def _record(self) -> dict[str, Any]:
        """Return the contents of experiment.yaml."""
        return {
            "space": _described_space(self.space),
            "strategy": _described(self.strategy),
            "evaluator": _described(self.evaluator),
            "seed": self.seed,
            "weights": "given" if self._given else "fresh",
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def _check_arguments(space: object, evaluator: object, strategy: object, seed: object) -> None:
    if not isinstance(space, Space) or not _is_open(space, evaluator):
        what = f"{type(space).__name__} with nothing to choose" if isinstance(space, Space) else repr(space)
        raise SpaceError(f"the first argument of Experiment is the space to search; got {what}.")
    if isinstance(strategy, type):
        raise SpaceError(
            f"the strategy is the class {strategy.__name__}; pass an object: {strategy.__name__}()."
        )
    if not isinstance(strategy, OneShotStrategy | MultiTrialStrategy):
        raise SpaceError(
            f"the third argument of Experiment is a strategy, such as spacelang.strategies.DARTS(); "
            f"got {strategy!r}."
        )
    require_integer("seed", seed, least=0)


def _keeps_weights(space: Space, weights: str | None) -> bool:
    """Return whether a search begins with the weights of the space; say so where nobody asked."""
    if weights is not None:
        require_one_of("weights", weights, ("given", "fresh"))
    elif space.was_changed:
        warnings.warn(
            f"weights of this {type(space).__name__} were loaded or changed after its construction, so the "
            'search begins with them. Pass Experiment(..., weights="given") to say so, or "fresh" to draw '
            "new ones.",
            stacklevel=3,
        )
        return True
    return weights == "given"


def _check_options(strategy: object, trials: object, options: Mapping[str, Any]) -> None:
    """Raise for an option that does not exist, or that the strategy cannot use."""
    settings = getattr(strategy, "__dataclass_fields__", {})
    for name in options:
        if name in settings and name not in TrialSettings.__dataclass_fields__:
            raise ArgumentError(
                f"Experiment takes no argument {name!r}; it is a setting of the strategy: "
                f"{type(strategy).__name__}({name}=...)."
            )
    refuse_unknown(Experiment, options, passed_to=TrialSettings)
    if trials is not None and not isinstance(trials, TrialSettings):
        raise SpaceError(f"trials={trials!r}; expected such as TrialSettings(max_trials=200).")
    given = [name for name, value in {"trials": trials, **options}.items() if value is not None]
    if given and isinstance(strategy, OneShotStrategy):
        raise SpaceError(
            f"{type(strategy).__name__} is a one-shot strategy: it trains one supernet and has no trials, so "
            f"it cannot use {quoted(given)}. Leave that out (the evaluator's max_epochs says when to end), "
            "or search by trials, with a strategy such as RegularizedEvolution()."
        )


def _check_execution(strategy: object, name: ExecutionName, checkpoint: bool) -> None:
    require_one_of("checkpoint", checkpoint, (True, False))
    given = f"execution={name!r}" if name != "auto" else "checkpoint=True" if checkpoint else ""
    if isinstance(strategy, OneShotStrategy):
        Execution(name)
    elif given:
        raise SpaceError(
            f"{given} says how a supernet computes, and {type(strategy).__name__} trains none; leave it out."
        )


def _is_open(space: Space, evaluator: object) -> bool:
    """Return whether there is something to choose, in the space or in the evaluator of a fixed network."""
    return not is_frozen(space) or (architecture_of(space) is None and bool(open_decisions(evaluator)))


def _described_space(space: Space) -> dict[str, Any]:
    return {
        "class": f"{type(space).__module__}.{type(space).__qualname__}",
        "arguments": {name: _plain(value) for name, value in space.arguments.items()},
        "decisions": decisions_hash(space),
    }


def _described(part: Any) -> dict[str, Any]:
    """Return the class and settings of a strategy or evaluator, as far as they are plain values."""
    description: dict[str, Any] = {"class": f"{type(part).__module__}.{type(part).__qualname__}"}
    if dataclasses.is_dataclass(part):
        description |= {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
    if hasattr(part, "max_epochs"):
        description["max_epochs"] = _plain(part.max_epochs)
    if open_decisions(part):
        description["decisions"] = {d.label: _plain(d.candidates) for d in open_decisions(part)}
    return description


def _plain(value: object) -> Any:
    """Return what YAML can hold of a value: itself, or its type's name."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return _described(value)
    return f"<{type(value).__qualname__}>"
