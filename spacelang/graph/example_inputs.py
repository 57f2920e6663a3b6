"""Example inputs of a network, and the tensors in nested arguments and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import SpaceError

T = TypeVar("T")


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


def batched_arguments(example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the positional arguments of a forward pass.

    Raises:
        SpaceError: not a tensor or a non-empty tuple of tensors, or tensors without a common batch dimension.
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise SpaceError(
                f"example_inputs has a {type(tensor).__name__} at position {position}; expected a tensor, or "
                "a tuple of tensors, for example torch.zeros(1, 3, 32, 32)."
            )
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in inputs}
    if len(sizes) != 1 or sizes & {None, 0}:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs) or "nothing"
        raise SpaceError(
            f"example_inputs has shapes {shapes}; every tensor starts with the same batch size, at least 1."
        )
    return inputs


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Replace every tensor in nested lists, tuples and dicts."""
    return tree_map_only(Tensor, function, value)  # type: ignore[no-any-return]
