"""Run folder: the files of an experiment, by which it recognises its own run."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import SpaceError
from ..files import differences, dump_yaml, load_yaml, write_atomic
from ..language import Architecture, DecisionSpace
from ..trials.ledger import new_owner, process_is_dead
from ..version import __version__
from .recorded_decisions import RecordedDecisions, dumped_decisions, read_decisions

# What must agree between a run and its resumption.
IDENTITY = ("space", "strategy", "evaluator", "seed", "objectives", "limits", "weights")
# What may differ, with a warning: a resumed search is then no longer the same bit for bit.
BITS = ("execution", "threads", "versions")


@dataclass(frozen=True)
class RunFolder:
    """Paths below one folder.

        experiment.yaml      what was run
        decisions.json       the decisions of the space
        report.html          all that is known of the run, for people
        running.yaml         process that runs it, as long as it does
        checkpoints/         of a one-shot search: last.ckpt; in stages stage-1.ckpt, stage-2.ckpt, ...
        epochs.jsonl         what a one-shot search has come to after each epoch
        logs/                of the Trainer's loggers
        trials.db            of a multi-trial search: the ledger
        latency.yaml         times of operations, where an objective is the latency
        given.safetensors    weights with which trials begin, where they were given with the space
        weights/             trained weights of the best trials
        trials/              logs of each trial that trains with Lightning
        search.yaml          what happened in the search
        diverged.yaml        why a one-shot search stopped, until it is resumed
        architectures/       1.yaml is the best

    Args:
        root: The folder; made when first written to.
        stages: Number of the strategy's stages.
    """

    root: Path
    stages: int = 1

    @property
    def description(self) -> Path:
        """experiment.yaml"""
        return self.root / "experiment.yaml"

    def checkpoint(self, stage: int = 0) -> Path:
        """Return the path of the last checkpoint of a stage."""
        name = "last" if self.stages == 1 else f"stage-{stage + 1}"
        return self.root / "checkpoints" / f"{name}.ckpt"

    def latency_table(self, overrides: Mapping[str, Any]) -> Path:
        """Return the path of the latency table of the space, or of the space with other arguments."""
        name = hashlib.sha256(repr(sorted(overrides.items())).encode()).hexdigest()[:8] if overrides else ""
        return self.root / f"latency{name and '-'}{name}.yaml"

    @property
    def trials(self) -> Path:
        """The ledger of a multi-trial search, unless it is elsewhere."""
        return self.root / "trials.db"

    @property
    def architectures(self) -> Path:
        """Folder of exported architectures."""
        return self.root / "architectures"

    @property
    def epochs(self) -> Path:
        """The course of a one-shot search."""
        return self.root / "epochs.jsonl"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"

    @property
    def summary(self) -> dict[str, Any]:
        """Contents of search.yaml, or an empty dict where there is none."""
        return _read_mapping(self._summary)

    @property
    def _summary(self) -> Path:
        return self.root / "search.yaml"

    @property
    def divergence(self) -> str:
        """Why a one-shot search diverged, or an empty text."""
        return str(_read_mapping(self._diverged).get("diverged", ""))

    @property
    def is_running(self) -> bool:
        """Whether a process that may be alive has said that it runs the search."""
        owner = _read_mapping(self._running).get("owner")
        return owner is not None and not process_is_dead(str(owner))

    @property
    def _running(self) -> Path:
        return self.root / "running.yaml"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say inside that this process runs the search."""
        owner = new_owner()
        self._write(self._running, {"owner": owner})
        try:
            yield
        finally:
            if _read_mapping(self._running).get("owner") == owner:
                self._running.unlink(missing_ok=True)

    def create(self) -> None:
        """Make the folder unless it is there.

        Raises:
            SpaceError: There is something else in its place, or it may not be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpaceError(
                f"the run folder {str(self.root)!r} cannot be made: {error.strerror}. Pass another directory."
            ) from error

    def record(self) -> dict[str, Any]:
        """Return the contents of experiment.yaml, or an empty dict where there is none."""
        return _read_mapping(self.description)

    def ledger_of_trials(self, url: str | None = None) -> tuple[str | Path, str | None]:
        """Return where the trials of this run are, and the name of their study if it is known.

        Args:
            url: URL of the database, needed where it has a password, which is not kept here.

        Raises:
            SpaceError: The folder holds no multi-trial search, or the URL lacks its password.
        """
        record = self.record()
        if "objectives" not in record and not (self.trials.exists() or url):
            raise SpaceError(f"the folder {str(self.root)!r} holds no multi-trial search.")
        place = url or record.get("ledger") or self.trials
        if "***" in str(place) and "://" in str(place):
            raise SpaceError(
                f"the trials of {str(self.root)!r} are in {place}, and the password is not kept; pass the "
                "whole URL: --ledger URL."
            )
        return place, record.get("study")

    def begin(self, record: Mapping[str, Any], *, resume: bool, begun: bool) -> None:
        """Claim the folder for a run; an earlier run that left nothing to continue from is overwritten.

        Args:
            record: Description of the run.
            resume: Whether to continue the run that is there.
            begun: Whether there is something to continue from.

        Raises:
            SpaceError: The folder holds a run and `resume` is false, or another run than `record` describes.
        """
        if not (self.description.exists() and begun):
            self._write(self.description, dict(record))
            for left in (self._diverged, self._summary, self.epochs):
                left.unlink(missing_ok=True)
            return
        if not resume:
            raise SpaceError(
                f"the folder {str(self.root)!r} already holds a run. Continue it with "
                "experiment.run(resume=True), or use another directory."
            )
        stored = load_yaml(self.description)
        differing = differences(_part(stored, IDENTITY), _part(record, IDENTITY))
        may_change = _is_setting if self._diverged.exists() else lambda path: False
        refused = [line for path, line in differing.items() if not may_change(path)]
        if refused:
            lines = "".join(f"\n  {line}" for line in refused)
            raise SpaceError(
                f"the folder {str(self.root)!r} holds another run:{lines}\n"
                "Resume with the same settings, or use another directory."
            )
        others = differences(_part(stored, BITS), _part(record, BITS))
        if others:
            lines = "".join(f"\n  {line}" for line in others.values())
            warnings.warn(
                f"the run in {str(self.root)!r} is resumed in another way, so its numbers will not be the "
                f"same bit for bit:{lines}",
                stacklevel=2,
            )
        if differing or others:
            self._write(self.description, dict(record))
        self._diverged.unlink(missing_ok=True)
        self._summary.unlink(missing_ok=True)

    @property
    def _diverged(self) -> Path:
        """File that says why a search diverged; it is there until the search is resumed."""
        return self.root / "diverged.yaml"

    def write_divergence(self, why: str) -> None:
        """Note that the search diverged, so that it may be resumed with other settings."""
        self._write(self._diverged, {"diverged": why})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write a summary of the search, unless it is empty."""
        if summary:
            self._write(self._summary, dict(summary))

    def write_decisions(self, space: DecisionSpace) -> None:
        """Write the decisions of the space, so that the run can be read without it."""
        write_atomic(self._decisions, dumped_decisions(space).encode())

    @property
    def decisions(self) -> RecordedDecisions:
        """The decisions of the space, as far as they were written."""
        return read_decisions(self._decisions)

    @property
    def _decisions(self) -> Path:
        return self.root / "decisions.json"

    def exported(self) -> list[Architecture]:
        """Return the architectures that were written, best first."""
        ranks = sorted(int(path.stem) for path in self.architectures.glob("*.yaml") if path.stem.isdigit())
        return [_read_mapping(self.architectures / f"{rank}.yaml") for rank in ranks]

    def write_architectures(self, archs: Sequence[Architecture]) -> None:
        """Write architectures in order, 1.yaml the best; remove those of an earlier export."""
        for old in self.architectures.glob("*.yaml"):
            old.unlink()
        for rank, arch in enumerate(archs, start=1):
            self._write(self.architectures / f"{rank}.yaml", arch)

    @staticmethod
    def _write(path: Path, data: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dump_yaml(data).encode())


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a file; an empty one where there is none."""
    data = load_yaml(path) if path.exists() else {}
    return data if isinstance(data, dict) else {}


def _part(record: object, keys: Sequence[str]) -> dict[str, Any]:
    return {key: record.get(key) if isinstance(record, dict) else None for key in keys}


def _is_setting(path: str) -> bool:
    """Return whether a difference leaves a diverged search what it was."""
    part, _, setting = path.partition(".")
    return part in ("strategy", "evaluator") and setting not in ("", "class")


def finished(folder: Path, why: str = "", trials: str = "") -> str:
    """Return a line for the end of a search.

    Args:
        folder: Run folder.
        why: Reason for the end.
        trials: Numbers of trials, in words.
    """
    said = "; ".join(filter(None, (why, trials)))
    because = f": {said}" if said else ""
    return f"Search finished{because}; its run folder is {str(folder)!r}. experiment.best has the result."


def stopped(folder: Path, why: str, trials: str) -> str:
    """Return a line for the end of a search that leaves trials behind; see `finished`."""
    return (
        f"Search stopped, but not finished: {why}; {trials}; its run folder is {str(folder)!r}. Continue it "
        "with experiment.run(resume=True)."
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    return {"spacelang": __version__} | {name: version(name) for name in ("torch", "lightning", "numpy")}
