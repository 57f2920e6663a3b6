"""Activation checkpointing: what a module keeps for the backward pass is computed again there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from .group import Group

Tables: TypeAlias = list[tuple[dict[str, Any], dict[str, Any]]]
"""Dictionaries of attributes, each with values for it."""


@dataclass(frozen=True)
class Recompute:
    """The computation of a part twice, in the forward and in the backward pass, with its inputs alone kept.

    The second pass is the first one bit for bit: it has the same mixture, tensors and random draws, whatever
    was set between them. What it writes to buffers, such as running statistics, is dropped. There is one pass
    without gradients, while compiling, and in forward-mode derivatives, whose tangents would be lost.

    Args:
        groups: Tables of the supernet.
    """

    groups: Sequence[Group]

    def __call__(self, module: nn.Module, compute: Callable[..., Any], inputs: Any, kwargs: Any) -> Any:
        """Return `compute(*inputs, **kwargs)`, a result of the tensors of `module`."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute(*inputs, **kwargs)
        leaves, structure = tree_flatten((inputs, kwargs))
        state = _State(module, self.groups)
        if any(map(_has_tangent, (*leaves, *state.differentiable()))):
            return compute(*inputs, **kwargs)

        def run(*leaves: Any) -> Any:
            inputs, kwargs = tree_unflatten(list(leaves), structure)
            return compute(*inputs, **kwargs)

        return checkpoint(run, *leaves, use_reentrant=False, context_fn=lambda: (nullcontext(), state))


class _State:
    """A module's tensors and the mixtures at one time; as a context manager, the module computes with them.

    Buffers are copied, here and for every time that the module computes, since computing changes them.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group]) -> None:
        self._mixtures: Tables = [(vars(group), group.computing()) for group in groups]
        holders = [child for child in module.modules() if child._parameters or child._buffers]
        self._parameters: Tables = [(child._parameters, dict(child._parameters)) for child in holders]
        self._buffers: Tables = _copied([(child._buffers, child._buffers) for child in holders])
        self._groups = groups
        self._before: Tables = []

    def differentiable(self) -> Iterator[object]:
        """Yield parameters and mixtures."""
        for _, values in (*self._parameters, *self._mixtures):
            yield from values.values()

    def __enter__(self) -> None:
        tensors = [*self._parameters, *_copied(self._buffers)]
        self._before = [(table, {name: table[name] for name in values}) for table, values in tensors]
        self._before += [(vars(group), group.computing()) for group in self._groups]
        _update([*tensors, *self._mixtures])

    def __exit__(self, *error: object) -> None:
        _update(self._before)


def _copied(tables: Tables) -> Tables:
    """Copy all tensors, each once."""
    copies = {t: t.detach().clone() for _, values in tables for t in values.values() if t is not None}
    return [(table, {name: copies.get(t) for name, t in values.items()}) for table, values in tables]


def _update(tables: Tables) -> None:
    for table, values in tables:
        table.update(values)


def _has_tangent(value: object) -> bool:
    """Return whether a forward-mode derivative is being taken of a tensor."""
    return isinstance(value, Tensor) and unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]
