"""DARTS-: an auxiliary skip connection that fades away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from spacelang import Cell, ModelSpace, SpaceError, Supernet
from spacelang.errors import require_integer, require_number, require_one_of
from spacelang.language import CellFrame, Further
from spacelang.supernet import Builder, Cache, Group, MixedCell

from ..framework import GradientSearch, Schedule
from .darts import DARTS
from .partial import slimmed

Decay = Literal["linear", "cosine", "slow_cosine", "none"]


@dataclass(frozen=True, kw_only=True)
class DARTSMinus(DARTS):
    """Add a skip connection to every edge of a cell, next to its candidates, with a weight that decays.

        edge(x) = beta aux(x) + sum_k softmax(alpha)_k f_k(x)

    The skip candidate then does not profit from the gradient that any skip lets through, so fewer win. aux
    is a module of its own, like the edge's skip candidate: the identity, or where the map is halved one with
    weights. An edge without such a candidate has the identity. An architecture has no aux.

    Args:
        auxiliary: "skip" as above; "conv" has a 1x1 convolution that begins as the identity in its place.
        decay: Form of the decay of beta, see `auxiliary_weight`.
        scale: First beta.
        shorten: Epochs by which the decay is shortened; beta decays from the first epoch all the same, as in
            the authors' code.
        stop: Last epoch in which beta changes; None for the last of the search.

    Source: DARTS-, Chu et al. 2021, arXiv:2009.01027, and the authors' code.
    """

    auxiliary: Literal["skip", "conv"] = "skip"
    decay: Decay = "linear"
    scale: float = 1.0
    shorten: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("auxiliary", self.auxiliary, ("skip", "conv"))
        require_one_of("decay", self.decay, ("linear", "cosine", "slow_cosine", "none"))
        require_number("scale", self.scale, least=0)
        require_integer("shorten", self.shorten, least=0)
        require_integer("stop", self.stop, least=0, optional=True)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        return Supernet(space.rebuild(), builder=AuxiliaryBuilder(self.auxiliary == "conv"))

    def make_schedule(self) -> AuxiliaryDecay:
        return AuxiliaryDecay(self)

    def unused_features(self, supernet: Supernet) -> list[str]:
        if any(isinstance(module, AuxiliaryCell) for module in supernet.modules()):
            return []
        return ["auxiliary skip connections are added to cells, and this space has none; this is DARTS."]


def auxiliary_weight(
    decay: Decay, epoch: int, epochs: int, *, scale: float = 1.0, shorten: int = 0, stop: int | None = None
) -> float:
    """Return beta of an epoch.

    With T = `epochs` - `shorten` it is `scale` times (epochs - epoch) / T ("linear"), (1 + cos(pi epoch / T))
    / 2 ("cosine"), cos(pi epoch / 2T) ("slow_cosine") or 1 ("none"). After `stop` it stays.
    """
    epoch = epoch if stop is None else min(epoch, stop)
    length = max(epochs - shorten, 1)
    if decay == "linear":
        return scale * (epochs - epoch) / length
    if decay == "cosine":
        return scale * (1 + math.cos(math.pi * epoch / length)) / 2
    return scale * math.cos(math.pi / 2 * epoch / length) if decay == "slow_cosine" else scale


class AuxiliaryDecay(Schedule):
    """Sets and records beta in every epoch."""

    def __init__(self, strategy: DARTSMinus) -> None:
        self.strategy = strategy

    def epoch_start(self, search: GradientSearch, epoch: int) -> None:
        strategy = self.strategy
        beta = auxiliary_weight(
            strategy.decay,
            epoch,
            search.moment.epochs,
            scale=strategy.scale,
            shorten=strategy.shorten,
            stop=strategy.stop,
        )
        search.record("auxiliary_weight", beta)
        for module in search.supernet.modules():
            if isinstance(module, AuxiliaryCell):
                module.beta = beta


class AuxiliaryBuilder(Builder):
    """Builds cells with auxiliary skip connections.

    Args:
        learned: Whether a 1x1 convolution takes the place of the identity.
    """

    def __init__(self, learned: bool = False) -> None:
        super().__init__()
        self.learned = learned

    def mixed_cell(self, cell: Cell) -> nn.Module:
        """Relax a `Cell`."""
        auxiliaries = nn.ModuleList(
            _auxiliary(
                dict(zip(cell.topology.operations, edge.children(), strict=True)), cell.label, self.learned
            )
            for edge in cell.edges
        )
        return AuxiliaryCell(self.cell_group(cell.topology), cell.frame, cell.edges, auxiliaries)


def _auxiliary(candidates: dict[str, nn.Module], label: str, learned: bool) -> nn.Module:
    """Return a module like the skip candidate of an edge, its weights newly drawn."""
    skips = (m for name, m in candidates.items() if "skip" in str(name).lower() or isinstance(m, nn.Identity))
    auxiliary = slimmed(next(skips, nn.Identity()), 1)
    if not (learned and isinstance(auxiliary, nn.Identity)):
        return auxiliary
    convs = (part for module in candidates.values() for part in module.modules())
    channels = next((conv.in_channels for conv in convs if isinstance(conv, nn.Conv2d)), None)
    if channels is None:
        raise SpaceError(
            f"auxiliary='conv' needs the channels of cell {label!r}, and none of its candidates is a "
            "convolution; use auxiliary='skip'."
        )
    identity = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(identity.weight)
    return identity


class AuxiliaryCell(MixedCell):
    """A cell whose edges add beta aux(x) to their mixtures.

    Args:
        group, frame, edges: See `MixedCell`.
        auxiliaries: One module for each edge.

    Attributes:
        beta: Weight of the auxiliaries; a selected architecture is computed without them.
    """

    def __init__(
        self, group: Group, frame: CellFrame, edges: nn.ModuleList, auxiliaries: nn.ModuleList
    ) -> None:
        super().__init__(group, frame, edges)
        self.auxiliaries = auxiliaries
        self.beta = 0.0

    def edge_terms(self, row: int, x: Any, cache: Cache, further: Further) -> list[tuple[object, Any]]:
        terms = super().edge_terms(row, x, cache, further)
        if self.group.weights is not None and self.beta and any(self.group.alive[row]):
            terms.append(("the auxiliary skip", self.beta * self.auxiliaries[row](x)))
        return terms
