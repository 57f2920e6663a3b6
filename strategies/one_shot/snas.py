"""SNAS and DSNAS: weights and logits trained together, on the training loss of sampled networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.supernet import Group

from ..framework import Differentiable, Mixture, Moment, Softmax, alive_mask
from .gumbel import GumbelDARTS, gumbel


@dataclass(frozen=True, kw_only=True)
class SNAS(GumbelDARTS):
    """Search with soft Gumbel samples on a single level.

    Mixtures are those of `GumbelDARTS`. One backward pass of E_z[L_train] gives the gradients of weights and
    logits, and both step at once; no validation data decide. It takes half the passes of DARTS; prefer
    that, or `GumbelDARTS`, where training data are few enough to be learnt by heart. `Penalty` adds the
    paper's cost of resources. In spaces whose candidates include "none", such as `spacelang.hub.SNAS`, an
    edge whose most probable candidate is "none" is removed, as in the paper; elsewhere a node keeps as many
    edges as the space says.

    Source: SNAS, Xie et al. 2019, arXiv:1812.09926.
    """

    init_scale: float = 0.01

    @property
    def single_level(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class DSNAS(Differentiable):
    """Search with one sampled candidate per choice on a single level.

    A pass runs a candidate drawn from softmax(alpha) for each choice, with weight one. The backward pass
    gives the weights their gradient, and the logits that of their sample's log probability times dL/dw of its
    weight w. Memory and time are those of one path, as in `GDAS`, without a temperature to choose and
    without validation data.

    Source: DSNAS, Hu et al. 2020, arXiv:2002.09128.
    """

    @property
    def relaxation(self) -> ScoredSample:
        return ScoredSample(none=False)

    @property
    def single_level(self) -> bool:
        return True

    @property
    def samples_paths(self) -> bool:
        return True


@dataclass(frozen=True)
class ScoredSample(Softmax):
    """w = z (1 + log p - stop(log p)), z a one-hot sample of p = softmax(alpha): dL/dalpha = dL/dw d log p.

    A choice of a subset has the mixture of `Softmax`.
    """

    none: bool = False

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if group.is_subset:
            return super().mixture(group, logits, moment)
        alive = alive_mask(group, logits)
        log_p = logits.masked_fill(~alive, torch.finfo(logits.dtype).min).log_softmax(dim=1)
        drawn = (log_p.detach() + gumbel(logits.shape, moment.generator).to(log_p)).argmax(dim=1)
        z = torch.nn.functional.one_hot(drawn, logits.shape[1]).to(logits.dtype) * alive
        log_p = log_p.masked_fill(~alive, 0)
        return Mixture(z * (1 + log_p - log_p.detach()), z.bool().tolist())
