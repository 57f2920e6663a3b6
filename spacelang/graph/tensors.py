"""Tensors: example inputs, those in nested arguments, and where each of them comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import SpaceError
from .flop_mode import PLAIN, Known, Operations
from .regions import End

T = TypeVar("T")
Sources = frozenset[End]


def example_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Return the positional arguments of a forward pass; a tensor alone is one.

    Raises:
        SpaceError: `example_inputs` is neither a tensor nor a tuple.
    """
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    raise SpaceError(
        f"example_inputs is a {type(example_inputs).__name__}; expected a tensor, or a tuple of the "
        "positional arguments of forward."
    )


def tensor_arguments(example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the positional arguments of a forward pass that gets tensors alone.

    Raises:
        SpaceError: not a tensor or a non-empty tuple of tensors, or a tensor without dimensions or elements.
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise SpaceError(
                f"example_inputs has a {type(tensor).__name__} at position {position}; expected a tensor, or "
                "a tuple of tensors, for example torch.zeros(1, 3, 32, 32)."
            )
    if not inputs or any(tensor.dim() == 0 or len(tensor) == 0 for tensor in inputs):
        raise SpaceError(
            f"example_inputs has shapes {_written(inputs)}; every tensor has dimensions and elements."
        )
    return inputs


def _written(inputs: Iterable[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in inputs) or "nothing"


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) in (list, tuple):  # most of what operations get; torch's own search is much slower
        return [tensor for item in value for tensor in tensors_in(item)]
    if type(value) is dict:
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, PLAIN):
        return []
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def without_data(tensor: Tensor) -> Tensor:
    """Return a tensor or parameter like another on the meta device."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Replace every tensor in nested lists, tuples and dicts."""
    return tree_map_only(Tensor, function, value)  # type: ignore[no-any-return]


class Flow(Operations):  # type: ignore[no-untyped-call]
    """Also notes, for everything computed while it is active, which feature maps it was computed from.

    Knowledge is kept by storage, so that views and operations in place need no treatment of their own.
    """

    def __init__(self, known: Known) -> None:
        super().__init__(known)
        # Storages are kept alive: the address of a freed one could come back as another.
        self._sources: dict[int, tuple[torch.UntypedStorage, Sources]] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().run(func, args, kwargs)
        joined = self.sources((args, kwargs))
        for tensor in tensors_in(result):
            self._note(tensor, joined)
        return result

    def _note(self, tensor: Tensor, sources: Sources) -> None:
        storage = tensor.untyped_storage()
        self._sources[storage._cdata] = storage, sources

    def sources(self, value: Any) -> Sources:
        """Feature maps that the tensors in `value` were computed from."""
        known = (self._sources.get(t.untyped_storage()._cdata) for t in tensors_in(value))
        return frozenset().union(*(entry[1] for entry in known if entry is not None))

    def marked(self, value: T, end: End) -> T:
        """Return `value` with fresh tensors in it, which are the feature map `end`."""

        def mark(tensor: Tensor) -> Tensor:
            fresh = tensor.clone()
            self._note(fresh, frozenset((end,)))
            return fresh

        return map_tensors(mark, value)


def shape_attributes(tensors: Iterable[Tensor]) -> dict[str, Any]:
    """`shape` of the first tensor; where there are several, all of them as text in `shapes`."""
    shapes = [list(tensor.shape) for tensor in tensors]
    if not shapes:
        return {}
    several = {"shapes": ["x".join(map(str, shape)) for shape in shapes]} if len(shapes) > 1 else {}
    return {"shape": shapes[0], **several}
