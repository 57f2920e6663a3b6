"""Decision groups: the tables of a supernet that mixtures are set on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import SpaceError, quoted
from ..language import CellTopology, Decision, Interval, Subset
from ..language.context import replacing

Active: TypeAlias = tuple[tuple[int, ...], ...]
"""For each row of a group the columns that are executed, increasing; twice where two slots chose it."""

Transform: TypeAlias = Callable[[nn.Module, Tensor], Tensor]
"""Applied to the output of a candidate before it is weighted: `(candidate, output) -> output`."""


Kind: TypeAlias = Literal["choice", "subset", "any_subset", "cell"]
"""A group chooses one candidate, `n_chosen` of them, any non-empty set, or the edges of a cell."""


@dataclass
class Group:
    """One table of a supernet: a decision (one row), or a cell label (one row per edge).

    Args:
        label: Label of the decision, or of the cell.
        rows: Names of the rows; `"{source}->{node}"` for a cell.
        columns: Candidates.
        decisions: The decisions this table answers.
        topology: Topology of the cell, or None.

    Attributes:
        alive: Rows x columns, False where pruned, and where an edge of a cell does not have the candidate.
        weights: Mixture, (rows, columns), or None where every active weight is one.
        active: Columns executed in each row.
        edges: Weight of each row, (rows,), where a cell weighs its edges apart from their candidates.
        adds_gates: Whether a candidate that is not executed adds its weight as a plain number.
        silent: Rows x columns, candidates executed though their weight is zero; None for none.
        is_selected: Whether an architecture is selected (and this group active in it).
        is_exact: Whether a selected architecture is computed bit for bit as its frozen model.
        number: Number that an architecture selected of a range; else its default, and None of other groups.
        transform: Applied to the outputs of candidates; None for nothing.
        transforms: Classes of the candidates whose outputs it is applied to.
    """

    label: str
    rows: tuple[str, ...]
    columns: tuple[Any, ...]
    decisions: tuple[Decision, ...]
    topology: CellTopology | None = None
    alive: list[list[bool]] = field(init=False)
    weights: Tensor | None = field(init=False)
    active: Active = field(init=False)
    edges: Tensor | None = field(init=False, default=None)
    adds_gates: bool = field(init=False, default=False)
    silent: Sequence[Sequence[bool]] | None = field(init=False, default=None)
    is_selected: bool = field(init=False, default=False)
    is_exact: bool = field(init=False, default=True)
    number: float | None = field(init=False, default=None)
    transform: Transform | None = field(init=False, default=None)
    transforms: tuple[type[nn.Module], ...] = field(init=False, default=(nn.Module,))

    def __post_init__(self) -> None:
        columns, rows = range(len(self.columns)), range(len(self.rows))
        has = [set(columns if self.topology is None else self.topology.ranks(row)) for row in rows]
        self.alive = [[k in has[row] for k in columns] for row in rows]
        alive = torch.tensor(self.alive, dtype=torch.get_default_dtype())
        if isinstance(self.decisions[0], Interval):
            self.number = self.decisions[0].default
        self.mix(alive / alive.sum(dim=1, keepdim=True).clamp_min(1))

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        if replacing() is not None:  # while a supernet is being made its modules share their groups
            return self
        memo[id(self)] = twin = copy.copy(self)
        twin.alive = [list(row) for row in self.alive]
        return twin

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.rows), len(self.columns)

    @property
    def selected(self) -> Any:
        """Value of the decision in the selected architecture: a candidate, or the tuple of chosen inputs."""
        return self.chosen(self.active[0] if self.is_subset else self.active[0][0])

    def candidate(self, column: int) -> Any:
        """Return the candidate of a column; of a range the number it stands for at present."""
        return self.columns[column] if self.number is None else self.number

    def chosen(self, columns: int | tuple[int, ...]) -> Any:
        """Return the candidate of a column, or the tuple of those of a set."""
        return tuple(map(self.candidate, columns)) if isinstance(columns, tuple) else self.candidate(columns)

    @property
    def kind(self) -> Kind:
        """Kind of choice: "choice", "subset" (`n_chosen` of one row), "any_subset", or "cell"."""
        if self.topology is not None:
            return "cell"
        if not isinstance(self.decisions[0], Subset):
            return "choice"
        return "any_subset" if self.decisions[0].n_chosen is None else "subset"

    @property
    def is_subset(self) -> bool:
        """Whether several columns of the one row are chosen together."""
        return self.kind in ("subset", "any_subset")

    @property
    def n_chosen(self) -> int | None:
        """Number of columns chosen in the row of a "choice" or "subset"; None where it is not fixed."""
        if self.kind == "choice":
            return 1
        decision = self.decisions[0]
        return decision.n_chosen if isinstance(decision, Subset) else None

    @property
    def cell(self) -> CellTopology:
        """Topology of a cell.

        Raises:
            SpaceError: This group is not a cell; ask `kind` first.
        """
        if self.topology is None:
            raise SpaceError(f"{self.label!r} is a choice, not a cell; its group has no topology.")
        return self.topology

    def mix(
        self,
        weights: Tensor,
        active: Sequence[Sequence[bool]] | None = None,
        *,
        edges: Tensor | None = None,
        adds_gates: bool = False,
        silent: Sequence[Sequence[bool]] | None = None,
    ) -> None:
        """Compute with `weights`, (rows, columns); only columns that are alive and `active` are executed.

        Raises:
            SpaceError: Shapes do not fit.
        """
        self.check_mixture(weights, active, edges, silent)
        chosen = self.alive if active is None else active
        self.weights = weights
        self.edges = edges
        self.adds_gates = adds_gates
        self.silent = silent
        self.is_selected = False
        self.active = tuple(
            tuple(k for k in range(len(self.columns)) if alive[k] and row[k])
            for alive, row in zip(self.alive, chosen, strict=True)
        )

    def check_mixture(
        self, weights: object, active: object = None, edges: object = None, silent: object = None
    ) -> None:
        """Raise a `SpaceError` when `mix` would not fit."""
        shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        if shape != self.shape:
            raise SpaceError(
                f"the mixture of {self.label!r} has shape {shape}; expected a tensor of "
                f"(rows, candidates) = {self.shape}."
            )
        if edges is not None and (not isinstance(edges, Tensor) or edges.shape != self.shape[:1]):
            raise SpaceError(
                f"edges[{self.label!r}] must be a tensor of ({len(self.rows)},), a weight a row."
            )
        for name, table in (("active", active), ("silent", silent)):
            if table is not None:
                self.check_table(name, table)

    def check_table(self, name: str, table: Any) -> None:
        """Raise a `SpaceError` unless `table` is rows x columns."""
        try:
            fits = [len(row) for row in table] == [len(self.columns)] * len(self.rows)
        except TypeError:
            fits = False
        if not fits:
            raise SpaceError(f"{name}[{self.label!r}] must be nested (rows, candidates) = {self.shape}.")

    def check_prunable(self, alive: Sequence[Sequence[bool]]) -> None:
        """Raise a `SpaceError` unless `alive` fits and leaves a choice something to choose."""
        self.check_table("alive", alive)
        left = [[a and b for a, b in zip(*rows, strict=True)] for rows in zip(self.alive, alive, strict=True)]
        if self.kind != "cell" and not any(left[0]):
            raise SpaceError(
                f"alive[{self.label!r}] leaves none of {quoted(self.columns)}; leave at least one."
            )

    def check_alive(self, arch: Mapping[str, Any]) -> None:
        """Raise a `SpaceError` when an architecture needs a candidate that was pruned."""
        for r, row in enumerate(self._counts(arch)):
            for k, count in enumerate(row):
                if count and not self.alive[r][k]:
                    where = f" on edge {self.rows[r]}" if self.topology else ""
                    raise SpaceError(f"{self.label!r}: candidate {self.columns[k]!r}{where} was pruned.")

    def select(self, arch: Mapping[str, Any], *, exact: bool = True) -> None:
        """Compute with the one-hot mixture of an architecture; a group it leaves inactive runs nothing."""
        counts = self._counts(arch)
        self.active = tuple(tuple(k for k, n in enumerate(row) for _ in range(n)) for row in counts)
        self.weights = None
        self.edges = None
        self.adds_gates = False
        self.silent = None
        self.is_selected = any(self.active)
        self.is_exact = exact
        decision = self.decisions[0]
        if isinstance(decision, Interval) and self.is_selected:
            self.number = decision.parse(arch[decision.label])

    def computing(self) -> dict[str, Any]:
        """Return the attributes that `mix` and `select` set."""
        names = ("weights", "edges", "adds_gates", "silent", "is_selected", "is_exact", "active", "number")
        return {name: getattr(self, name) for name in names}

    def all_weights(self) -> Tensor:
        """Return the weight of every candidate, (rows, columns): one for each time that one is selected."""
        if self.weights is not None:
            return self.weights if self.edges is None else self.weights * self.edges[:, None]
        return torch.tensor([[float(row.count(k)) for k in range(len(self.columns))] for row in self.active])

    def _counts(self, arch: Mapping[str, Any]) -> list[list[int]]:
        """Return how often an architecture uses each entry of the table."""
        counts = [[0] * len(self.columns) for _ in self.rows]
        if any(decision.label not in arch for decision in self.decisions):
            return counts
        if self.kind == "cell":
            for node, slots in self.cell.chosen(arch).items():
                for source, rank in slots:
                    counts[self.cell.rows_into(node)[source]][rank] += 1
            return counts
        position = self.decisions[0].position(arch[self.decisions[0].label])
        for k in position if isinstance(position, tuple) else (position,):
            counts[0][k] = 1
        return counts

    def apply(self, candidate: nn.Module, output: Any) -> Any:
        """Return the output of a candidate after `transform`, which is applied to each of its tensors."""
        if self.transform is None or not self.changes(candidate):
            return output
        return tree_map_only(Tensor, partial(self.transform, candidate), output)

    def changes(self, candidate: nn.Module) -> bool:
        """Return whether `transform` is applied to the output of a candidate."""
        return self.transform is not None and isinstance(candidate, self.transforms)

    def weighted(self, row: int, column: int, term: Any) -> Any:
        """Return `weights[row, column] * edges[row] * term`; a term may hold several tensors."""
        if self.weights is None:
            return term
        if not isinstance(term, Tensor):
            return tree_map_only(Tensor, partial(self.weighted, row, column), term)
        if self.is_silent(row, column):
            term = term.detach()
        # A zero-dimensional weight leaves the dtype of a half-precision feature map as it is.
        weight = self.weights[row, column]
        return (weight if self.edges is None else weight * self.edges[row]) * term

    def is_silent(self, row: int, column: int) -> bool:
        """Return whether a candidate runs for the gradient of its weight alone."""
        return self.silent is not None and bool(self.silent[row][column])

    def gates(self, row: int) -> list[Tensor]:
        """Return the weights a row adds as plain numbers: those of live candidates that are not executed."""
        if not self.adds_gates or self.weights is None:
            return []
        idle = (k for k, alive in enumerate(self.alive[row]) if alive and k not in self.active[row])
        return [self.weights[row, k] for k in idle]
