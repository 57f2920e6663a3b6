"""PC-DARTS: partial channels and edge normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang import ModelSpace, Supernet
from spacelang.errors import require_integer
from spacelang.supernet import Group

from ..framework import Differentiable, Mixture, Moment, Softmax, alive_mask, masked_softmax
from .partial import partial_supernet


@dataclass(frozen=True, kw_only=True)
class PCDARTS(Differentiable):
    """Search with a part of the channels, which allows larger batches, and with a weight for each edge.

    On an edge of a cell the first C/K channels go through the mixture of DARTS; the others pass by,
    max-pooled where the edge has stride 2, and all are shuffled. As few channels make a noisy choice of
    edges, a node weighs them by a second softmax, over beta:

        node_j = sum_{i<j} softmax(beta_j)_i * edge_ij(node_i)

    and an architecture keeps what has the largest softmax(alpha)_k * softmax(beta_j)_i. Choices outside cells
    are those of DARTS. An `instance` exported from the search has partial channels; to retrain, build the
    architecture dict with all of them.

    Args:
        partial: K; 4 in the paper for CIFAR-10, 2 for ImageNet; 1 for all channels and edge weights alone.
        none: Zero operation, as in `DARTS`.
        warmup_epochs: Epochs that train weights alone; 15 of 50 in the paper (35 for ImageNet).

    Source: PC-DARTS, Xu et al. 2020, arXiv:1907.05737, sections 3.2 and 3.3.
    """

    partial: int = 4
    none: bool = True
    learning_rate: float = 6e-4
    warmup_epochs: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("partial", self.partial, least=1)

    @property
    def relaxation(self) -> EdgeSoftmax:
        return EdgeSoftmax(self.none)

    def supernet(self, space: ModelSpace, stage: int = 0) -> Supernet:
        return partial_supernet(space, self.partial)


@dataclass(frozen=True)
class EdgeSoftmax(Softmax):
    """w_{e,k} = softmax(alpha_e)_k and, for the edges into each node of a cell, b_e = softmax(beta)_e.

    In a cell beta is the last column of the logits, so that one Adam steps both; pruned edges have no share.

    Args:
        none: Zero operation, as in `Softmax`.
    """

    def shape(self, group: Group) -> tuple[int, int]:
        rows, columns = super().shape(group)
        return rows, columns + (group.kind == "cell")

    def probabilities(self, group: Group, logits: Tensor) -> Tensor:
        if group.kind != "cell":
            return super().probabilities(group, logits)
        return edge_weights(group, logits)[:, None] * super().probabilities(group, logits[:, :-1])

    def edge_shares(self, group: Group, logits: Tensor) -> Tensor | None:
        return edge_weights(group, logits) if group.kind == "cell" else None

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        if group.kind != "cell":
            return super().mixture(group, logits, moment)
        return Mixture(super().probabilities(group, logits[:, :-1]), edges=edge_weights(group, logits))


def edge_weights(group: Group, logits: Tensor) -> Tensor:
    """Return the softmax of beta, the last column, over the edges into each node, (rows,)."""
    alive = alive_mask(group, logits).any(dim=1)
    nodes = (list(group.cell.rows_into(node)) for node in group.cell.nodes)
    return torch.cat([masked_softmax(logits[rows, -1], alive[rows]) for rows in nodes])
