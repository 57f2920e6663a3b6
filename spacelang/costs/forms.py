"""Multilinear forms in tables of probabilities, and the one that is the expectation of a price."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..errors import SpaceError
from ..graph.regions import Edge, Place, RegionGraph
from ..language import Architecture, CellTopology, Condition, Decision, DecisionSpace, Subset
from .prices import Price, combinations, parts, refuse_many

Axis: TypeAlias = tuple[str, int]
"""A row of a table: label of the group, index of the row."""

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_MOST_COMBINATIONS = 20_000


@dataclass(frozen=True, eq=False)
class Form:
    """f(p) = sum_k values[k_1, ..., k_n] p_1[k_1] ... p_n[k_n], where p_i is the row of a table.

    Args:
        axes: the rows.
        values: one dimension for each.
    """

    axes: tuple[Axis, ...] = ()
    values: Array = field(default_factory=lambda: np.ones(()))

    def __mul__(self, other: Form) -> Form:
        """Both at once; a row they have in common is the same choice, not two."""
        axes = tuple(dict.fromkeys((*self.axes, *other.axes)))
        return Form(axes, self._spread(axes) * other._spread(axes))

    def __add__(self, other: Form) -> Form:
        """Sum of two forms in the same rows."""
        return Form(self.axes, self.values + other.values)

    def _spread(self, axes: Sequence[Axis]) -> Array:
        order = [axis for axis in axes if axis in self.axes]
        values = self.values.transpose([self.axes.index(axis) for axis in order])
        sizes = iter(values.shape)
        return values.reshape([next(sizes) if axis in order else 1 for axis in axes])


@dataclass(frozen=True, eq=False)
class Term:
    """Expected cost of an edge: `total`, or where constraints leave combinations out, `total / possible`."""

    total: Form
    possible: Form | None = None


class Expectations:
    """Prices as terms in tables of probabilities.

    Args:
        decision_space: Decisions of the space.
        cells: those of the space.
    """

    def __init__(self, decision_space: DecisionSpace, cells: Cells) -> None:
        self.decision_space = decision_space
        self.cells = cells

    def term(self, price: Price) -> Term | None:
        """Expectation of a price; None where it is always zero.

        Raises:
            SpaceError: it is no sum over candidates.
        """
        cost, possible = self._priced(price)
        if not cost.values.any():
            return None
        present = (
            Form() if price.edge is None or price.place is None else self._present(price.edge, price.place)
        )
        return Term(present * cost, None if possible.values.all() else possible)

    def shape(self, label: str) -> tuple[int, int]:
        """(rows, columns) of the table of a group."""
        cell = self.cells.by_label.get(label)
        if cell is not None:
            return len(cell.edges), len(cell.operations)
        return 1, len(self.decision_space.by_label[label].candidates)

    # -- whether an edge is there --------------------------------------------------------------------

    def _present(self, edge: Edge, place: Place) -> Form:
        """How often an edge is in the model: its own choice, times the candidates it is inside of."""
        form, stated = self._chosen(edge), {str(edge.local)}
        condition = place.condition
        while place.inside is not None and place.within is not None:
            form = self._chosen(place.inside) * form
            stated.add(str(place.inside.local))
            place = place.within
        for part in parts(condition):  # what a primitive of the user's own says of its branches
            if str(part) not in stated:
                form = self._holds(part) * form
        return form

    def _chosen(self, edge: Edge) -> Form:
        groups: list[str] = edge.attributes.get("groups", [])
        row, columns = edge.attributes.get("row"), edge.attributes.get("columns", [])
        if not groups or row is None:
            return Form()
        values = np.zeros([self.shape(label)[1] for label in groups])
        for start in range(0, len(columns), len(groups)):
            values[tuple(columns[start : start + len(groups)])] = 1
        if edge.kind == "block" and values.all():  # whatever the depth
            return Form()
        return Form(tuple((label, row) for label in groups), values)

    def _holds(self, condition: Condition) -> Form:
        decisions = [self.decision_space.by_label[label] for label in sorted(condition.labels)]
        axes = self._axes(decisions, f"the condition {condition}")
        held = [condition.holds(values) for values in combinations(decisions)]
        return Form(axes, np.reshape(np.array(held, float), [len(d.candidates) for d in decisions]))

    def _axes(self, decisions: Sequence[Decision], what: object) -> tuple[Axis, ...]:
        for decision in decisions:
            if isinstance(decision, Subset) or decision in self.cells:
                raise SpaceError(
                    f"the expected cost of {what} depends on {decision.label!r}, of which a table gives no "
                    "joint probabilities; only independent choices of one candidate can be priced."
                )
        return tuple((decision.label, 0) for decision in decisions)

    # -- what it then costs --------------------------------------------------------------------------

    def _priced(self, price: Price) -> tuple[Form, Form]:
        """Price for every combination of the decisions it depends on, and whether the combination exists."""
        decisions, ends = self.cells.apart(price.decisions)
        axes = self._axes(decisions, price)
        refuse_many(decisions, _MOST_COMBINATIONS, price)
        costs, possible = [], []
        for values in combinations(decisions):
            possible.append(self._exists(values))
            costs.append(sum(p * price.at(values | inputs) for p, inputs in ends) if possible[-1] else 0)
        shape = [len(decision.candidates) for decision in decisions]
        return (
            Form(axes, np.reshape(np.array(costs, float), shape)),
            Form(axes, np.reshape(np.array(possible, float), shape)),
        )

    def _exists(self, values: Architecture) -> bool:
        """Whether some architecture has these values."""
        constrained = any(not c.labels.isdisjoint(values) for c in self.decision_space.constraints)
        return not constrained or self.decision_space.complete(values) is not None


class Cells:
    """Cells of a space.

    Args:
        graph: Graph of the space.

    Attributes:
        by_label: Topology of each cell.
    """

    def __init__(self, graph: RegionGraph) -> None:
        self.by_label = {r.label: r.topology for r in graph.regions if r.topology is not None}
        self._cell_of = {d.label: cell for cell in self.by_label.values() for d in cell.decisions()}
        slots = (slot for cell in self.by_label.values() for node in cell.nodes for slot in cell.slots(node))
        self._inputs = {source.label for _, source in slots}

    def __contains__(self, decision: Decision) -> bool:
        return decision.label in self._cell_of

    def apart(self, decisions: Sequence[Decision]) -> tuple[list[Decision], list[tuple[float, Architecture]]]:
        """Separate the inputs of cells from other decisions; a layer may depend on how many ends are loose.

        Returns:
            The others, and `(probability, inputs)`: an example for each number of loose ends.
        """
        labels = dict.fromkeys(self._cell_of[d.label].label for d in decisions if d.label in self._inputs)
        cases = []
        for product in itertools.product(*(loose_end_cases(self.by_label[label]) for label in labels)):
            inputs = {label: node for _, example in product for label, node in example.items()}
            cases.append((math.prod(probability for probability, _ in product), inputs))
        return [d for d in decisions if d.label not in self._inputs], cases


def loose_end_cases(topology: CellTopology) -> list[tuple[float, Architecture]]:
    """How likely each number of loose ends is when inputs are uniform, with an example of inputs.

    Returns:
        `(probability, {label of an input: node})` for each number.
    """
    states: dict[frozenset[int], tuple[float, Architecture]] = {frozenset(): (1.0, {})}
    for node in topology.nodes:
        grown: dict[frozenset[int], tuple[float, Architecture]] = {}
        chosen = list(_inputs(topology, node))
        labels = [source.label for _, source in topology.slots(node)]
        for unread, (probability, inputs) in states.items():
            for sources in chosen:
                left = unread - set(sources) | {node}
                before, example = grown.get(left, (0.0, inputs | dict(zip(labels, sources, strict=True))))
                grown[left] = before + probability / len(chosen), example
        states = grown
    cases: dict[int, tuple[float, Architecture]] = {}
    for unread, (probability, inputs) in states.items():
        before, example = cases.get(len(unread), (0.0, inputs))
        cases[len(unread)] = before + probability, example
    return list(cases.values())


def _inputs(topology: CellTopology, node: int) -> Iterator[tuple[int, ...]]:
    """Yield the inputs that the slots of a node may read."""
    if topology.distinct_inputs:
        return itertools.permutations(range(node), topology.num_ops_per_node)
    return itertools.product(range(node), repeat=topology.num_ops_per_node)
