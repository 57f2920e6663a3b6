"""Multilinear forms in tables of probabilities, and the one that is the expectation of a price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ..errors import SpaceError
from ..graph.regions import Edge, Place
from ..language import Architecture, CellTopology, Condition, Decision, DecisionSpace, Subset, Tally
from ..language.decisions import exported
from .prices import MOST_COMBINATIONS, Price, combinations, count_of, parts, untallied, variants
from .tallies import results_of

_MOST_COEFFICIENTS = 4096  # of one array; choices inside one another would have 2 to the number of levels

Axis: TypeAlias = tuple[str, int]
"""A row of a table: label of the group, index of the row."""

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


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


def product(forms: Iterable[Form]) -> tuple[Form, ...]:
    """Return forms in different rows whose product is that of `forms`: a single one unless it were large."""
    apart: list[Form] = []
    for form in forms:
        shared = [other for other in apart if set(other.axes) & set(form.axes)]
        apart = [other for other in apart if other not in shared] + [reduce(mul, shared, form)]
    if math.prod(form.values.size for form in apart) <= _MOST_COEFFICIENTS:
        return (reduce(mul, apart, Form()),)
    return tuple(apart)


@dataclass(frozen=True, eq=False)
class Term:
    """Expected cost of an edge.

    Args:
        total: Its factors.
        possible: Divisor of their product where constraints leave combinations out; None elsewhere.
    """

    total: tuple[Form, ...]
    possible: Form | None = None


@dataclass(frozen=True, eq=False)
class Decided:
    """Cost of an edge that too many decisions make together to be a form: known once they are decided."""

    present: tuple[Form, ...]
    price: Price

    def cost(self, tables: Mapping[str, Tensor]) -> float:
        """Cost under tables of ones and zeros; a decision without a one is inactive.

        Raises:
            SpaceError: a table leaves a decision open, or is to be differentiated.
        """
        arch: Architecture = {}
        for decision in self.price.decisions:
            row = tables[decision.label][0]
            chosen = [c for c, p in zip(decision.candidates, row.tolist(), strict=True) if p == 1]
            if row.requires_grad or len(chosen) != row.count_nonzero():
                raise SpaceError(
                    f"the expected cost of {self.price} depends on {decision.label!r} and "
                    f"{len(self.price.decisions) - 1} other decisions together, of which tables give no "
                    "joint probabilities; only the tables of one architecture, ones and zeros, can be priced."
                )
            if chosen:
                arch[decision.label] = chosen if isinstance(decision, Subset) else exported(chosen[0])
        return self.price.at(arch)


class Expectations:
    """Prices as terms in tables of probabilities.

    Args:
        decision_space: Decisions of the space.
        cells: Topology of each cell of the space.

    Attributes:
        tallies: those that terms refer to, by the label of their axis.
    """

    def __init__(self, decision_space: DecisionSpace, cells: Mapping[str, CellTopology]) -> None:
        self.decision_space = decision_space
        self.cells = cells
        self.tallies: dict[str, Tally] = {}
        self._in_cells = {d.label for cell in cells.values() for d in cell.decisions()}

    def term(self, price: Price) -> Term | Decided | None:
        """Expectation of a price; None where it is always zero.

        Raises:
            SpaceError: it is no sum over candidates.
        """
        present: list[Form] = []
        if price.edge is not None and price.place is not None:
            present = self._present(price.edge, price.place)
        plain = untallied(price.decisions, price.tallies)
        if count_of(plain) > MOST_COMBINATIONS or any(isinstance(d, Subset) for d in plain):
            return Decided(product(present), price)
        cost, possible = self._priced(price)
        if not cost.values.any():
            return None
        return Term(product([*present, cost]), None if possible.values.all() else possible)

    def shape(self, label: str) -> tuple[int, int]:
        """(rows, columns) of the table of a group."""
        cell = self.cells.get(label)
        if cell is not None:
            return len(cell.edges), len(cell.operations)
        return 1, len(self.decision_space.by_label[label].candidates)

    # -- whether an edge is there --------------------------------------------------------------------

    def _present(self, edge: Edge, place: Place) -> list[Form]:
        """Factors of how often an edge is in the model: its own choice, and those of what it is in."""
        forms, stated = [self._chosen(edge)], {str(edge.local)}
        condition = place.condition
        while place.inside is not None and place.within is not None:
            forms.append(self._chosen(place.inside))
            stated.add(str(place.inside.local))
            place = place.within
        # What a primitive of the user's own says of its branches:
        forms += [self._holds(part) for part in parts(condition) if str(part) not in stated]
        return forms

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
            if isinstance(decision, Subset) or decision.label in self._in_cells:
                raise SpaceError(
                    f"the expected cost of {what} depends on {decision.label!r}, of which a table gives no "
                    "joint probabilities; only independent choices of one candidate can be priced."
                )
        return tuple((decision.label, 0) for decision in decisions)

    # -- what it then costs --------------------------------------------------------------------------

    def _priced(self, price: Price) -> tuple[Form, Form]:
        """Price for every combination of what it depends on, and whether the combination exists."""
        plain = untallied(price.decisions, price.tallies)
        axes = (*self._axes(plain, price), *((str(tally), 0) for tally in price.tallies))
        self.tallies.update({str(tally): tally for tally in price.tallies})
        costs, possible = [], []
        for values in variants(price.decisions, price.tallies, price):
            possible.append(self._exists({decision.label: values[decision.label] for decision in plain}))
            costs.append(price.at(values) if possible[-1] else 0)
        shape = [len(d.candidates) for d in plain] + [
            len(results_of(tally).examples) for tally in price.tallies
        ]
        return (
            Form(axes, np.reshape(np.array(costs, float), shape)),
            Form(axes, np.reshape(np.array(possible, float), shape)),
        )

    def _exists(self, values: Architecture) -> bool:
        """Whether some architecture has these values."""
        constrained = any(not c.labels.isdisjoint(values) for c in self.decision_space.constraints)
        return not constrained or self.decision_space.complete(values) is not None
