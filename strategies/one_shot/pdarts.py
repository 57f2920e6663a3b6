"""P-DARTS: progressive DARTS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spacelang import ModelSpace, SpaceError
from spacelang.errors import quoted, require_integer
from spacelang.language import Architecture
from spacelang.randomness import torch_generators_kept
from spacelang.supernet import Group, Supernet

from ..extras import SkipDropout
from ..framework import (
    Differentiable,
    Extra,
    GradientSearch,
    Softmax,
    alive_mask,
    count_skips,
    masked_softmax,
    no_such_skips,
    operations,
    skips_of_cells,
    top_architectures,
)


@dataclass(frozen=True, kw_only=True)
class PDARTS(Differentiable):
    """Search in stages, each with a deeper network and fewer operations.

    A stage is a first-order DARTS search on the space rebuilt with other arguments, with new weights and
    logits, as long as the Trainer's `max_epochs` (the authors take 25). After it every edge, and every
    layer choice, loses its least probable operations, as long as it keeps two; `none`, which takes part in
    the softmax, may be one. The last stage is followed by the derivation: on each edge the most probable
    operation but `none`, and in each node the edges whose operation is most probable. Then, while a cell has
    more than `most_skips` skip connections, the least probable of them is ruled out and the cell is derived
    again.

    Args:
        overrides: Arguments of the space's constructor in each stage; their number is that of the stages.
        drops: Operations dropped after each stage but the last. With `none` an edge of eight operations
            has 8, 5 and 3, of which the derivation keeps one.
        skip_dropout: Rate p of dropout on the outputs of `nn.Identity` candidates in each stage. It falls
            with the epochs as in `SkipDropout`. By default those of the search command that the authors'
            repository gives (its script alone, without the command's options, has no dropout).
        most_skips: Most skip connections in a cell; None for no limit.
        cells: Shell-style pattern of the labels of the cells it holds for, each by itself.
        none: Zero operation, as in `DARTS`.
        warmup_epochs: Epochs of each stage that train weights alone.

    Source: P-DARTS, Chen et al. 2019, arXiv:1904.12760, sections 3.2 and 3.3, as in the authors' code.
    """

    overrides: tuple[Mapping[str, Any], ...] = ({"num_cells": 5}, {"num_cells": 11}, {"num_cells": 17})
    drops: tuple[int, ...] = (3, 2)
    skip_dropout: tuple[float, ...] = (0.1, 0.4, 0.7)
    most_skips: int | None = 2
    cells: str = "normal*"
    none: bool = True
    learning_rate: float = 6e-4
    warmup_epochs: int = 10
    gradient_clip: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.overrides)
        if stages < 1 or len(self.drops) != stages - 1 or len(self.skip_dropout) != stages:
            raise SpaceError(
                f"overrides={self.overrides} has {stages} stages, drops={self.drops} {len(self.drops) + 1} "
                f"and skip_dropout={self.skip_dropout} {len(self.skip_dropout)}; set n, n - 1 and n entries."
            )
        for i, count in enumerate(self.drops):
            require_integer(f"drops[{i}]", count, least=0)
        require_integer("most_skips", self.most_skips, least=0, optional=True)
        for p in self.skip_dropout:
            SkipDropout(p)  # raises for a bad rate

    @property
    def relaxation(self) -> SurvivorSoftmax:
        return SurvivorSoftmax(self.none)

    @property
    def stages(self) -> int:
        return len(self.overrides)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        if stage == 0:  # an error of a later stage should not wait for it
            with torch_generators_kept():
                for later in range(1, self.stages):
                    self._rebuilt(space, later)
        return Supernet(self._rebuilt(space, stage))

    def _rebuilt(self, space: ModelSpace, stage: int) -> ModelSpace:
        """Return the space of a stage.

        Raises:
            SpaceError: the space takes no such arguments, or has other decisions with them.
        """
        overrides = dict(self.overrides[stage])
        try:
            rebuilt = space.rebuild(**overrides)
        except SpaceError as error:
            raise SpaceError(
                f"PDARTS builds {type(space).__name__} again for each stage, for stage {stage + 1} of "
                f"{self.stages} with {overrides}: {error} Write PDARTS(overrides=...) with one dict of "
                "arguments for each stage."
            ) from error
        before, after = space.decision_space.by_label, rebuilt.decision_space.by_label
        if before != after:
            differing = sorted(x for x in before.keys() | after.keys() if before.get(x) != after.get(x))
            raise SpaceError(
                f"PDARTS searches the same decisions in every stage; {type(space).__name__} with {overrides} "
                f"has others in {quoted(differing)}. Write other PDARTS(overrides=...)."
            )
        return rebuilt

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        if self.most_skips is not None and skips_of_cells(supernet, "*") and not self._skips(supernet):
            what = f"PDARTS allows most_skips={self.most_skips} in cells"
            raise no_such_skips(supernet, self.cells, what)

    def extras_of(self, stage: int) -> tuple[Extra[Any], ...]:
        return (*self.extras, SkipDropout(self.skip_dropout[stage], self.warmup_epochs))

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> GradientSearch:
        relaxation = self.relaxation
        if previous is not None:
            relaxation = drop_least_probable(previous, supernet, self.drops[settings["stage"] - 1])
        return GradientSearch(self, supernet, relaxation=relaxation, **settings)

    def architectures(
        self, supernet: Supernet, probabilities: Mapping[str, Tensor], count: int
    ) -> list[Architecture]:
        if self.most_skips is None:
            return top_architectures(supernet, probabilities, count)
        tables = self.restricted(supernet, probabilities)
        wanted = count
        while True:
            found = top_architectures(supernet, tables, wanted)
            # The best one stays, even if its cells have too many skips, as then there are no others.
            good = [found[0], *(arch for arch in found[1:] if not self._excess(supernet, arch))]
            if len(good) >= count or len(found) < wanted:
                return good[:count]
            wanted *= 2

    def restricted(self, supernet: Supernet, probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return probabilities with zeros for skip connections, so many that few enough are derived."""
        tables = {label: table.clone() for label, table in probabilities.items()}
        while True:
            (arch,) = top_architectures(supernet, tables, 1)
            ruled_out = False
            for label in self._excess(supernet, arch):
                ruled_out |= _rule_out(
                    supernet.groups[label], tables[label], self._skips(supernet)[label], arch
                )
            if not ruled_out:
                return tables

    def _skips(self, supernet: Supernet) -> dict[str, set[int]]:
        return skips_of_cells(supernet, self.cells)

    def _excess(self, supernet: Supernet, arch: Architecture) -> list[str]:
        """Return the cells with too many skip connections."""
        assert self.most_skips is not None
        counts = count_skips(supernet, self._skips(supernet), arch)
        return [label for label, count in counts.items() if count > self.most_skips]


def _rule_out(group: Group, table: Tensor, skips: set[int], arch: Architecture) -> bool:
    """Set the smallest positive probability of a skip connection that `arch` chose to zero, if any."""
    chosen = [
        (float(table[row, k]), row, k)
        for node, slots in group.cell.chosen(arch).items()
        for source, k in slots
        for row in [group.cell.rows_into(node)[source]]
        if k in skips and table[row, k] > 0
    ]
    if chosen:
        _, row, k = min(chosen)
        table[row, k] = 0
    return bool(chosen)


@dataclass(frozen=True)
class SurvivorSoftmax(Softmax):
    """Softmax over the operations that earlier stages have left, and over `none` where they have left it.

    Args:
        without_none: Rows by label whose `none` was dropped.
    """

    without_none: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def survivors(self, group: Group, like: Tensor) -> Tensor:
        """Return which logits take part, boolean, in the shape of the group's logits."""
        alive = alive_mask(group, like)
        if not self.has_none(group):
            return alive
        dropped = self.without_none.get(group.label, frozenset())
        none = torch.tensor([[row not in dropped] for row in range(len(group.rows))], device=like.device)
        return torch.cat([none, alive], dim=1)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        if group.is_subset:
            return super().probabilities(group, logits)
        table = masked_softmax(logits, self.survivors(group, logits))
        return table[:, 1:] if self.has_none(group) else table


def drop_least_probable(previous: GradientSearch, supernet: Supernet, count: int) -> SurvivorSoftmax:
    """Prune the candidates of `supernet` that were least probable in another search of the same groups.

    Returns:
        The relaxation of the candidates left, in which `none` may be dropped too.
    """
    relaxation = previous.relaxation
    assert isinstance(relaxation, SurvivorSoftmax)
    alive: dict[str, list[list[bool]]] = {}
    without_none: dict[str, frozenset[int]] = {}
    for label in operations(supernet):
        group = previous.supernet.groups[label]
        logits = previous.parameters.logits[label].detach().cpu()
        none = logits.shape[1] > len(group.columns)
        left = keep_most_probable(logits, relaxation.survivors(group, logits), count, none=none)
        if none:
            without_none[label] = frozenset((~left[:, 0]).nonzero()[:, 0].tolist())
            left = left[:, 1:]
        alive[label] = left.tolist()
    supernet.prune(alive)
    return dataclasses.replace(relaxation, without_none=without_none)


def keep_most_probable(logits: Tensor, survivors: Tensor, count: int, *, none: bool) -> Tensor:
    """Drop of each row the `count` survivors with the smallest logits, but leave two operations.

    Of equal ones the first goes.

    Args:
        logits: Numbers, (rows, columns).
        survivors: Booleans, (rows, columns).
        count: Number of survivors to drop.
        none: Whether column 0 is that of `none`, which is not an operation.

    Returns:
        The survivors left, boolean, (rows, columns).
    """
    kept = survivors.clone()
    for row, order in zip(kept, logits.sort(dim=1, stable=True).indices.tolist(), strict=True):
        dropped = 0
        for k in order:
            is_none = none and k == 0
            if row[k] and dropped < count and (is_none or row[int(none) :].sum() > 2):
                row[k] = False
                dropped += 1
    return kept
