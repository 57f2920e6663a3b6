"""Batch normalisation of one path, since running statistics mixed from many paths fit none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from ..errors import SpaceError


def recalibrate(module: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Estimate the running statistics of every batch norm again: the mean over some forward passes.

    The passes run in training mode and without gradients. Modes and momenta are as before afterwards; a
    module without running statistics is left alone and runs nothing.

    Args:
        module: A plain model, a supernet with one architecture selected, or a module that holds one.
        forwards: Functions that each run `module` on a training batch; called one by one.

    Raises:
        SpaceError: There is no pass.

    Source: single path one-shot, Guo et al. 2020, arXiv:1904.00420, section 3.4.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    modes = [(child, child.training) for child in module.modules()]
    for norm in norms:
        norm.reset_running_stats()
    try:
        module.train()
        passes = 0
        with torch.no_grad(), _batch_norms_with(momentum=None):  # None: a cumulative average
            for forward in forwards:
                forward()
                passes += 1
    finally:
        for child, training in modes:
            child.training = training
    if not passes:
        raise SpaceError("batch-norm statistics need at least one batch; none was given.")


@contextmanager
def batch_statistics() -> Iterator[None]:
    """Let batch norms use the statistics of their batch, in evaluation too, and remember none."""
    with _batch_norms_with(training=True, track_running_stats=False):
        yield


@contextmanager
def _batch_norms_with(**attributes: Any) -> Iterator[None]:
    """Let batch norms run with these attributes.

    They are found when they are called, since an elastic layer also has those of its slices.
    """
    before: dict[nn.Module, dict[str, Any]] = {}

    def change(module: nn.Module, args: object) -> None:
        if isinstance(module, _BatchNorm):
            before.setdefault(module, {name: getattr(module, name) for name in attributes})
            vars(module).update(attributes)

    handle = register_module_forward_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()
        for module, values in before.items():
            vars(module).update(values)
