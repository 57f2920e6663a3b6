"""A space in one table: its decisions, its size, and what its models cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ._decision_space import DecisionSpace
from ._decisions import Architecture, Categorical, Decision

if TYPE_CHECKING:
    from ..graph._plan import Edge, Place
    from ..nn import LayerSpec
    from ._space import ModelSpace

_ENUMERATED = 200
_STARTS = 2  # random ones, beside the default
_PROBES = 1  # random ones, beside the starts, on which adding up edges is checked
_SWEEPS = 10
_SEED = 0

Measure: TypeAlias = Callable[[Mapping[str, Any]], int]


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
class Range:
    """Smallest and largest value of a cost.

    Attributes:
        smallest: value.
        largest: value.
        smallest_architecture: where it was found.
        largest_architecture: where it was found.
        exact: whether every architecture was measured; otherwise there may be smaller and larger ones.
    """

    smallest: int
    largest: int
    smallest_architecture: Architecture
    largest_architecture: Architecture
    exact: bool

    def __str__(self) -> str:
        how = "every architecture measured" if self.exact else "found by local search, not proven"
        return f"{self.smallest:,} to {self.largest:,} ({how})"


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
        constraints: their messages.
    """

    space: str
    decisions: tuple[Row, ...]
    size: int
    parameters: Range
    flops: Range | None
    constraints: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.space}: {len(self.decisions)} decisions, {self.size:,} architectures",
            f"parameters: {self.parameters}",
        ]
        if self.flops is not None:
            lines.append(f"FLOPs: {self.flops}")
        lines += [f"constraint: {message}" for message in self.constraints]
        cells = [
            (row.label, row.kind, _listed(row.candidates), _cut(row.condition, 60)) for row in self.decisions
        ]
        return "\n".join([*lines, "", *_table(("decision", "kind", "candidates", "active"), cells)])


def report(space: ModelSpace, example_inputs: Sequence[Any] = ()) -> SpaceReport:
    """Describe a space and find how small and how large its models are.

    A space of up to 200 architectures is measured completely. In a larger one, the range is what coordinate
    descent finds from the default architecture and from two random ones (with a fixed seed): every
    decision in turn takes its best value until none improves. Costs are added up from the edges of the
    space's graph, after a check on a few architectures that this equals what their frozen models have;
    where it does not (a weight shared by two choices, a primitive of one's own, sizes of feature maps that
    depend on choices), frozen models are measured, from the default alone.

    Args:
        space: left untouched.
        example_inputs: positional arguments of its forward, for FLOPs; none for parameters only.

    Raises:
        SpaceError: no architecture satisfies the constraints, or the network does not run on the example.
    """
    inputs = tuple(example_inputs)
    decision_space = space.decision_space
    return SpaceReport(
        type(space).__name__,
        tuple(_row(decision, decision_space) for decision in space.decisions),
        space.size(),
        _range(space, _frozen_parameters(space), _summed_parameters(space)),
        _range(space, _frozen_flops(space, inputs), _summed_flops(space, inputs)) if inputs else None,
        tuple(dict.fromkeys(constraint.message for constraint in decision_space.constraints)),
    )


def _row(decision: Decision, space: DecisionSpace) -> Row:
    if isinstance(decision, Categorical):
        kind = "one of"
    else:
        kind = "any of" if decision.n_chosen is None else f"{decision.n_chosen} of"
    return Row(decision.label, kind, decision.candidates, str(space.conditions[decision.label]))


# -- measuring -----------------------------------------------------------------------------------------


def _frozen_parameters(space: ModelSpace) -> Measure:
    def measure(arch: Mapping[str, Any]) -> int:
        return sum(parameter.numel() for parameter in space.freeze(arch).parameters())

    return measure


def _summed_parameters(space: ModelSpace) -> Measure:
    from ..graph._read import plan_of
    from ..graph._write import layer_parameters

    plan = plan_of(space)
    layers = [(edge, place, cost.spec) for edge, place, cost in plan.costs() if cost.spec is not None]
    others = _merged(
        (edge, place, cost.parameters) for edge, place, cost in plan.costs() if cost.spec is None
    )
    known: dict[str, int] = {}

    def layer(spec: LayerSpec, arch: Mapping[str, Any]) -> int:
        key = f"{spec} {[arch[decision.label] for decision in spec.decisions]}"
        if key not in known:
            known[key] = layer_parameters(spec, arch)
        return known[key]

    def measure(arch: Mapping[str, Any]) -> int:
        chosen = sum(count * layer(s, arch) for e, p, s in layers if (count := p.count(arch) * e.slots(arch)))
        return plan.fixed.parameters + chosen + _added(others, arch)

    return measure


def _frozen_flops(space: ModelSpace, inputs: tuple[Any, ...]) -> Measure:
    from ..results import profile

    return lambda arch: profile(space.freeze(arch), inputs).flops


def _summed_flops(space: ModelSpace, inputs: tuple[Any, ...]) -> Measure:
    from ..graph._trace import trace

    plan = trace(space, inputs, space.default())
    costly = _merged((edge, place, cost.flops or 0) for edge, place, cost in plan.costs())
    fixed = plan.fixed.flops or 0
    return lambda arch: fixed + _added(costly, arch)


def _merged(costs: Iterable[tuple[Edge, Place, int]]) -> list[tuple[Edge, Place, int]]:
    """Join costs that are in a model equally often, as those of cells that share a label are."""
    merged: dict[tuple[Any, ...], tuple[Edge, Place, int]] = {}
    for edge, place, cost in costs:
        if cost:
            key = edge.kind, str(edge.local), *place.key
            before = merged[key][2] if key in merged else 0
            merged[key] = edge, place, cost + before
    return list(merged.values())


def _added(costs: Iterable[tuple[Edge, Place, int]], arch: Mapping[str, Any]) -> int:
    return sum(slots * place.count(arch) * cost for edge, place, cost in costs if (slots := edge.slots(arch)))


# -- searching -----------------------------------------------------------------------------------------


def _range(space: ModelSpace, exact: Measure, quick: Measure) -> Range:
    """Smallest and largest cost; `quick` stands in for `exact` where it agrees on a few architectures."""
    default = space.default()
    if space.size() <= _ENUMERATED:
        costs = [(exact(arch), arch) for arch in space.grid()]
        smallest, largest = min(costs, key=lambda pair: pair[0]), max(costs, key=lambda pair: pair[0])
        return Range(smallest[0], largest[0], smallest[1], largest[1], True)
    rng = np.random.default_rng(_SEED)
    starts = [default, *(space.sample(rng) for _ in range(_STARTS))]
    probes = [*starts, *(space.sample(rng) for _ in range(_PROBES))]
    agree = all(quick(arch) == exact(arch) for arch in probes)
    measure, starts = (quick, starts) if agree else (exact, starts[:1])
    found = [_descend(space.decision_space, start, measure, sign) for sign in (1, -1) for start in starts]
    low, high = min(found, key=measure), max(found, key=measure)
    return Range(exact(low), exact(high), low, high, False)


def _descend(space: DecisionSpace, start: Architecture, measure: Measure, sign: int) -> Architecture:
    """Coordinate descent on `sign * measure`."""
    best, cost = start, sign * measure(start)
    for _ in range(_SWEEPS):
        before = cost
        for label in space.by_label:
            for candidate in _variants(space, best, label):
                new = sign * measure(candidate)
                if new < cost:
                    best, cost = candidate, new
        if cost == before:
            break
    return space.canonical(best)


def _variants(space: DecisionSpace, arch: Architecture, label: str) -> Iterable[Architecture]:
    """Architectures that differ in one decision; what that activates takes its first valid candidates."""
    if label not in arch:
        return
    alone = not any(label in condition.labels for condition in space.conditions.values())
    rules = [constraint for constraint in space.constraints if label in constraint.labels]
    for value in space.by_label[label].values():
        if value == arch[label]:
            continue
        if alone:
            changed = {**arch, label: value}
            if all(rule.holds(changed) for rule in rules):
                yield changed
        else:
            completed = space.complete({**arch, label: value})
            if completed is not None:
                yield completed


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
