"""Loaded experiments: the results of a run folder, opened without the script that made it."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ..errors import SpaceError, quoted, require_integer, require_one_of
from ..files import write_atomic
from ..language import Architecture, DecisionSpace, Space, model_context
from ..language.base import own_decisions
from ..results import Drawing, draw
from ..results.course import Course, read_course
from ..results.report import Contents, experiment_html, page
from ..supernet import Supernet
from ..trials import History, Ledger, Trial, weights_file
from ..trials.export import to_dataframe, to_optuna
from ..trials.ledger import dead_owners
from .report_file import contents_of
from .run_folder import RunFolder
from .run_status import Status, status_of
from .trial_run import recorded_trials

if TYPE_CHECKING:
    import optuna
    import pandas


@dataclass(frozen=True)
class LoadedExperiment:
    """A run, as far as its folder tells; it can be looked at, not trained.

    What it shows is what was there when it was loaded: load it again to see more of a running search.

    Attributes:
        directory: Run folder.
        record: Description of the run: the contents of experiment.yaml.
        status: "finished", "running", "interrupted", "diverged" or "not begun".
        course: Epochs of a one-shot search; empty for a search by trials.
        space: Space of the search, if it was passed.
    """

    directory: Path
    record: Mapping[str, Any] = field(repr=False)
    status: Status
    course: Course = field(repr=False)
    space: Space | None = field(repr=False)
    _history: History | None = field(repr=False)

    @property
    def history(self) -> History:
        """The trials of a search by trials.

        Raises:
            SpaceError: It is a one-shot search.
        """
        if self._history is None:
            raise SpaceError(
                f"the run in {str(self.directory)!r} is a one-shot search, which has no trials; see .course, "
                ".best and .ranked(5)."
            )
        return self._history

    @property
    def is_one_shot(self) -> bool:
        """Whether one supernet was trained; otherwise architectures were tried one by one."""
        return self._history is None

    @property
    def has_result(self) -> bool:
        """Whether there is an architecture to export."""
        return bool(self._derived if self._history is None else self._results)

    @property
    def best(self) -> Architecture:
        """The best architecture so far."""
        return self.ranked(1)[0]

    def ranked(self, count: int | None = None) -> list[Architecture]:
        """Return the best architectures so far, best first, without duplicates.

        Of a one-shot search the folder has the five best at its end, and one before.

        Args:
            count: How many to return; fewer where there are fewer. None for all.

        Raises:
            SpaceError: There is none yet.
        """
        require_integer("count", count, least=1, optional=True)
        found = self._derived if self._history is None else [dict(trial.arch) for trial in self._results]
        if not found:
            raise SpaceError(f"the run in {str(self.directory)!r}, {self.status}, has no result yet.")
        return found[:count]

    @property
    def _results(self) -> list[Trial]:
        return [trial for trial in self.history.ranked() if self.history.has_scores(trial)]

    @cached_property
    def _derived(self) -> list[Architecture]:
        return [dict(arch) for arch in self.course.best or self._folder.exported()]

    @property
    def pareto(self) -> list[Trial]:
        """Trials of a search by trials that no other beats in every objective."""
        return self.history.pareto()

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with a row for each trial, or for each epoch of a one-shot search."""
        if self._history is not None:
            return to_dataframe(self._history)
        import pandas  # late: an optional dependency

        rows = [
            {
                "stage": epoch.stage,
                "epoch": epoch.number,
                "seconds": epoch.seconds,
                **epoch.metrics,
                **{name: values[-1] for name, values in epoch.records.items() if values},
            }
            for epoch in self.course.epochs
        ]
        return pandas.DataFrame(rows)

    def to_optuna(self) -> optuna.Study:
        """Return the trials of a search by trials as an Optuna study in memory."""
        return to_optuna(self.history, self.history.objectives, self.history.space.by_label)

    def export_top_models(self, top_k: int = 1, formatter: Literal["dict", "instance"] = "dict") -> list[Any]:
        """Return the best architectures, best first.

        Args:
            top_k: How many to return; fewer where there are fewer.
            formatter: "dict" for architecture dicts, "instance" for plain modules, which need the space. They
                have the weights of their trials where these were kept, or those of the supernet where it can
                be built from the space alone; new ones elsewhere, with a warning after a one-shot search.

        Raises:
            SpaceError: There is no result yet, or no space for instances.
        """
        require_one_of("formatter", formatter, ("dict", "instance"))
        archs = self.ranked(top_k)
        if formatter == "dict":
            return archs
        if self.space is None:
            raise SpaceError(
                "instances need the space: Experiment.load(directory, space=Net()). Or export dicts."
            )
        if self._history is None:
            return self._of_supernet(archs, self.space)
        return [self._of_trial(trial, self.space) for trial in self._results[:top_k]]

    def draw(self, arch: Architecture | None = None) -> Drawing:
        """Return a picture of an architecture, by default the best; the space says what is a cell."""
        return draw(self.best if arch is None else arch, space=self.space)

    def report(self, *, baseline: LoadedExperiment | None = None) -> Path:
        """Write report.html again, and return its path.

        Args:
            baseline: Random search to compare with, of the same space and objective.
        """
        path = self._folder.report
        write_atomic(path, page(self._contents(baseline)).encode())
        return path

    def _contents(self, baseline: LoadedExperiment | None = None) -> Contents:
        other = None if baseline is None else baseline.history
        return contents_of(self._folder, self.space, self._history, other, status=self.status)

    def _repr_html_(self) -> str:
        return experiment_html(self._contents())

    def _repr_svg_(self) -> str | None:
        return self.draw().svg if self.has_result else None

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.directory)

    # -- models ----------------------------------------------------------------------------------------

    def _of_trial(self, trial: Trial, space: Space) -> nn.Module:
        model = _built(space, trial.arch)
        path = weights_file(self.directory / "weights", trial.number)
        if path.exists() and not trial.overrides:
            from safetensors.torch import load_model  # late: a file format that few need here

            load_model(model, str(path))
        return model

    def _of_supernet(self, archs: Sequence[Architecture], space: Space) -> list[nn.Module]:
        try:
            supernet = _trained_supernet(self._folder, space)
        except (SpaceError, FileNotFoundError) as error:
            warnings.warn(
                f"the models have new weights: the supernet cannot be built from the space alone ({error}). "
                "Its weights are there after experiment.run(resume=True) in the script of the search.",
                stacklevel=3,
            )
            return [_built(space, arch) for arch in archs]
        return [supernet.freeze(arch) for arch in archs]


def load_experiment(
    directory: str | Path, *, space: Space | None = None, ledger: str | None = None
) -> LoadedExperiment:
    """Open a run folder; see `Experiment.load`."""
    folder = RunFolder(Path(directory).expanduser())
    record = folder.record()
    if not record:
        raise SpaceError(
            f"the folder {str(folder.root)!r} holds no run: it has no experiment.yaml."
            + ("" if folder.root.is_dir() else " There is no such folder.")
        )
    if not all(isinstance(record.get(part), dict) for part in ("space", "strategy")):
        raise SpaceError(
            f"{str(folder.description)!r} does not describe a search: 'space' and 'strategy' must be "
            "mappings, as Experiment writes them. Restore the file, or name the folder of another run."
        )
    space = None if space is None else _checked(space, record, folder)
    course = read_course(folder.epochs)
    history, claimed = None, False
    if "objectives" in record:
        trials, objectives = recorded_trials(folder, ledger)
        decisions: DecisionSpace = folder.decisions if space is None else space.search_space
        rebuilt = None if space is None else lambda overrides: space.rebuild(**overrides).search_space
        history = History(decisions, objectives, trials, rebuilt=rebuilt)
        claimed = bool(history.running) and _somebody_works(folder, ledger)
    status = status_of(folder, course, history, claimed=claimed)
    return LoadedExperiment(folder.root, record, status, course, space, history)


def _somebody_works(folder: RunFolder, url: str | None) -> bool:
    """Return whether a trial is claimed by a worker that may be alive."""
    ledger = Ledger(*folder.ledger_of_trials(url))
    try:
        claims = ledger.claims()
    finally:
        ledger.close()
    dead = set(dead_owners(claim.owner for claim in claims))
    return any(claim.owner not in dead and claim.until > time.time() for claim in claims)


def _checked(space: Space, record: Mapping[str, Any], folder: RunFolder) -> Space:
    """Return the space, joined with the hyper-parameters that the run also searched.

    Raises:
        SpaceError: It is not the space of the run.
    """
    if not isinstance(space, Space):
        raise SpaceError(f"space={space!r:.80} must be a ModelSpace, such as Net().")
    recorded = folder.decisions.by_label
    further = [d for label, d in recorded.items() if label not in space.decision_space.by_label]
    joined = space.joined(further)
    if decisions_hash(joined) == (record.get("space") or {}).get("decisions"):
        return joined
    own, described = space.decision_space.by_label, record.get("space") or {}
    differing = [label for label in {**own, **recorded} if own.get(label) != recorded.get(label)]
    raise SpaceError(
        f"{type(space).__name__} is not the space of the run in {str(folder.root)!r}, which was "
        f"{described.get('class')!r} with the arguments {described.get('arguments')}; they differ in the "
        f"decisions {quoted(differing, 6)}."
    )


def decisions_hash(space: Space) -> str:
    """Return a text that tells the decisions of a space from those of another."""
    return hashlib.sha256("".join(map(repr, space.decisions)).encode()).hexdigest()


def _built(space: Space, arch: Architecture) -> nn.Module:
    """Return a plain model with new weights."""
    known = own_decisions(space).by_label
    own = {label: value for label, value in arch.items() if label in known}
    with model_context(own):
        return space.rebuild()


def _trained_supernet(folder: RunFolder, space: Space) -> Supernet:
    """Return the supernet of a one-stage search with its trained weights.

    Raises:
        SpaceError: Its weights are not those of `Supernet(space)`.
    """
    from .checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder.checkpoint())
    supernet = Supernet(space.rebuild())
    alive: Mapping[str, Tensor] = next(
        (s["alive"] for s in checkpoint["callbacks"].values() if "alive" in s), {}
    )
    supernet.prune({label: table.tolist() for label, table in alive.items()})
    wanted, saved = supernet.state_dict(), checkpoint["state_dict"]
    first = next(iter(wanted), "")
    prefix = next((key.removesuffix(first) for key in saved if key.endswith(first)), "")
    weights = {name: saved.get(prefix + name) for name in wanted}
    lacking = [n for n, w in weights.items() if w is None or w.shape != wanted[n].shape]
    if lacking:
        raise SpaceError(f"the checkpoint lacks its weights {quoted(lacking, 3)}")
    supernet.load_state_dict(weights)
    return supernet
