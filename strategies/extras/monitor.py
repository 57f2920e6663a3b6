"""Monitor: the troubles of a differentiable search in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from spacelang import SpaceError
from spacelang.errors import require_integer
from spacelang.supernet import Supernet

from ..framework import (
    GradientSearch,
    LogitsExtra,
    OneShot,
    chosen_columns,
    count_skips,
    skips,
    validation_eigenvalue,
)


@dataclass(frozen=True)
class Monitor(LogitsExtra):
    """A record of how many operations are skip connections and, if wished, of the curvature.

    After every epoch `skip_ratio/{label}` is the share of skip connections (candidates with "skip" in their
    name, or that are an `nn.Identity`) among the operations that the derived architecture has in the cells
    of that label; `skip_ratio/layers` that of all layer choices. `eigenvalue` is the largest one of the
    Hessian of the validation loss in the logits. Both are in `search.records` and in the logs; measuring
    them leaves the search as it would have been.

    Args:
        eigenvalue: Whether to measure it, on one validation batch, by some tens of passes forwards and back.
        every: Epochs between two measurements of it.

    Source: R-DARTS, Zela et al. 2020, arXiv:1909.09656, section 4.
    """

    eigenvalue: bool = False
    every: int = 1

    def __post_init__(self) -> None:
        require_integer("every", self.every, least=1)

    def check(self, strategy: OneShot, supernet: Supernet) -> None:
        super().check(strategy, supernet)
        if not self.eigenvalue and not skips(supernet):
            raise SpaceError(
                "Monitor() records the share of skip connections, but no operation of this space is one: an "
                "nn.Identity, or with 'skip' in its name. Write Monitor(eigenvalue=True), or leave it out."
            )

    def epoch_end(self, search: GradientSearch) -> None:
        for name, ratio in skip_ratios(search).items():
            search.record(f"skip_ratio/{name}", ratio)
        if self.eigenvalue and search.moment.epoch % self.every == 0:
            search.record("eigenvalue", validation_eigenvalue(search))


def skip_ratios(search: GradientSearch) -> dict[str, float]:
    """Return the share of skip connections in the derived architecture, for each cell and for all layers."""
    supernet, arch = search.supernet, search.derive()[0]
    totals: dict[str, list[int]] = {}
    for label, skipped in count_skips(supernet, skips(supernet), arch).items():
        group = supernet.groups[label]
        total = totals.setdefault(label if group.kind == "cell" else "layers", [0, 0])
        total[0] += skipped
        total[1] += len(chosen_columns(group, arch))
    return {name: skipped / max(chosen, 1) for name, (skipped, chosen) in totals.items()}
