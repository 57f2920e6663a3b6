"""Penalties on the expected cost of the searched architecture."""

from __future__ import annotations

import math
import warnings
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.costs import ExpectedCost, Metric, expected_cost
from spacelang.errors import require_all, require_number, require_one_of
from spacelang.supernet import Group, Supernet

from ..framework import GradientSearch, LogitsExtra, OneShot, Rate, rate_at, require_rate

_FORMS = ("linear", "above", "below", "absolute", "log")


@dataclass(frozen=True, eq=False)
class Penalty(LogitsExtra):
    """A trade of the validation loss for parameters, FLOPs or latency, in the loss of the logits.

    E is the expected cost of an architecture under the present distributions, differentiable in the logits
    (`spacelang.costs.expected_cost`). The logits follow

        scale * loss + weight * n              (combine="add")
        scale * loss * (1 + n)^weight          (combine="multiply")

    | form | n |
    |---|---|
    | "linear" | E / target - 1 |
    | "above" | max(E / target - 1, 0) |
    | "below" | min(E / target - 1, 0) |
    | "absolute" | abs(E / target - 1) |
    | "log" | log E / log target - 1 |

    The default is that of TuNAS. ProxylessNAS's "add#linear" is form="linear"; its "mul#log" is form="log",
    combine="multiply", weight=0.3, scale=0.2. MnasNet's exponent is form="linear", combine="multiply". After
    each epoch E is recorded and logged as `expected_params`, `expected_flops` or `expected_latency`.

    Args:
        metric: "params", "flops", or a latency table, whose unit is then that of `target`.
        target: Cost to reach; with "linear" and "log" merely the unit it is measured in.
        weight: Weight of the penalty: one number, or those of the first and of the last epoch, linear in
            between.
        form: Name from the table.
        combine: Whether the penalty is added to the loss or multiplies it.
        scale: Factor of the loss. Adam without weight decay does not notice it if the loss is multiplied.
        example_inputs: A tensor, or a tuple of positional arguments of the forward; FLOPs need them, and are
            for the whole batch.

    Source: ProxylessNAS, arXiv:1812.00332, section 3.3; TuNAS, arXiv:2008.06120, section 4; MnasNet,
    arXiv:1807.11626, eq. 2.
    """

    metric: Metric
    target: float
    _: KW_ONLY
    weight: Rate = 0.1
    form: Literal["linear", "above", "below", "absolute", "log"] = "absolute"
    combine: Literal["add", "multiply"] = "add"
    scale: float = 1.0
    example_inputs: Tensor | tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        require_all(require_number, self, "target", "scale", above=0)
        require_rate("weight", self.weight, least=0)
        require_one_of("form", self.form, _FORMS)
        require_one_of("combine", self.combine, ("add", "multiply"))
        if self.form == "log" and self.target <= 1:
            raise SpaceError(f"target={self.target!r} must be above 1 with form='log'; use a smaller unit.")

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        low, high = cost_range(self.cost(supernet), supernet)
        if not low <= self.target <= high:
            warnings.warn(
                f"Penalty(target={self.target:,.6g}) is out of reach: expected costs in this space range "
                f"from {low:,.6g} to {high:,.6g} ({self.cost(supernet).metric}).",
                stacklevel=2,
            )
        if self.form == "log" and low <= 1:
            raise SpaceError(
                f"the expected cost of this space begins at {low:,.6g}; form='log' needs costs above 1: use "
                "a smaller unit, or another form."
            )

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        return self.penalised(loss, self.expected(search), rate_at(self.weight, search.moment))

    def epoch_end(self, search: GradientSearch) -> None:
        with torch.no_grad():
            search.record(self._name(search), self.expected(search).item())

    def penalised(self, loss: Tensor, cost: Tensor, weight: float) -> Tensor:
        """Return the objective, from the loss, E and the present weight."""
        ratio = cost.log() / math.log(self.target) if self.form == "log" else cost / self.target
        n = ratio - 1
        if self.form == "above":
            n = n.clamp(min=0)
        elif self.form == "below":
            n = n.clamp(max=0)
        elif self.form == "absolute":
            n = n.abs()
        if self.combine == "add":
            return self.scale * loss + weight * n
        return self.scale * loss * (1 + n) ** weight

    def expected(self, search: GradientSearch) -> Tensor:
        """Return E, differentiable in the logits."""
        groups = search.supernet.groups
        tables = {x: inclusion(groups[x], table) for x, table in search.distributions().items()}
        for label, shares in search.edge_shares().items():
            tables[label] = of_edges(groups[label], tables[label], shares)
        return self.cost(search.supernet)(tables)

    def cost(self, supernet: Supernet) -> ExpectedCost:
        """Return E as a function of tables of probabilities; made once for each supernet."""
        known = _COSTS.setdefault(supernet, {})
        if self not in known:
            known[self] = expected_cost(supernet, self.metric, self.example_inputs)
        return known[self]

    def _name(self, search: GradientSearch) -> str:
        """Return the name of the record; penalties on one metric are numbered from the second on."""
        metric = self.cost(search.supernet).metric
        penalties = [extra for extra in search.extras if isinstance(extra, Penalty)]
        alike = [p for p in penalties if p.cost(search.supernet).metric == metric]
        position = alike.index(self)
        return f"expected_{metric}_{position + 1}" if position else f"expected_{metric}"


_COSTS: WeakKeyDictionary[Supernet, dict[Penalty, ExpectedCost]] = WeakKeyDictionary()


def inclusion(group: Group, table: Tensor) -> Tensor:
    """Return the probability that each candidate is chosen, from the distribution of one draw."""
    return table * group.n_chosen if group.n_chosen else table


def of_edges(group: Group, table: Tensor, shares: Tensor) -> Tensor:
    """Return a cell's table, in which `expected_cost` counts edges alike, weighed by the edges' shares."""
    rows_into = [group.cell.rows_into(node) for _, node in group.cell.edges]
    entering = [sum(any(group.alive[row]) for row in rows) for rows in rows_into]
    return table * (shares * shares.new_tensor(entering))[:, None]


def cost_range(cost: ExpectedCost, supernet: Supernet) -> tuple[float, float]:
    """Return the smallest and largest expectation that was found, by deciding one table after the other."""
    return _extreme(cost, supernet, 1), _extreme(cost, supernet, -1)


def _extreme(cost: ExpectedCost, supernet: Supernet, sign: int) -> float:
    groups = {label: supernet.groups[label] for label in cost.labels}
    tables = {
        label: inclusion(group, torch.full(group.shape, 1 / len(group.columns), dtype=torch.float64))
        for label, group in groups.items()
    }
    best = sign * cost(tables).item()
    while True:
        for label, group in groups.items():
            table = tables[label].requires_grad_()
            (slope,) = torch.autograd.grad(cost(tables), table)
            tables[label] = _cheapest(group, sign * slope)
        value = sign * cost(tables).item()
        if not value < best:
            return sign * best
        best = value


def _cheapest(group: Group, prices: Tensor) -> Tensor:
    """Return one-hot rows of the candidates with the lowest price; a set takes as many as it needs."""
    alive = torch.tensor(group.alive)
    order = prices.masked_fill(~alive, math.inf).argsort(dim=1)
    chosen = torch.zeros_like(alive).scatter(1, order[:, : group.n_chosen or 1], True)
    if group.kind == "any_subset":
        chosen |= prices < 0
    return (chosen & alive).to(prices.dtype)
