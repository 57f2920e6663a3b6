"""Penalties on what the searched architecture is expected to cost."""

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
from spacelang.errors import quoted
from spacelang.language import Subset
from spacelang.supernet import Group, Supernet

from ..framework.gradient import GradientSearch
from ..framework.search import Extra, OneShot, OneShotSearch

_FORMS = ("linear", "above", "below", "absolute", "log")


@dataclass(frozen=True, eq=False)
class Penalty(Extra):
    """Let the logits trade the validation loss for parameters, FLOPs or latency.

    E is the expected cost of an architecture under the present probabilities, differentiable in the logits
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
        target: the cost aimed at; with "linear" and "log" merely the unit it is measured in.
        weight: of the penalty.
        form: from the table.
        combine: whether the penalty is added to the loss or multiplies it.
        scale: of the loss. Adam without weight decay does not notice it if the loss is multiplied.
        example_inputs: a tensor, or a tuple of positional arguments of the forward; FLOPs need them, and are
            for the whole batch.

    Source: ProxylessNAS, arXiv:1812.00332, section 3.3; TuNAS, arXiv:2008.06120, section 4; MnasNet,
    arXiv:1807.11626, eq. 2.
    """

    metric: Metric
    target: float
    _: KW_ONLY
    weight: float = 0.1
    form: Literal["linear", "above", "below", "absolute", "log"] = "absolute"
    combine: Literal["add", "multiply"] = "add"
    scale: float = 1.0
    example_inputs: Tensor | tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name in ("target", "weight", "scale"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise SpaceError(f"{name}={value!r} must be a positive number.")
        if self.form not in _FORMS:
            raise SpaceError(f"form={self.form!r}; expected one of {quoted(_FORMS)}.")
        if self.combine not in ("add", "multiply"):
            raise SpaceError(f"combine={self.combine!r}; expected 'add' or 'multiply'.")
        if self.form == "log" and self.target <= 1:
            raise SpaceError(f"target={self.target!r} must be above 1 with form='log'; use a smaller unit.")

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        self.require_probabilities(strategy)
        low, high = cost_range(self.cost(supernet), supernet)
        if not low <= self.target <= high:
            warnings.warn(
                f"Penalty's target={self.target:,.6g} is out of reach: this space can be expected to cost "
                f"{low:,.6g} to {high:,.6g} ({self.cost(supernet).metric}).",
                stacklevel=2,
            )
        if self.form == "log" and low <= 1:
            raise SpaceError(
                f"the expected cost of this space begins at {low:,.6g}; form='log' needs costs above 1: use "
                "a smaller unit, or another form."
            )

    def objective(self, loss: Tensor, search: GradientSearch) -> Tensor:
        return self.penalised(loss, self.expected(search))

    def epoch_end(self, search: OneShotSearch) -> None:
        with torch.no_grad():
            search.record(self._name(search), self.expected(search).item())

    def penalised(self, loss: Tensor, cost: Tensor) -> Tensor:
        """The objective, from the loss and E."""
        ratio = cost.log() / math.log(self.target) if self.form == "log" else cost / self.target
        n = ratio - 1
        if self.form == "above":
            n = n.clamp(min=0)
        elif self.form == "below":
            n = n.clamp(max=0)
        elif self.form == "absolute":
            n = n.abs()
        if self.combine == "add":
            return self.scale * loss + self.weight * n
        return self.scale * loss * (1 + n) ** self.weight

    def expected(self, search: Any) -> Tensor:
        """E of a `GradientSearch`, differentiable in its logits."""
        groups = search.supernet.groups
        tables = {x: inclusion(groups[x], table) for x, table in search.probability_tables().items()}
        if search.relaxation.weighs_edges:
            tables = {x: of_edges(groups[x], table) for x, table in tables.items()}
        return self.cost(search.supernet)(tables)

    def cost(self, supernet: Supernet) -> ExpectedCost:
        """E as a function of tables of probabilities; made once for each supernet."""
        known = _COSTS.setdefault(supernet, {})
        if self not in known:
            known[self] = expected_cost(supernet, self.metric, self.example_inputs)
        return known[self]

    def _name(self, search: OneShotSearch) -> str:
        """Name of the record; penalties on one metric are numbered from the second on."""
        metric = self.cost(search.supernet).metric
        penalties = [extra for extra in search.strategy.extras if isinstance(extra, Penalty)]
        alike = [p for p in penalties if p.cost(search.supernet).metric == metric]
        position = alike.index(self)
        return f"expected_{metric}_{position + 1}" if position else f"expected_{metric}"


_COSTS: WeakKeyDictionary[Supernet, dict[Penalty, ExpectedCost]] = WeakKeyDictionary()


def inclusion(group: Group, table: Tensor) -> Tensor:
    """Probability that each candidate is chosen, from a search's table, (rows, columns)."""
    decision = group.decisions[0]
    if isinstance(decision, Subset) and decision.n_chosen is not None:
        return decision.n_chosen * table
    return table


def of_edges(group: Group, table: Tensor) -> Tensor:
    """Shares of a cell's nodes as probabilities on its edges, each of which `expected_cost` counts alike."""
    if group.kind != "cell":
        return table
    rows_into = [group.cell.rows_into(node) for _, node in group.cell.edges]
    entering = [sum(any(group.alive[row]) for row in rows) for rows in rows_into]
    return table * table.new_tensor(entering)[:, None]


def cost_range(cost: ExpectedCost, supernet: Supernet) -> tuple[float, float]:
    """Smallest and largest expectation that was found, by deciding one table after the other."""
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
    """One-hot rows of the candidates with the lowest price; a set takes as many as it needs."""
    decision = group.decisions[0]
    alive = torch.tensor(group.alive)
    order = prices.masked_fill(~alive, math.inf).argsort(dim=1)
    count = decision.n_chosen or 1 if isinstance(decision, Subset) else 1
    chosen = torch.zeros_like(alive).scatter(1, order[:, :count], True)
    if isinstance(decision, Subset) and decision.n_chosen is None:
        chosen |= prices < 0
    return (chosen & alive).to(prices.dtype)
