"""ZO-DARTS++: sizes searched late, within limits on the number of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from spacelang import SpaceError
from spacelang.costs import expected_cost
from spacelang.errors import quoted, require_integer, require_number
from spacelang.supernet import Group, Supernet

from ..framework import GradientSearch, Mixture, Moment, Phase, alive_mask
from .zodarts import Sparsemax, ZerothOrderSearch, ZODARTSPlus


@dataclass(frozen=True, kw_only=True)
class ZODARTSPlusPlus(ZODARTSPlus):
    """ZO-DARTS+ that also searches kernels and depths, from epoch `opened` on, for a network of a given size.

    Before, sizes are the largest. When they open, Adam begins again for all logits, and their loss gets

        penalty / T * ( max(P - upper, 0) + max(lower - P, 0) ) / 10^6

    with T the temperature and P the expected number of parameters under the present mixtures. The authors'
    space is `spacelang.hub.StagedCells`. Where sizes are given, use `ZODARTSPlus`; to trade accuracy for a
    cost in place of a limit, an extra `Penalty`.

    Args:
        opened: Epoch, from 0, in which sizes begin to be searched.
        sizes: Shell-style patterns of the labels of choices of numbers that open then.
        lower, upper: Limits of P; None for no upper one.
        penalty: Factor.

    Source: ZO-DARTS++, 2025, arXiv:2503.06092, and the authors' code.
    """

    opened: int = 20
    sizes: tuple[str, ...] = ("*/kernel", "*/depth")
    lower: float = 0.0
    upper: float | None = None
    penalty: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("opened", self.opened, least=0)
        require_number("lower", self.lower, least=0)
        require_number("upper", self.upper, least=self.lower, optional=True)
        require_number("penalty", self.penalty, least=0)

    @property
    def relaxation(self) -> LateSparsemax:
        settings = (self.none, self.temperature, self.cooling, self.cooled_every)
        return LateSparsemax(*settings, self.opened, self.sizes)

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        for label, group in supernet.groups.items():
            is_number = all(isinstance(value, int | float) for value in group.columns)
            if _matches(label, self.sizes) and (group.kind != "choice" or not is_number):
                raise SpaceError(
                    f"sizes={self.sizes!r} matches {label!r}, whose candidates are {quoted(group.columns)}; "
                    "only choices of numbers can be kept at their largest."
                )

    def unused_features(self, supernet: Supernet) -> list[str]:
        if any(_matches(label, self.sizes) for label in supernet.groups):
            return []
        return [f"no choice of this space matches sizes={self.sizes!r}, so none opens late."]

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> SizeSearch:
        return SizeSearch(self, supernet, **settings)

    def objective(self, loss: Tensor, search: GradientSearch, phase: Phase) -> Tensor:
        epoch = search.moment.epoch
        if phase == "weights" or epoch < self.opened:
            return loss
        assert isinstance(search, SizeSearch)
        excess = self.excess(search.expected_parameters())
        return loss + self.penalty / self.relaxation.temperature_at(epoch) * excess / 1e6

    def excess(self, parameters: Tensor) -> Tensor:
        """Return by how much a number of parameters misses the limits."""
        below = F.relu(self.lower - parameters)
        return below if self.upper is None else below + F.relu(parameters - self.upper)


def _matches(label: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(label, pattern) for pattern in patterns)


@dataclass(frozen=True)
class LateSparsemax(Sparsemax):
    """`Sparsemax` in which sizes have the one-hot of their largest candidate until they open.

    Args:
        opened, sizes: See `ZODARTSPlusPlus`.
    """

    opened: int = 20
    sizes: tuple[str, ...] = ()

    def rests(self, group: Group, epoch: int) -> bool:
        """Return whether a group has not opened yet."""
        return epoch < self.opened and _matches(group.label, self.sizes)

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if not self.rests(group, moment.epoch):
            return super().mixture(group, logits, moment)
        alive = alive_mask(group, logits)[0]
        largest = max((k for k in range(len(alive)) if alive[k]), key=lambda k: group.columns[k])
        weights = torch.zeros_like(logits)
        weights[0, largest] = 1
        return Mixture(weights, weights.bool().tolist())


class SizeSearch(ZerothOrderSearch):
    """A search whose sizes open late."""

    strategy: ZODARTSPlusPlus

    def __init__(self, strategy: ZODARTSPlusPlus, supernet: Supernet, **settings: Any) -> None:
        super().__init__(strategy, supernet, **settings)
        self._cost = expected_cost(supernet, "params")

    def expected_parameters(self) -> Tensor:
        """Return P under the mixtures that the supernet computes with, differentiable in the logits."""
        weights = {label: group.weights for label, group in self.supernet.groups.items()}
        return self._cost({label: table for label, table in weights.items() if table is not None})

    def resting(self) -> set[str]:
        """Return the sizes that have not opened."""
        relaxation, epoch = self.strategy.relaxation, self.moment.epoch
        return {label for label, group in self.supernet.groups.items() if relaxation.rests(group, epoch)}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin Adam again when the sizes open."""
        super().on_train_epoch_start(trainer, pl_module)
        if trainer.current_epoch == self.strategy.opened:
            self.parameters.optimizer.state.clear()
