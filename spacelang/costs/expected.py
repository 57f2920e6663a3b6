"""Expected cost of a supernet, differentiable in the probabilities of its choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import SpaceError, closest, quoted
from ..graph.reading import region_graph
from ..language import CellTopology, Space
from ..supernet import Group, Supernet
from .forms import Array, Axis, Cells, Expectations, Form, Term
from .limits import Metric, prices_of
from .prices import Prices


def expected_cost(space: Space | Supernet, metric: Metric, example_inputs: Any = ()) -> ExpectedCost:
    """Prepare the expected cost of a space as a function of the probabilities of its choices.

    Args:
        space: a space, or its supernet; with the latter, edges of a cell that are pruned later are no longer
            among those a node may read.
        metric: "params", "flops", or a latency table.
        example_inputs: a tensor, or a tuple of positional arguments of the forward. FLOPs need them (and are
            for their whole batch), and so does a table whose keys name calls.

    Raises:
        SpaceError: costs are no sum over choices; says of which. A table lacks an operation or names one that
            does not exist.
    """
    groups = space.groups if isinstance(space, Supernet) else {}
    if isinstance(space, Supernet):
        space = space._space[0]
    prices = prices_of(space, metric, example_inputs)
    return ExpectedCost(prices, Cells(region_graph(space)), groups)


class ExpectedCost:
    """E[cost] = fixed + sum over edges of (how often the edge is expected in the model) * (its cost).

    Decisions are independent: a choice within a candidate is there with that candidate's probability, block b
    of a `Repeat` with P(depth > b), and a layer whose arguments are chosen costs the mean over their
    combinations. Combinations that constraints forbid are left out of that mean.

    Each of the n slots of a cell's node reads one of the m nodes before it with probability 1/m, and its
    operation is then distributed as the table's row for that edge says: an entry counts n/m times. So a
    uniform table gives the mean over uniformly sampled cells. Where a supernet is pruned, m is the number of
    edges left into the node.

    One-hot tables give an architecture's exact cost where the space has no cells; `of` always gives it.

    Attributes:
        metric: "params", "flops" or "latency" (milliseconds).
        labels: groups whose tables it reads.
    """

    def __init__(self, prices: Prices, cells: Cells, groups: Mapping[str, Group]) -> None:
        self.metric = prices.metric
        self._prices = prices
        self._cells = cells.by_label
        self._groups = groups
        self._expectations = Expectations(prices.decision_space, cells)
        self._fixed, self._tables, self._terms = _summed(self._expectations, prices)
        forms = [form for term in self._terms for form in (term.total, term.possible) if form is not None]
        self.labels = tuple(sorted({*self._tables, *(label for form in forms for label, _ in form.axes)}))
        self._on_device: dict[Hashable, Tensor] = {}

    def of(self, arch: Mapping[str, Any]) -> float:
        """Exact cost of an architecture; no model is built.

        Raises:
            SpaceError: with every problem of `arch`.
        """
        return self._prices.of(self._prices.decision_space.canonical(arch))

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Expected cost.

        Args:
            probabilities: Tables (rows, columns) by label, at least those of `labels`. Of a choice of several
                inputs an entry is the probability that the input is among them.

        Returns:
            Number on the device of the tables, in their dtype (at least float32).

        Raises:
            SpaceError: a table is missing or has another shape.
        """
        if not self.labels:
            return torch.tensor(self._fixed, dtype=torch.float64)
        tables = {label: self._checked(label, probabilities) for label in self.labels}
        dtype = reduce(torch.promote_types, (table.dtype for table in tables.values()), torch.float32)
        counts = {label: self._expected_counts(label, table.to(dtype)) for label, table in tables.items()}
        parts = [
            (self._tensor(label, cost, counts[label]) * counts[label]).sum()
            for label, cost in self._tables.items()
        ]
        for term in self._terms:
            total = self._value(term.total, counts)
            parts.append(total if term.possible is None else total / self._value(term.possible, counts))
        return torch.stack(parts).sum() + self._fixed

    def _checked(self, label: str, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Table of a group, of the right shape."""
        if label not in probabilities:
            raise SpaceError(
                f"the expected cost ({self.metric}) needs probabilities of {label!r}; got those of "
                f"{quoted(probabilities)}." + closest(label, probabilities)
            )
        table, shape = probabilities[label], self._expectations.shape(label)
        if tuple(table.shape) != shape:
            raise SpaceError(
                f"the probabilities of {label!r} have shape {tuple(table.shape)}; expected "
                f"(rows, candidates) = {shape}."
            )
        return table

    def _expected_counts(self, label: str, table: Tensor) -> Tensor:
        """How often each candidate is expected where its choice is: of a cell, in all slots together."""
        if label not in self._cells:
            return table
        alive = self._alive(label)
        return table * self._tensor((label, alive), _slots_per_edge(self._cells[label], alive), table)

    def _alive(self, label: str) -> tuple[bool, ...]:
        """For each edge of a cell whether pruning has left anything on it."""
        if label in self._groups:
            return tuple(map(any, self._groups[label].alive))
        return (True,) * len(self._cells[label].edges)

    def _value(self, form: Form, counts: Mapping[str, Tensor]) -> Tensor:
        value = self._tensor(form, form.values, counts[form.axes[0][0]])
        for label, row in reversed(form.axes):
            value = (value * counts[label][row]).sum(-1)  # no matrix product: autocast would round it
        return value

    def _tensor(self, key: Hashable, values: Array, like: Tensor) -> Tensor:
        """Coefficients on the device of a table; each is moved there once."""
        place = key, like.device, like.dtype
        if place not in self._on_device:
            self._on_device[place] = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._on_device[place]


def _slots_per_edge(cell: CellTopology, alive: tuple[bool, ...]) -> Array:
    """Slots of a node for each of the edges that may enter it, (rows, 1)."""
    entering = Counter(node for (_, node), is_alive in zip(cell.edges, alive, strict=True) if is_alive)
    return np.array([[cell.num_ops_per_node / max(entering[node], 1)] for _, node in cell.edges])


def _summed(expectations: Expectations, prices: Prices) -> tuple[float, dict[str, Array], list[Term]]:
    """Terms of all prices: what is fixed, what is linear in one table (rows, columns), and the rest."""
    sums: dict[tuple[Axis, ...], Form] = {}
    terms = list[Term]()
    for price in prices.items:
        term = expectations.term(price)
        if term is not None and term.possible is not None:
            terms.append(term)
        elif term is not None:
            known = sums.get(term.total.axes)
            sums[term.total.axes] = term.total if known is None else term.total + known
    tables: dict[str, Array] = {}
    for axes, form in sums.items():
        if len(axes) == 1:
            (label, row) = axes[0]
            tables.setdefault(label, np.zeros(expectations.shape(label)))[row] += form.values
        elif axes:
            terms.append(Term(form))
    return float(sums[()].values) if () in sums else 0.0, tables, terms
