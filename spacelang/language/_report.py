"""A space in one table: its decisions, its size, and what its models cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import SpaceError, short
from ._decision_space import DecisionSpace
from ._decisions import Categorical, Decision

if TYPE_CHECKING:
    from ..costs import CostLimit, Range, Verdict
    from ._space import ModelSpace


@dataclass(frozen=True)
class Row:
    """One decision.

    Attributes:
        label: of the decision.
        kind: "one of", "k of" or "any of".
        candidates: what is chosen from.
        condition: when it is active; "always" or a statement about other decisions.
    """

    label: str
    kind: str
    candidates: tuple[Any, ...]
    condition: str


@dataclass(frozen=True)
class SpaceReport:
    """What a space holds.

    Attributes:
        space: class of the space.
        decisions: one row each, in the order of the space.
        size: number of distinct architectures.
        parameters: range over the models that `space.freeze` gives.
        flops: range for the example input; operations of convolutions, matrix products and attention, two
            for a multiply-accumulate. None without an example input.
        constraints: messages of the space's own.
        limits: for each limit asked about, whether it can be met.
    """

    space: str
    decisions: tuple[Row, ...]
    size: int
    parameters: Range
    flops: Range | None
    constraints: tuple[str, ...] = ()
    limits: tuple[Verdict, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.space}: {len(self.decisions)} decisions, {self.size:,} architectures",
            f"parameters: {self.parameters}",
        ]
        if self.flops is not None:
            lines.append(f"FLOPs: {self.flops}")
        lines += [f"constraint: {message}" for message in self.constraints]
        lines += [f"limit: {verdict}" for verdict in self.limits]
        cells = [
            (row.label, row.kind, _listed(row.candidates), _cut(row.condition, 60)) for row in self.decisions
        ]
        return "\n".join([*lines, "", *_table(("decision", "kind", "candidates", "active"), cells)])


def report(
    space: ModelSpace, example_inputs: Sequence[Any] = (), limits: Sequence[CostLimit] = ()
) -> SpaceReport:
    """Describe a space, find how small and how large its models are, and whether limits can be met.

    How they are found: see `spacelang.costs.Survey`.

    Args:
        space: left untouched.
        example_inputs: positional arguments of its forward, for FLOPs; none for parameters only.
        limits: on parameters, FLOPs, or milliseconds by a latency table.

    Raises:
        SpaceError: no architecture satisfies the constraints, the network does not run on the example, or a
            limit on FLOPs comes without one.
    """
    from ..costs import CostLimit, Survey
    from ..costs._metrics import check_metric

    inputs = tuple(example_inputs)
    for limit in limits:
        if not isinstance(limit, CostLimit):
            raise SpaceError(f"constraints are CostLimits; got {short(limit)}.")
        check_metric(limit.metric, inputs)
    surveys = {"params": Survey(space, "params")}
    if inputs:
        surveys["flops"] = Survey(space, "flops", inputs)
    decision_space = space.decision_space
    return SpaceReport(
        type(space).__name__,
        tuple(_row(decision, decision_space) for decision in space.decisions),
        space.size(),
        surveys["params"].range,
        surveys["flops"].range if inputs else None,
        tuple(dict.fromkeys(constraint.message for constraint in decision_space.constraints)),
        tuple(
            (surveys[x.metric] if isinstance(x.metric, str) else Survey(space, x.metric, inputs)).verdict(x)
            for x in limits
        ),
    )


def _row(decision: Decision, space: DecisionSpace) -> Row:
    if isinstance(decision, Categorical):
        kind = "one of"
    else:
        kind = "any of" if decision.n_chosen is None else f"{decision.n_chosen} of"
    return Row(decision.label, kind, decision.candidates, str(space.conditions[decision.label]))


# -- writing -------------------------------------------------------------------------------------------


def _listed(candidates: Sequence[Any]) -> str:
    return _cut(f"{len(candidates)}: " + ", ".join(map(str, candidates)), 60)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
