"""SGAS: sequential greedy architecture search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spacelang import SpaceError
from spacelang.errors import require_all, require_integer, require_one_of
from spacelang.supernet import Group

from ..framework import (
    Differentiable,
    GradientSearch,
    GreedySoftmax,
    Schedule,
    is_decided,
    masked_softmax,
    offered_mask,
    takes_part,
)


@dataclass(frozen=True, kw_only=True)
class SGAS(Differentiable):
    """Decide one edge at a time, greedily, and prune the rest of it during the search.

    It begins as DARTS. After `first_decision` more epochs than the first, and then every `period` epochs,
    each cell label decides the edge of the highest score: the edge keeps its most probable operation, with
    weight one, and nothing else. When a node has as many decided edges as it takes, its other edges go.
    Decided and pruned candidates cost nothing from then on. Choices outside cells are decided likewise,
    one at a time among themselves.

    Args:
        criterion: 1 scores importance x certainty, 2 also x stability; each min-max normalised over all
            edges of the cell label.
        first_decision: Epoch, from 0, that ends with the first decision.
        period: Epochs between decisions.
        window: Epochs over which stability is averaged.
        batch_growth: Samples by which training and validation batches grow with every decision, as pruning
            frees memory (the authors' code: 8).

    Source: SGAS, Li et al. 2020, arXiv:1912.00195, eq. 5 to 10.
    """

    criterion: Literal[1, 2] = 1
    first_decision: int = 9
    period: int = 5
    window: int = 4
    batch_growth: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("criterion", self.criterion, (1, 2))
        require_all(require_integer, self, "first_decision", "batch_growth", least=0)
        require_all(require_integer, self, "period", "window", least=1)

    @property
    def relaxation(self) -> GreedySoftmax:
        return GreedySoftmax()

    @property
    def samples_paths(self) -> bool:
        return True  # the weights of pruned candidates are unused

    def make_schedule(self) -> GreedySchedule:
        return GreedySchedule(self)


# -- the criteria: `probabilities` are (edges, operations), softmax with `none` left out -----------------


def importance(probabilities: Tensor) -> Tensor:
    """Return S_EI, the probability that an edge is not none, (edges,)."""
    return probabilities.sum(dim=1)


def certainty(probabilities: Tensor) -> Tensor:
    """Return S_SC = 1 - H(p) / log n, p the distribution over an edge's n operations but none, (edges,)."""
    p = without_none(probabilities)
    entropy: Tensor = -torch.special.xlogy(p, p).sum(dim=1)
    return 1 - entropy / (p > 0).sum(dim=1).to(p.dtype).log()


def stability(probabilities: Tensor, history: Sequence[Tensor]) -> Tensor:
    """Return S_SS, the mean over epochs of the histogram intersection sum_o min(p_o, p_o^t), (edges,)."""
    p = without_none(probabilities)
    if not history:
        return p.new_zeros(len(p))
    return torch.stack([torch.minimum(p, past).sum(dim=1) for past in history]).mean(dim=0)


def without_none(probabilities: Tensor) -> Tensor:
    """Return probabilities given that an edge is not none, (edges, operations)."""
    return probabilities / probabilities.sum(dim=1, keepdim=True)


def normalised(scores: Tensor) -> Tensor:
    """Return the min-max normalisation over all edges; zeros when all are equal."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


@dataclass(frozen=True)
class EdgeScores:
    """Criteria of some edges, each (edges,), and the product of their normalised values."""

    importance: Tensor
    certainty: Tensor
    stability: Tensor
    score: Tensor


def edge_scores(
    tables: Sequence[Tensor], histories: Sequence[Sequence[Tensor]], criterion: Literal[1, 2]
) -> EdgeScores:
    """Return scores of every edge of some tables together.

    Args:
        tables: Probabilities, each (edges, operations); the number of operations may differ.
        histories: Distributions without none recorded so far, one list per table.
        criterion: 1 or 2.
    """
    pairs = zip(tables, histories, strict=True)
    parts = (
        torch.cat([importance(table) for table in tables]),
        torch.cat([certainty(table) for table in tables]),
        torch.cat([stability(table, history) for table, history in pairs]),
    )
    normal = [normalised(part) for part in parts]
    score = normal[0] * normal[1]
    return EdgeScores(*parts, score * normal[2] if criterion == 2 else score)


# -- decisions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GreedyDecision:
    """One line of the trace.

    Args:
        epoch: Epoch that ended with it.
        group: Label of the cell or choice.
        row: Row of the edge.
        operation: Column of the operation kept.
        score: Product of the edge's normalised criteria.
        importance, certainty, stability: Criteria of the edge, not normalised.
    """

    epoch: int
    group: str
    row: int
    operation: int
    score: float
    importance: float
    certainty: float
    stability: float


def next_edge(scores: Tensor, open_rows: Sequence[int]) -> int:
    """Return the open edge of the highest score; the first of equal ones."""
    return max(open_rows, key=lambda row: (float(scores[row]), -row))


def decide(group: Group, row: int, operation: int) -> list[list[bool]]:
    """Return which candidates are left when `row` keeps one operation; a full node loses its other edges."""
    alive = [list(entries) for entries in group.alive]
    alive[row] = [column == operation for column in range(len(group.columns))]
    if group.kind == "cell":
        node = group.cell.edges[row][1]
        rows = group.cell.rows_into(node)
        if sum(is_decided(alive[r]) for r in rows) == group.cell.num_ops_per_node:
            for r in rows:
                if not is_decided(alive[r]):
                    alive[r] = [False] * len(group.columns)
    return alive


class GreedySchedule(Schedule):
    """Takes the decisions of one SGAS search.

    Attributes:
        trace: decisions in order.
    """

    def __init__(self, strategy: SGAS) -> None:
        self.strategy = strategy
        self.trace: list[GreedyDecision] = []
        self._history: dict[str, list[Tensor]] = {}

    def epochs_needed(self, search: GradientSearch) -> int | None:
        """Return the epochs that decide all edges, one at a time in each cell label and elsewhere."""
        open_groups = [group for group in search.supernet.groups.values() if takes_part(group)]
        for group in open_groups:
            for name, candidates in zip(group.rows, offered_mask(group, torch.zeros(0)), strict=True):
                if candidates.sum() < 2:
                    raise SpaceError(
                        f"SGAS decides edge after edge by what is uncertain on it; edge {name} of cell "
                        f"{group.label!r} has {int(candidates.sum())} candidates. Use DARTS, or give it two."
                    )
        cells = [group.cell for group in open_groups if group.kind == "cell"]
        edges = [
            sum(min(cell.num_ops_per_node, len(cell.rows_into(node))) for node in cell.nodes)
            for cell in cells
        ]
        decisions = max(len(open_groups) - len(cells), *edges, 0)
        if not decisions:
            return None
        return self.strategy.first_decision + (decisions - 1) * self.strategy.period + 1

    def train_start(self, search: GradientSearch) -> None:
        """Enlarge the batches of a resumed search as before."""
        self._enlarge_batches(search)

    def epoch_end(self, search: GradientSearch, epoch: int) -> None:
        """Decide if it is time, then record this epoch."""
        tables = self._tables(search)
        since = epoch - self.strategy.first_decision
        if since >= 0 and since % self.strategy.period == 0:
            groups = search.supernet.groups
            for label in tables:
                if groups[label].kind == "cell":
                    self._decide(search, {label: tables[label]}, epoch)
            self._decide(search, {x: t for x, t in tables.items() if groups[x].kind != "cell"}, epoch)
            self._enlarge_batches(search)
        for label, table in tables.items():
            self._history[label] = [*self._history.get(label, ()), without_none(table)][
                -self.strategy.window :
            ]

    def _tables(self, search: GradientSearch) -> dict[str, Tensor]:
        """Return probabilities as if nothing were pruned: decided edges keep taking part in scores."""
        tables = {}
        for label, group in search.supernet.groups.items():
            if takes_part(group):
                logits = search.parameters.logits[label].detach().double().cpu()
                offered = offered_mask(group, logits)
                if group.kind == "cell":
                    offered = torch.nn.functional.pad(offered, (1, 0), value=True)
                table = masked_softmax(logits, offered)
                tables[label] = table[:, 1:] if group.kind == "cell" else table
        return tables

    def _decide(self, search: GradientSearch, tables: dict[str, Tensor], epoch: int) -> None:
        """Decide one edge among those of `tables`."""
        groups = search.supernet.groups
        places = [(label, row) for label in tables for row in range(len(groups[label].rows))]
        is_open = [sum(groups[label].alive[row]) > 1 for label, row in places]
        if not any(is_open):
            return
        histories = [self._history.get(label, ()) for label in tables]
        scores = edge_scores(list(tables.values()), histories, self.strategy.criterion)
        position = next_edge(scores.score, [i for i, undecided in enumerate(is_open) if undecided])
        label, row = places[position]
        alive = torch.tensor(groups[label].alive[row])
        operation = int(tables[label][row].masked_fill(~alive, -1).argmax())
        parts = (scores.score, scores.importance, scores.certainty, scores.stability)
        self.trace.append(GreedyDecision(epoch, label, row, operation, *(float(p[position]) for p in parts)))
        search.supernet.prune({label: decide(groups[label], row, operation)})

    def _enlarge_batches(self, search: GradientSearch) -> None:
        times = len({decision.epoch for decision in self.trace})  # cells decide together
        if self.strategy.batch_growth and times:
            search.enlarge_batches(times * self.strategy.batch_growth)

    def summary(self, search: GradientSearch) -> dict[str, Any]:
        """Return the trace, with names."""
        groups = search.supernet.groups
        return {
            "decisions": [
                {
                    **dataclasses.asdict(decision),
                    "row": groups[decision.group].rows[decision.row],
                    "operation": groups[decision.group].columns[decision.operation],
                }
                for decision in self.trace
            ]
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "trace": [list(dataclasses.astuple(decision)) for decision in self.trace],
            "history": {label: torch.stack(tables) for label, tables in self._history.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trace = [GreedyDecision(*entry) for entry in state["trace"]]
        self._history = {label: list(tables) for label, tables in state["history"].items()}
