"""A check of a network's wiring by the statistics that its batch norms kept from training.

Two operations of one kind have weights of equal shapes, so a state dict loads into a network whose
connections are others. But then layers see inputs of another distribution than in training.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.errors import SpaceError

MOST_DIVERGENCE = 0.03
"""Largest divergence of a norm in a network that is wired as in training.

In the trained `darts-digits` the largest is 0.008 on 16 images, and 0.043 to 0.13 with the two inputs of one
node exchanged. A variance of 0.8 times that of training, as drop path of 0.2 leaves, gives 0.012.
"""


@dataclass(frozen=True)
class NormCheck:
    """Result of `check_norms`: the number of norms, and the one that differs most."""

    norms: int
    worst: str
    divergence: float

    @property
    def passed(self) -> bool:
        """Return whether the network computes on the images what it computed in training."""
        return self.divergence <= MOST_DIVERGENCE


@torch.no_grad()
def check_norms(model: nn.Module, images: Tensor) -> NormCheck:
    """Compare each batch norm's statistics of some images with those it kept from training.

    Norms compute with the statistics of the images, as in training, so that a difference stays where it
    arises. The divergence of a norm is the median over its channels of KL(images || training), in nats, of
    normal distributions with these means and variances. The model is not changed.

    Args:
        model: A fixed network.
        images: Images prepared as in training, (N, C, H, W).

    Raises:
        SpaceError: the network has no batch norms, or cannot compute these images.
    """
    model = deepcopy(model).eval()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms:
        raise SpaceError(f"{type(model).__name__} has no batch norms, so its wiring cannot be checked.")
    found: dict[str, float] = {}
    for name, norm in norms.items():
        norm.train().register_forward_pre_hook(partial(_record, found, name))
        norm.momentum = 0.0  # keeps the statistics of training
    try:
        model(images)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        told = f"images of shape {tuple(images.shape)}: {reason}"
        raise SpaceError(f"{type(model).__name__} cannot compute {told}") from error
    worst = max(found, key=lambda name: found[name])
    return NormCheck(len(found), worst, found[worst])


def _record(found: dict[str, float], name: str, norm: Any, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0].transpose(0, 1).flatten(1).double()  # (C, N * H * W)
    variance, trained = x.var(1, correction=0) + norm.eps, norm.running_var.double() + norm.eps
    ratio = variance / trained
    shift = (x.mean(1) - norm.running_mean).square() / trained
    divergence = (ratio + shift - 1 - ratio.log()) / 2
    found[name] = divergence.median().nan_to_num(torch.inf).item()
