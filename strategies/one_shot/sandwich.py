"""Sandwich: the largest, the smallest and random sizes on every batch, with in-place distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spacelang.errors import require_integer
from spacelang.language import Architecture
from spacelang.supernet import Supernet

from ..framework import Call, ElasticSearch, ElasticTraining


@dataclass(frozen=True, kw_only=True)
class Sandwich(ElasticTraining):
    """The sandwich rule for any space with sizes to choose: widths, depths, kernels, heads.

    Every batch trains the largest network, the smallest, and `random` random ones. The largest learns from
    the targets, L_0 = loss(y_0, t), the others from its output alone, L_i = distance(y_i, y_0), through which
    no gradient reaches the largest. The step follows the gradient of L_0 + L_1 + ...

    Sizes are depths, and arguments of layers that are numbers. Other choices, such as layers, are drawn for
    each network. At the end random architectures are compared with batch-norm statistics of their own, by
    weights that need no further training; `experiment.pareto_from_supernet` searches more of them.

    Args:
        random: Number of random networks a batch; 2 in the papers.

    Sources: universally slimmable networks, Yu and Huang 2019, arXiv:1903.05134, algorithm 1; BigNAS, Yu et
    al. 2020, arXiv:2003.11142, section 3.
    """

    random: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("random", self.random, least=0)

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> SandwichSearch:
        return SandwichSearch(self, supernet, **settings)


class SandwichSearch(ElasticSearch):
    """A search by the sandwich rule."""

    strategy: Sandwich
    _teacher: Tensor

    def paths(self) -> list[Architecture]:
        """Return the largest network, the smallest and random ones."""
        return [*self.extremes(), *(self.random() for _ in range(self.strategy.random))]

    def path_loss(self, place: int, loss: Tensor, call: Call) -> Tensor:
        """Return the loss of the largest network, or the distance of another to it."""
        if place == 0:
            self._teacher = call.output.detach()
            return loss
        return self.strategy.distance(call.output, self._teacher)
