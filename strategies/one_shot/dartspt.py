"""DARTSPT: architectures selected by perturbing the supernet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spacelang.errors import require_all, require_integer
from spacelang.supernet import Group

from ..framework import (
    Differentiable,
    GradientSearch,
    GreedySoftmax,
    Schedule,
    Scorer,
    takes_part,
)


@dataclass(frozen=True, kw_only=True)
class DARTSPT(Differentiable):
    """Train as DARTS, then keep the operations without which the supernet is worst.

    From the end of epoch `search_epochs` on, every `interval` epochs, each cell label takes a decision, and
    training continues in between. First a random undecided edge keeps the operation whose removal hurts
    most, with weight one. When all edges are decided, a random node with more edges than it keeps loses, one
    by one, the edge without which the supernet is best. Each comparison takes the whole validation set, by
    `metric`, or else by the loss; batch norms use the statistics of each batch, and remember none of it
    (those of the authors' code do). Choices of one candidate outside cells are decided like edges, one at a
    time among themselves; choices of several inputs keep what their logits say.

    The optimisers of the weights begin again when the search ends. The authors also begin a new cosine then,
    from a tenth of the learning rate; yours can with `torch.optim.lr_scheduler.SequentialLR`.

    Args:
        search_epochs: Epochs of DARTS before the first decision.
        interval: Epochs from one decision to the next.
        blank: Whether logits stay what they were first, near uniform, so that the weights alone are trained.

    Source: DARTS-PT, Wang et al. 2021, arXiv:2108.04392, and the authors' code.
    """

    search_epochs: int = 50
    interval: int = 5
    blank: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "search_epochs", "interval", least=1)

    @property
    def relaxation(self) -> GreedySoftmax:
        return GreedySoftmax(none=False)

    @property
    def samples_paths(self) -> bool:
        return True  # the weights of pruned candidates are unused

    def moves_logits(self, epoch: int) -> bool:
        return not self.blank and super().moves_logits(epoch)

    def make_schedule(self) -> ProjectionSchedule:
        return ProjectionSchedule(self)


@dataclass(frozen=True)
class Projection:
    """One line of the trace.

    Args:
        epoch: Epoch that ended with it.
        group: Label of the cell or choice.
        rows: Rows compared: an edge, or those into a node.
        columns: Columns left in these rows, one each, or -1 for an edge that was removed.
        values: Metric or loss without each candidate, or without each edge, in the order of comparison.
    """

    epoch: int
    group: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    values: tuple[float, ...]


class ProjectionSchedule(Schedule):
    """Takes the decisions of one search.

    Attributes:
        trace: Decisions in order.
    """

    def __init__(self, strategy: DARTSPT) -> None:
        self.strategy = strategy
        self.trace: list[Projection] = []

    def epochs_needed(self, search: GradientSearch) -> int | None:
        """Return the epochs that decide all edges and nodes of each cell label, and everything else."""
        groups = [group for group in search.supernet.groups.values() if takes_part(group)]
        cells = [group for group in groups if group.kind == "cell"]
        decisions = [len(cell.rows) + len(crowded(cell)) for cell in cells]
        most = max(len(groups) - len(cells), *decisions, 0)
        return self.strategy.search_epochs + (most - 1) * self.strategy.interval if most else None

    def epoch_end(self, search: GradientSearch, epoch: int) -> None:
        """Begin the optimisers again after the search; decide if it is time."""
        since = epoch + 1 - self.strategy.search_epochs
        if since == 0:
            search.training.reset_optimizers()
        if since >= 0 and since % self.strategy.interval == 0:
            groups = [group for group in search.supernet.groups.values() if takes_part(group)]
            for group in groups:
                if group.kind == "cell":
                    self._decide(search, [group], epoch)
            self._decide(search, [group for group in groups if group.kind != "cell"], epoch)

    def _decide(self, search: GradientSearch, groups: Sequence[Group], epoch: int) -> None:
        """Decide one row, or else one node, of some groups."""
        rows = [(g, (r,)) for g in groups for r, row in enumerate(g.alive) if sum(row) > 1]
        nodes = [(g, tuple(crowded(g)[node])) for g in groups if g.kind == "cell" for node in crowded(g)]
        places = rows or nodes
        if not places:
            return
        group, chosen = places[int(torch.randint(len(places), (), generator=search.moment.generator))]
        with search.scorer(of_batch=True) as scorer:
            left = Without(search, scorer, group)
            if rows:
                alive, values = strongest_operation(left, group, chosen[0], search.strategy.mode == "max")
            else:
                alive, values = strongest_edges(left, group, chosen, search.strategy.mode == "max")
        search.supernet.prune({group.label: alive})
        columns = tuple(group.alive[r].index(True) if any(group.alive[r]) else -1 for r in chosen)
        self.trace.append(Projection(epoch, group.label, chosen, columns, tuple(values)))

    def summary(self, search: GradientSearch) -> dict[str, Any]:
        """Return the trace, with names."""
        lines = []
        for projection in self.trace:
            group = search.supernet.groups[projection.group]
            lines.append(
                {
                    **dataclasses.asdict(projection),
                    "rows": [group.rows[row] for row in projection.rows],
                    "columns": [None if k < 0 else group.columns[k] for k in projection.columns],
                    "values": list(projection.values),
                }
            )
        return {"decisions": lines}

    def state_dict(self) -> dict[str, Any]:
        return {"trace": [list(dataclasses.astuple(projection)) for projection in self.trace]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trace = [Projection(*entry) for entry in state["trace"]]


def crowded(group: Group) -> dict[int, list[int]]:
    """Return, by node of a cell, the rows that enter nodes with more edges than they keep."""
    entering = {
        node: [r for r in group.cell.rows_into(node) if any(group.alive[r])] for node in group.cell.nodes
    }
    return {node: rows for node, rows in entering.items() if len(rows) > group.cell.num_ops_per_node}


class Without:
    """Measures the supernet without some entries of a group's mixture.

    Args:
        search: Gives the mixture; random ones are drawn once.
        scorer: Measures on the validation set.
        group: Group whose entries are left out; other weights stay as they are.
    """

    def __init__(self, search: GradientSearch, scorer: Scorer, group: Group) -> None:
        self.search = search
        self.scorer = scorer
        self.group = group
        self.mixtures = search.mixtures("weights")

    def __call__(self, entries: Sequence[tuple[int, int]]) -> float:
        """Return the metric or loss without the entries `(row, column)`."""
        mixture = self.mixtures[self.group.label]
        weights, active = mixture.weights.clone(), [list(row) for row in self.group.alive]
        for row, column in entries:
            weights[row, column], active[row][column] = 0, False
        without = dataclasses.replace(mixture, weights=weights, active=active)
        self.search.compute_with({**self.mixtures, self.group.label: without})
        return self.scorer.measure()


Left = Callable[[Sequence[tuple[int, int]]], float]
"""Returns the metric or loss without some entries."""


def strongest_operation(
    left: Left, group: Group, row: int, more_is_better: bool
) -> tuple[list[list[bool]], list[float]]:
    """Return what is left when a row keeps the candidate whose removal hurts most, the first of equal ones.

    Args:
        left: Measures the supernet without some entries.
        group: Group of the row.
        row: Row to decide.
        more_is_better: Whether a larger measure is better.

    Returns:
        Candidates that are left, rows x columns, and the measure without each.
    """
    sign = 1 if more_is_better else -1
    columns = [k for k, alive in enumerate(group.alive[row]) if alive]
    values = [left([(row, k)]) for k in columns]
    kept = columns[min(range(len(columns)), key=lambda i: sign * values[i])]
    alive = [list(entries) for entries in group.alive]
    alive[row] = [k == kept for k in range(len(group.columns))]
    return alive, values


def strongest_edges(
    left: Left, group: Group, rows: Sequence[int], more_is_better: bool
) -> tuple[list[list[bool]], list[float]]:
    """Return what is left when a node loses the edges without which the supernet is best.

    Of equal ones the last goes. See `strongest_operation`; rows have one candidate each.
    """
    sign = 1 if more_is_better else -1
    kept, measured = list(rows), []
    gone: list[tuple[int, int]] = []
    while len(kept) > group.cell.num_ops_per_node:
        edges = [(r, group.alive[r].index(True)) for r in kept]
        values = [left([*gone, edge]) for edge in edges]
        weakest = max(range(len(kept)), key=lambda i: (sign * values[i], i))
        measured += values
        gone.append(edges[weakest])
        del kept[weakest]
    removed = {row for row, _ in gone}
    return [[a and r not in removed for a in entries] for r, entries in enumerate(group.alive)], measured
