"""Decisions of a space as a file, and a decision space that is read back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpaceError
from ..language import Architecture, Categorical, Decision, DecisionSpace, Interval, Subset
from ..language.conditions import ALWAYS
from ..language.decision_space import Site


def dumped_decisions(space: DecisionSpace) -> str:
    """Return the decisions of a space as JSON, one a line."""
    lines = []
    for label, decision in space.by_label.items():
        line: dict[str, Any] = {"label": label}
        if isinstance(decision, Interval):
            line |= {"low": decision.low, "high": decision.high, "log": decision.log, "step": decision.step}
        else:
            line["candidates"] = decision.candidates
            line |= {} if decision.prior is None else {"prior": decision.prior}
        line["default"] = decision.default
        if isinstance(decision, Subset):
            line["n_chosen"] = decision.n_chosen
        if space.conditions[label] != ALWAYS:
            line["condition"] = str(space.conditions[label])
        lines.append(json.dumps(line))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def read_decisions(path: Path) -> RecordedDecisions:
    """Return the decisions that `dumped_decisions` wrote; none where there is no file.

    Raises:
        SpaceError: The file does not hold decisions.
    """
    try:
        lines = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        decisions = [_decision(str(line["label"]), line) for line in lines]
        always = frozenset(str(x["label"]) for x in lines if "condition" not in x)
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise SpaceError(f"'{path}' does not hold the decisions of a run: {error}.") from error
    return RecordedDecisions(tuple(map(Site, decisions)), always=always)


def _decision(label: str, line: Mapping[str, Any]) -> Decision:
    if "low" in line:
        return Interval(label, line["low"], line["high"], line["log"], line["step"], line["default"])
    if "n_chosen" in line:
        return Subset(label, line["candidates"], line["n_chosen"], line.get("prior"), line["default"])
    return Categorical(label, line["candidates"], line.get("prior"), line["default"])


@dataclass(frozen=True)
class RecordedDecisions(DecisionSpace):
    """Decisions whose conditions and constraints are not known, because their space is not at hand.

    Architectures of the search are taken as they are. One of a space with other constructor arguments is of
    this space if it has every label that always counts, no unknown label, and no unknown value.

    Args:
        always: Labels of the decisions that every architecture has.
    """

    always: frozenset[str] = frozenset()

    def problems(self, arch: object) -> list[str]:
        """Return which labels and values are not of the space."""
        assert isinstance(arch, Mapping)
        found = [f"{label!r} is missing." for label in sorted(self.always - arch.keys())]
        for label, value in arch.items():
            try:
                if label not in self.by_label:
                    found.append(f"{label!r} is not a label of the space.")
                else:
                    self.by_label[label].parse(value)
            except SpaceError as error:
                found.append(str(error))
        return found

    def canonical(self, arch: Mapping[str, Any]) -> Architecture:
        """Return a copy."""
        return dict(arch)
