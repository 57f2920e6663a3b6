"""What is left when every edge loses its least probable operations, `none` among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spacelang.supernet import Group, Supernet

from .._framework._operations import operations
from .._framework._relaxation import Softmax, alive_mask, masked_softmax

if TYPE_CHECKING:
    from .._framework._gradient_search import GradientSearch


@dataclass(frozen=True)
class SurvivorSoftmax(Softmax):
    """Softmax over the operations that earlier stages have left, `none` too only where they have left it.

    Args:
        without_none: by label, rows whose `none` was dropped.
    """

    without_none: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def survivors(self, group: Group, like: Tensor) -> Tensor:
        """Which logits take part, boolean, in the shape of the group's logits."""
        alive = alive_mask(group, like)
        if not self._has_none(group):
            return alive
        dropped = self.without_none.get(group.label, frozenset())
        none = torch.tensor([[row not in dropped] for row in range(len(group.rows))], device=like.device)
        return torch.cat([none, alive], dim=1)

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        if group.is_subset:
            return super().probabilities(group, logits)
        table = masked_softmax(logits, self.survivors(group, logits))
        return table[:, 1:] if self._has_none(group) else table


def drop_least_probable(previous: GradientSearch, supernet: Supernet, count: int) -> SurvivorSoftmax:
    """Prune from `supernet` what is least probable at the end of another search of the same groups.

    Returns:
        The relaxation of what is left, in which `none` may be dropped too.
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
        logits: (rows, columns).
        survivors: boolean, (rows, columns).
        count: how many go.
        none: whether column 0 is that of `none`, which is no operation.

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
