"""Expected cost of a supernet, differentiable in the probabilities of its choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import reduce
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import SpaceError, closest, quoted
from ..graph.reading import region_graph
from ..language import CellTopology, Space
from ..supernet import Group, Supernet
from .forms import Array, Axis, Decided, Expectations, Form, Term
from .limits import Metric, prices_of
from .prices import Prices
from .tallies import TallyResults, results_of


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
    regions = region_graph(space).regions
    cells = {region.label: region.topology for region in regions if region.topology is not None}
    return ExpectedCost(prices, cells, groups)


class ExpectedCost:
    """E[cost] = fixed + sum over edges of (how often the edge is expected in the model) * (its cost).

    Decisions are independent: a choice within a candidate is there with that candidate's probability, block b
    of a `Repeat` with P(depth > b), and a layer whose arguments are chosen costs the mean over their
    combinations. Combinations that constraints forbid are left out of that mean.

    Each of the n slots of a cell's node reads one of the m nodes before it with probability 1/m, and its
    operation is then distributed as the table's row for that edge says: an entry counts n/m times. So a
    uniform table gives the mean over uniformly sampled cells. Where a supernet is pruned, m is the number of
    edges left into the node.

    The tables of one architecture give its exact cost, as `of` does. They are ones and zeros: for a cell as
    many ones into each node as it has slots, and two in place of one where both slots chose the same entry.

    Attributes:
        metric: "params", "flops" or "latency" (milliseconds).
        labels: groups whose tables it reads.
    """

    def __init__(
        self, prices: Prices, cells: Mapping[str, CellTopology], groups: Mapping[str, Group]
    ) -> None:
        self.metric = prices.metric
        self._prices = prices
        self._cells = cells
        self._groups = groups
        self._expectations = Expectations(prices.decision_space, cells)
        self._fixed, self._tables, self._terms, self._decided = _summed(self._expectations, prices)
        self._tallies = {x: results_of(tally) for x, tally in self._expectations.tallies.items()}
        self._source = {
            decision.label: label for label, cell in cells.items() for decision in cell.decisions()
        }
        self.labels = tuple(sorted(self._labels()))
        self._on_device: dict[Hashable, Tensor] = {}

    def _labels(self) -> set[str]:
        """Labels of the groups whose tables are read."""
        forms = [form for term in self._terms for form in (*term.total, term.possible) if form is not None]
        forms += [form for decided in self._decided for form in decided.present]
        found = {*self._tables, *(label for form in forms for label, _ in form.axes)}
        found |= {d.label for decided in self._decided for d in decided.price.decisions}
        counted = {d.label for label in found & self._tallies.keys() for d in self._tallies[label].decisions}
        return {self._source.get(label, label) for label in (found | counted) - self._tallies.keys()}

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
        tables = {label: table.to(dtype) for label, table in tables.items()}
        counts = {label: self._expected_counts(label, table) for label, table in tables.items()}
        counts |= {label: self._distribution(results, tables) for label, results in self._tallies.items()}
        parts = [
            (self._tensor(label, cost, counts[label]) * counts[label]).sum()
            for label, cost in self._tables.items()
        ]
        for term in self._terms:
            total = self._product(term.total, counts)
            parts.append(total if term.possible is None else total / self._value(term.possible, counts))
        for decided in self._decided:
            cost = next(iter(tables.values())).new_tensor(decided.cost(tables))
            parts.append(cost * self._product(decided.present, counts))
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
        cell, alive = self._cells[label], self._alive(label)
        slots = self._tensor((label, alive), _slots_per_edge(cell, alive), table)
        return torch.where(_is_architecture(cell, table), table, table * slots)

    def _distribution(self, results: TallyResults, tables: Mapping[str, Tensor]) -> Tensor:
        """Probabilities of the results of a tally, (1, results)."""
        like = next(iter(tables.values()))
        rows = {d.label: tables[d.label][0] for d in results.decisions if d.label not in self._source}
        for label in {self._source[d.label] for d in results.decisions if d.label in self._source}:
            rows |= _inputs(self._cells[label], tables[label])
        return results.distribution(rows, like)[None]

    def _alive(self, label: str) -> tuple[bool, ...]:
        """For each edge of a cell whether pruning has left anything on it."""
        if label in self._groups:
            return tuple(map(any, self._groups[label].alive))
        return (True,) * len(self._cells[label].edges)

    def _product(self, forms: Iterable[Form], counts: Mapping[str, Tensor]) -> Tensor:
        return reduce(mul, (self._value(form, counts) for form in forms))

    def _value(self, form: Form, counts: Mapping[str, Tensor]) -> Tensor:
        like = counts[form.axes[0][0]] if form.axes else next(iter(counts.values()))
        value = self._tensor(form, form.values, like)
        for label, row in reversed(form.axes):
            value = (value * counts[label][row]).sum(-1)  # no matrix product: autocast would round it
        return value

    def _tensor(self, key: Hashable, values: Array, like: Tensor) -> Tensor:
        """Coefficients on the device of a table; each is moved there once."""
        place = key, like.device, like.dtype
        if place not in self._on_device:
            self._on_device[place] = torch.tensor(values, dtype=like.dtype, device=like.device)
        return self._on_device[place]


def _is_architecture(cell: CellTopology, table: Tensor) -> Tensor:
    """Whether a table is that of one architecture: whole numbers, for each node as many as it has slots."""
    whole = (table == table.round()).all()
    per_node = [table[list(cell.rows_into(node))].sum() for node in cell.nodes]
    return whole & (torch.stack(per_node) == cell.num_ops_per_node).all()


def _inputs(cell: CellTopology, table: Tensor) -> dict[str, Tensor]:
    """Probabilities of the inputs of every slot: those of the table's architecture, otherwise uniform."""
    found = {}
    is_architecture = _is_architecture(cell, table)
    for node in cell.nodes:
        reads = table[list(cell.rows_into(node))].sum(1)
        last = reads.cumsum(0)
        uniform = torch.full_like(reads, 1 / node)
        for slot, (_, source) in enumerate(cell.slots(node)):
            read = ((last - reads <= slot) & (slot < last)).to(reads.dtype)
            found[source.label] = torch.where(is_architecture, read, uniform)
    return found


def _slots_per_edge(cell: CellTopology, alive: tuple[bool, ...]) -> Array:
    """Slots of a node for each of the edges that may enter it, (rows, 1)."""
    entering = Counter(node for (_, node), is_alive in zip(cell.edges, alive, strict=True) if is_alive)
    return np.array([[cell.num_ops_per_node / max(entering[node], 1)] for _, node in cell.edges])


def _summed(
    expectations: Expectations, prices: Prices
) -> tuple[float, dict[str, Array], list[Term], list[Decided]]:
    """Terms of all prices: what is fixed, what is linear in one table (rows, columns), and the rest."""
    sums: dict[tuple[Axis, ...], Form] = {}
    terms, decided = list[Term](), list[Decided]()
    for price in prices.items:
        term = expectations.term(price)
        if isinstance(term, Decided):
            decided.append(term)
        elif term is not None and (term.possible is not None or len(term.total) > 1):
            terms.append(term)
        elif term is not None:
            (total,) = term.total
            known = sums.get(total.axes)
            sums[total.axes] = total if known is None else total + known
    tables: dict[str, Array] = {}
    for axes, form in sums.items():
        if len(axes) == 1 and axes[0][0] not in expectations.tallies:
            (label, row) = axes[0]
            tables.setdefault(label, np.zeros(expectations.shape(label)))[row] += form.values
        elif axes:
            terms.append(Term((form,)))
    return float(sums[()].values) if () in sums else 0.0, tables, terms, decided
