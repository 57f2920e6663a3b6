"""Operations as steps: a beginning that edges of one feature map share, and the rest.

Operations on one node begin alike: with a ReLU, with a pooling and its normalisation. These beginnings have
no parameters and give the same output, so a cell computes each of them once per node.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Exact types whose `__constants__` say all there is to know about what they compute.
_PURE = (nn.Identity, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d)


def _signature(module: nn.Module) -> Hashable | None:
    """Return a key for what a parameter-free module computes; None when it is not known to be one."""
    if type(module) not in _PURE or getattr(module, "inplace", False) or getattr(module, "affine", False):
        return None
    settings = tuple((name, getattr(module, name)) for name in getattr(module, "__constants__", ()))
    return type(module), settings


@runtime_checkable
class SampleScale(Protocol):
    """A module without parameters that multiplies each sample by a number, as drop path does."""

    def sample_factors(self, x: Tensor) -> Tensor | None:
        """Return the number of each sample of x, (N, 1, 1, 1), newly drawn; None for one everywhere."""


@dataclass(frozen=True)
class Steps:
    """An operation as a shared beginning and the rest.

    Args:
        shared: `(key, module)` of each shared step; the key stands for the whole beginning up to it, with its
            statistics.
        rest: Modules after it.
    """

    shared: tuple[tuple[Hashable, nn.Module], ...]
    rest: tuple[nn.Module, ...]

    @property
    def scale(self) -> SampleScale | None:
        """The rest, if it is nothing but a scale of each sample."""
        (last,) = self.rest if len(self.rest) == 1 else (None,)
        return last if isinstance(last, SampleScale) and not any(hooks(last)) else None

    @property
    def beginning(self) -> Steps:
        """The shared beginning alone."""
        return Steps(self.shared, ())

    @property
    def key(self) -> Hashable:
        """The key of the whole shared beginning; None if nothing is shared."""
        return self.shared[-1][0] if self.shared else None

    def __call__(self, x: Tensor, cache: dict[Hashable, Tensor]) -> Tensor:
        """Apply to a node's feature map `x`; `cache` holds the shared results of that node."""
        for key, module in self.shared:
            if key not in cache:
                cache[key] = module(x)
            x = cache[key]
        for module in self.rest:
            x = module(x)
        return x


def hooks(module: nn.Module) -> list[Mapping[int, Any]]:
    """Return the tables of the hooks on a module, without those on its children."""
    return [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]


def all_hooks(module: nn.Module) -> list[Mapping[int, Any]]:
    """Return the tables of the hooks on a module and on everything in it."""
    return [table for child in module.modules() for table in hooks(child)]


def split(operation: nn.Module) -> Steps:
    """Separate the shared beginning of an operation."""
    # A subclass of Sequential may compute anything, and a hook must see every call.
    plain = type(operation) is nn.Sequential and not any(hooks(operation))
    modules = list(operation.children()) if plain else [operation]
    shared: list[tuple[Hashable, nn.Module]] = []
    key: tuple[Hashable, ...] = ()
    for module in modules:
        signature = _signature(module)
        if signature is None or any(hooks(module)):
            break
        # Statistics are a module's own: alike are only those that `unify` made one.
        key = (*key, signature, id(module) if _has_statistics(module) else None)
        shared.append((key, module))
    return Steps(tuple(shared), tuple(modules[len(shared) :]))


def _has_statistics(module: nn.Module) -> bool:
    return next(module.buffers(), None) is not None


def unify(operations: list[nn.Module]) -> None:
    """Let operations on one node hold the same module objects in their shared beginnings.

    Running statistics of a shared normalisation are then updated once and seen by every edge. Beginnings
    whose statistics already differ are left apart.
    """
    owners: dict[Hashable, nn.Module] = {}
    for operation in operations:
        if type(operation) is not nn.Sequential:
            continue
        key: tuple[Hashable, ...] = ()
        for position, (_, module) in enumerate(split(operation).shared):
            key = (*key, _signature(module))
            owner = owners.setdefault(key, module)
            if not _same_buffers(owner, module):
                break
            operation[position] = owner


def separate(operations: list[nn.Module]) -> None:
    """Give every operation modules of its own again, with the present statistics."""
    seen: set[int] = set()
    for operation in operations:
        for name, module in operation.named_children():
            if id(module) in seen:
                operation.add_module(name, copy.deepcopy(module))
            seen.add(id(module))


def _same_buffers(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))
