"""SETN: weights trained on random networks, logits on mixtures, and the most probable networks compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.errors import require_integer
from spacelang.supernet import Group

from ..framework import Derivation, Differentiable, Judge, Mixture, Moment, Softmax, alive_mask
from .proxyless import sampled


@dataclass(frozen=True, kw_only=True)
class SETN(Differentiable):
    """Train weights on uniformly random networks, so that all candidates are trained alike.

    A step of the weights runs one uniformly drawn candidate of each choice; a step of the logits computes
    with softmax(alpha) of all. In the end the `candidates` most probable architectures are compared on
    validation batches with the shared weights, and ranked so. Logits then cannot favour what they have let
    train; prefer DARTS where the mixture should adapt the weights to itself.

    Args:
        candidates: Number of architectures that are compared.
        validation_batches: Number of batches on which they are; None for all.
        calibration_batches: Training batches from which each one's batch-norm statistics are estimated; 0
            uses those of each validation batch.

    Source: SETN, Dong and Yang 2019, arXiv:1910.05733, and the authors' code.
    """

    candidates: int = 100
    validation_batches: int | None = 1
    calibration_batches: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("candidates", self.candidates, least=1)
        require_integer("validation_batches", self.validation_batches, least=1, optional=True)
        require_integer("calibration_batches", self.calibration_batches, least=0)

    @property
    def relaxation(self) -> UniformSample:
        return UniformSample(none=False)

    @property
    def samples_paths(self) -> bool:
        return True

    @property
    def derivation(self) -> Derivation:
        if self.derive != "probabilities":
            return super().derivation
        return Judge(
            sample=0,
            top=self.candidates,
            validation_batches=self.validation_batches,
            calibration_batches=self.calibration_batches,
        )


@dataclass(frozen=True)
class UniformSample(Softmax):
    """One-hot of a uniformly drawn candidate in steps of the weights, softmax(alpha) in those of the logits.

    Of a set of inputs, `n_chosen` are drawn without replacement, or any set that is not empty.
    """

    none: bool = False

    def mixture(self, group: Group, logits: Tensor, moment: Moment | None = None) -> Mixture:
        assert moment is not None
        if moment.phase == "logits":
            return super().mixture(group, logits, moment)
        alive = alive_mask(group, logits)
        if group.kind == "any_subset":
            drawn = alive & (torch.rand(logits.shape, generator=moment.generator) < 0.5).to(alive.device)
            drawn = drawn if drawn.any() else sampled(alive.float(), 1, moment.generator)
        else:
            drawn = sampled(alive.float(), group.n_chosen or 1, moment.generator)
        return Mixture(drawn.to(logits.dtype), drawn.tolist())
