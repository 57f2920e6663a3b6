"""Example inputs and outputs of a network, seen as flat lists of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spacelang.errors import SpaceError

if TYPE_CHECKING:
    from torch import Tensor


def as_inputs(example_input: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the positional arguments of a forward pass.

    Raises:
        SpaceError: not a tensor or a non-empty tuple of tensors, or tensors without a common batch dimension.
    """
    import torch

    inputs = tuple(example_input) if isinstance(example_input, tuple | list) else (example_input,)
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, torch.Tensor):
            raise SpaceError(
                f"example_input has a {type(tensor).__name__} at position {position}; expected a tensor, or "
                "a tuple of tensors, for example torch.zeros(1, 3, 32, 32)."
            )
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in inputs}
    if len(sizes) != 1 or sizes & {None, 0}:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs) or "nothing"
        raise SpaceError(
            f"example_input has shapes {shapes}; every tensor starts with the same batch size, at least 1."
        )
    return inputs


def tensors_of(output: object) -> Iterator[Tensor]:
    """Yield the tensors in a forward pass's output: a tensor, or nested tuples, lists and dicts of them."""
    import torch

    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_of(value)
