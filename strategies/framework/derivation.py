"""Derivation: from the probabilities of a supernet's candidates to architectures."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.language import Architecture, CellTopology, Constraint, DecisionSpace, Subset
from spacelang.supernet import Group, Supernet

_MAX_STEPS = 200_000
_MAX_JOINED = 100_000  # combinations of decisions that constraints link

Rule = Literal["edges", "pairs"]


@dataclass(frozen=True)
class _Option:
    """One way to decide a unit, and its log probability."""

    values: Architecture
    score: float


@dataclass(frozen=True)
class _Unit:
    """Decisions taken together: one decision, or the slots of one node of a cell."""

    first_label: str
    options: tuple[_Option, ...]  # best first

    @property
    def labels(self) -> frozenset[str]:
        """Labels of the decisions."""
        return frozenset(self.options[0].values)

    def regret(self, index: int) -> float:
        """Return how much less likely an option is than the best, in log probability."""
        return self.options[0].score - self.options[index].score


def top_architectures(
    supernet: Supernet, probabilities: Mapping[str, Tensor], count: int, *, rule: Rule = "edges"
) -> list[Architecture]:
    """Derive the `count` most probable architectures, best first, without duplicates.

    The first one decides everything as the DARTS rule does. Every choice gets its most probable candidate.
    A node of a cell gets the `num_ops_per_node` edges whose most probable candidate is most probable, each
    with that candidate, in decreasing order; ties go to the lowest index. The others follow by joint
    probability, each decision counted relative to its best option, so that decisions which exist only
    under another choice do not count against it.

    Args:
        supernet: Network with the groups and the space.
        probabilities: Tables by group label, (rows, columns). Rows are compared as they are: a softmax must
            already have been taken per edge.
        count: Number of architectures; fewer are returned when the space has fewer.
        rule: "edges" as above. With "pairs" a node keeps its most probable pairs of edge and operation,
            which may lie on one edge (GDAS, arXiv:1910.04465) unless the cell wants distinct inputs.

    Raises:
        SpaceError: `count` is not positive, or constraints reject everything probable.

    Source: DARTS, arXiv:1806.09055, section 2.4.
    """
    require_integer("count", count, least=1)
    space = supernet.decision_space
    linked = [constraint.labels for constraint in space.constraints if _is_unconditional(constraint, space)]
    complete = frozenset().union(*linked)
    units = [
        unit
        for label, group in supernet.groups.items()
        for unit in _units(
            group, probabilities[label].detach().double().cpu().tolist(), count, rule, label in complete
        )
    ]
    for labels in linked:
        units = _join(units, labels, space, count)
    order = {label: position for position, label in enumerate(space.by_label)}
    units.sort(key=lambda unit: order[unit.first_label])
    found: list[Architecture] = []
    seen: set[str] = set()
    for arch in itertools.islice(_best_first(units, space), _MAX_STEPS):
        try:
            key = json.dumps(space.canonical(arch))
        except SpaceError:  # a constraint of the space
            continue
        if key not in seen:
            seen.add(key)
            found.append(arch)
            if len(found) == count:
                break
    if not found:
        raise SpaceError(
            f"none of the {_MAX_STEPS} most probable architectures satisfies the constraints of the space."
        )
    return found


def _is_unconditional(constraint: Constraint, space: DecisionSpace) -> bool:
    return not any(space.conditions[label].labels for label in constraint.labels)


def _join(units: list[_Unit], labels: frozenset[str], space: DecisionSpace, count: int) -> list[_Unit]:
    """Merge the units of single decisions that a constraint links, leaving only what it allows.

    Otherwise a search for the most probable architecture may try every combination that breaks it.
    """
    parts = [unit for unit in units if unit.labels & labels]
    if len(parts) < 2 or math.prod(len(part.options) for part in parts) > _MAX_JOINED:
        return units
    rules = [rule for rule in space.constraints if rule.labels & labels]
    options = []
    for combination in itertools.product(*(part.options for part in parts)):
        values = {label: value for option in combination for label, value in option.values.items()}
        if all(rule.holds(values) for rule in rules):
            options.append(_Option(values, sum(option.score for option in combination)))
    joined = _Unit(parts[0].first_label, _best(options, len(options)))
    return [joined, *(unit for unit in units if not unit.labels & labels)]


def _best_first(units: Sequence[_Unit], space: DecisionSpace) -> Iterator[Architecture]:
    """Yield every combination of options in order of increasing total regret."""
    ticket = itertools.count()  # equal regrets: first come, first served
    heap: list[tuple[float, int, int, int, Architecture]] = []

    def push(regret: float, position: int, arch: Architecture) -> None:
        """Decide the next active unit by its best option."""
        while position < len(units) and not space.active(units[position].first_label, arch):
            position += 1
        heapq.heappush(heap, (regret, next(ticket), position, 0, arch))

    push(0.0, 0, {})
    while heap:
        regret, _, position, index, arch = heapq.heappop(heap)
        if position == len(units):
            yield arch
            continue
        unit = units[position]
        push(regret, position + 1, arch | unit.options[index].values)
        if index + 1 < len(unit.options):
            worse = regret - unit.regret(index) + unit.regret(index + 1)
            heapq.heappush(heap, (worse, next(ticket), position, index + 1, arch))


def _units(group: Group, table: list[list[float]], count: int, rule: Rule, complete: bool) -> Iterator[_Unit]:
    """Yield the units of a group with their `count` best options, or with all if `complete`."""
    if group.kind == "cell":
        for node in group.cell.nodes:
            yield _node_unit(group, node, table, count, rule)
        return
    decision = group.decisions[0]
    if isinstance(decision, Subset):
        options = [
            _Option({decision.label: s}, _subset_score(decision, s, table[0])) for s in decision.values()
        ]
    else:
        values = list(decision.values())
        options = [
            _Option({decision.label: values[k]}, _log(table[0][k]))
            for k, alive in enumerate(group.alive[0])
            if alive
        ]
    yield _Unit(decision.label, _best(options, len(options) if complete else count))


def _node_unit(group: Group, node: int, table: list[list[float]], count: int, rule: Rule) -> _Unit:
    """Return the unit of a node; its options are the edges that enter it, each with an operation."""
    topology = group.cell
    # Per edge the best operations; no architecture among the first `count` needs a later one.
    pairs = {
        source: sorted(
            ((table[r][k], k) for k, alive in enumerate(group.alive[r]) if alive), key=lambda pair: -pair[0]
        )[: count + topology.num_ops_per_node]
        for source, r in enumerate(topology.rows_into(node))
    }
    live = [source for source, operations in pairs.items() if operations]
    width = topology.num_ops_per_node
    if rule == "pairs" and not topology.distinct_inputs:
        ranked = sorted(((s, pair) for s in live for pair in pairs[s]), key=lambda edge: -edge[1][0])
        chosen = itertools.combinations(ranked[: count + width], width)
        options = [_slots(topology, node, list(edges)) for edges in chosen]
        if options:  # else the node has fewer pairs than slots
            return _Unit(topology.input(node, 0).label, _best(options, count))
    # Slots beyond the number of live inputs can only repeat one of them.
    combine = itertools.combinations if len(live) >= width else itertools.combinations_with_replacement
    options = [
        _slots(topology, node, list(zip(sources, operations, strict=True)))
        for sources in combine(live, width)
        for operations in itertools.product(*(pairs[source] for source in sources))
    ]
    return _Unit(topology.input(node, 0).label, _best(options, count))


def _slots(topology: CellTopology, node: int, edges: list[tuple[int, tuple[float, int]]]) -> _Option:
    """Fill the slots of a node with `(source, (probability, operation))`, most probable first."""
    strongest_first = sorted(edges, key=lambda edge: -edge[1][0])  # stable: ties keep the lower source first
    values: Architecture = {}
    for slot, (source, (_, k)) in enumerate(strongest_first):
        values[topology.op(node, slot).label] = topology.operations[k]
        values[topology.input(node, slot).label] = source
    return _Option(values, sum(_log(probability) for _, (probability, _) in edges))


def _best(options: Sequence[_Option], count: int) -> tuple[_Option, ...]:
    if not options:
        raise SpaceError("every candidate of a decision was pruned, so no architecture can be derived.")
    return tuple(sorted(options, key=lambda option: -option.score)[:count])


def _subset_score(decision: Subset, value: Sequence[object], row: Sequence[float]) -> float:
    chosen = decision.position(value)
    if decision.n_chosen is not None:
        return sum(_log(row[i]) for i in chosen)
    return sum(_log(p if i in chosen else 1 - p) for i, p in enumerate(row))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -1e9
