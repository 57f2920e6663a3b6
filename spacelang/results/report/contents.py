"""Contents of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...language import Architecture, Space
from ..course import Course
from .judged import Judged


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows; all but the space is text and numbers from a run folder.

    Args:
        directory: Path of the run folder.
        status: State of the run, in a word.
        record: Description of the run: the contents of experiment.yaml.
        history: Trials of a search by trials; None of a one-shot search.
        course: Epochs of a one-shot search.
        summary: Contents of search.yaml.
        best: Best architectures, best first.
        space: Space, if it is at hand.
        baseline: Trials of a random search to compare with.
    """

    directory: str
    status: str
    record: Mapping[str, Any]
    history: Judged | None = None
    course: Course = field(default_factory=Course)
    summary: Mapping[str, Any] = field(default_factory=dict)
    best: Sequence[Architecture] = ()
    space: Space | None = None
    baseline: Judged | None = None

    @property
    def strategy(self) -> str:
        """Name of the strategy's class."""
        return self._name("strategy")

    @property
    def title(self) -> str:
        """Strategy and space."""
        return f"{self._name('strategy')} on {self._name('space')}"

    def part(self, name: str) -> Mapping[str, Any]:
        """Return the description of the space, the strategy or the evaluator."""
        found = self.record.get(name)
        return found if isinstance(found, Mapping) else {}

    def _name(self, part: str) -> str:
        return str(self.part(part).get("class", "?")).rpartition(".")[2]
