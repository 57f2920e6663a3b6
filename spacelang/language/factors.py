"""Tables over a few variables each, and the elimination of variables one after another.

A product of many small tables is summed up exactly by summing out one variable at a time: only the tables
that name the variable are joined. The work grows with the widest joined table, not with the number of
variables.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

Variable: TypeAlias = Hashable
Key: TypeAlias = tuple[Any, ...]

_MOST_ENTRIES = 4_000_000  # in all joined tables together: some seconds


class TooWideError(Exception):
    """Exact reasoning would need tables with too many entries."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A weight for some combinations of values of a few variables; others are impossible.

    Args:
        scope: Variables.
        table: Weight by values, in the order of `scope`.
    """

    scope: tuple[Variable, ...]
    table: Mapping[Key, Any]


@dataclass(frozen=True)
class Algebra:
    """How weights are joined and summed up.

    Args:
        times: Joins the weights of two tables.
        plus: Sums up the weights of the values of an eliminated variable.
        one: Weight that changes nothing when joined.
        rescale: Brings the weights of a table back into a range that numbers can express; None where they
            cannot leave it.
    """

    times: Callable[[Any, Any], Any]
    plus: Callable[[Iterable[Any]], Any]
    one: Any
    rescale: Callable[[dict[Key, Any]], dict[Key, Any]] | None = None


def _up_to_one(table: dict[Key, float]) -> dict[Key, float]:
    peak = max(table.values(), default=1.0)
    return {key: weight / peak for key, weight in table.items()}


COUNTING = Algebra(operator.mul, sum, 1)
"""How many combinations there are."""

PROBABILITY = Algebra(operator.mul, sum, 1.0, _up_to_one)
"""How likely combinations are, up to a common factor."""

SMALLEST = Algebra(operator.add, min, 0)
"""The smallest sum of weights of a combination."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Record of a variable at its elimination.

    Args:
        variable: The variable.
        scope: Variables eliminated later that its weights depend on.
        options: Table from values of these to the possible values of the variable and their weights, which
            sum up everything that was eliminated before.
        message: Their sum, by values of `scope`.
    """

    variable: Variable
    scope: tuple[Variable, ...]
    options: Mapping[Key, Mapping[Any, Any]]
    message: Mapping[Key, Any]

    def given(self, values: Mapping[Variable, Any]) -> Mapping[Any, Any]:
        """Return the possible values of the variable and their weights."""
        return self.options.get(tuple(values[variable] for variable in self.scope), {})


def eliminate(
    factors: Sequence[Factor], order: Sequence[Variable], algebra: Algebra, most: int = _MOST_ENTRIES
) -> list[Bucket]:
    """Eliminate variables in an order; read backwards, the buckets build a combination without a dead end.

    Args:
        factors: Tables.
        order: Every variable in them.
        algebra: How weights are joined.
        most: Largest number of entries in all joined tables together.

    Raises:
        TooWideError: The tables become too large.
    """
    holding: dict[Variable, dict[int, Factor]] = {variable: {} for variable in order}

    def hold(factor: Factor) -> None:
        for variable in factor.scope:
            holding[variable][id(factor)] = factor

    for factor in factors:
        hold(factor)
    buckets, left = list[Bucket](), most
    for variable in order:
        own = sorted(holding.pop(variable).values(), key=lambda factor: len(factor.scope))
        for factor in own:
            for other in factor.scope:
                if other != variable:
                    del holding[other][id(factor)]
        joined = own[0]
        for factor in own[1:]:
            joined = _join(joined, factor, algebra, left)
            left -= len(joined.table)
        bucket = _bucket(variable, joined, algebra)
        buckets.append(bucket)
        if bucket.scope:
            hold(Factor(bucket.scope, bucket.message))
    return buckets


def total(buckets: Iterable[Bucket], algebra: Algebra) -> Any:
    """Return the sum over all combinations; None where there is none."""
    ends = [bucket.message for bucket in buckets if not bucket.scope]
    return reduce(algebra.times, (end[()] for end in ends), algebra.one) if all(ends) else None


def _join(a: Factor, b: Factor, algebra: Algebra, most: int) -> Factor:
    shared = [variable for variable in a.scope if variable in b.scope]
    in_a, in_b = [a.scope.index(v) for v in shared], [b.scope.index(v) for v in shared]
    extra = [i for i, variable in enumerate(b.scope) if variable not in shared]
    rows: dict[Key, list[tuple[Key, Any]]] = {}
    for key, weight in b.table.items():
        rows.setdefault(tuple(key[i] for i in in_b), []).append((tuple(key[i] for i in extra), weight))
    table: dict[Key, Any] = {}
    for key, weight in a.table.items():
        for tail, other in rows.get(tuple(key[i] for i in in_a), ()):
            table[key + tail] = algebra.times(weight, other)
        if len(table) > most:
            raise TooWideError
    if algebra.rescale is not None:
        table = algebra.rescale(table)
    return Factor((*a.scope, *(b.scope[i] for i in extra)), table)


def _bucket(variable: Variable, joined: Factor, algebra: Algebra) -> Bucket:
    at = joined.scope.index(variable)
    options: dict[Key, dict[Any, Any]] = {}
    for key, weight in joined.table.items():
        options.setdefault(key[:at] + key[at + 1 :], {})[key[at]] = weight
    message = {rest: algebra.plus(weights.values()) for rest, weights in options.items()}
    scope = joined.scope[:at] + joined.scope[at + 1 :]
    return Bucket(variable, scope, options, message)


def cheapest_order(factors: Iterable[Factor], sizes: Mapping[Variable, int]) -> list[Variable]:
    """Return an order in which the variable with the smallest joined table is always eliminated next.

    Args:
        factors: Tables.
        sizes: Number of values of each variable; among equals the last is eliminated first.
    """
    near: dict[Variable, set[Variable]] = {variable: set() for variable in sizes}
    for factor in factors:
        for variable in factor.scope:
            near[variable].update(factor.scope)
    rank = {variable: -i for i, variable in enumerate(sizes)}
    weight = {variable: math.log(size + 1) for variable, size in sizes.items()}
    cost = {variable: sum(weight[v] for v in near[variable] - {variable}) for variable in sizes}
    waiting = [(cost[variable], rank[variable], variable) for variable in sizes]
    heapq.heapify(waiting)
    order: list[Variable] = []
    while waiting:
        was, _, variable = heapq.heappop(waiting)
        if variable not in near or was != cost[variable]:
            continue  # eliminated, or its cost has changed since
        order.append(variable)
        others = near.pop(variable) - {variable}
        for other in others:
            fresh = others - near[other] - {other}
            near[other] |= fresh
            near[other].discard(variable)
            cost[other] += sum(weight[v] for v in fresh) - weight[variable]
            heapq.heappush(waiting, (cost[other], rank[other], other))
    return order
