"""Parameters and floating-point operations of a frozen network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spacelang.errors import SpaceError

from ._frozen import require_frozen
from ._tensors import as_inputs, tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Profile:
    """Cost of one forward pass.

    Attributes:
        parameters: number of weights; shared ones count once, an auxiliary head counts.
        flops: floating-point operations of convolutions, matrix products and attention, for the whole batch.
        macs: multiply-accumulates, flops // 2; the number papers call FLOPs.
        output_shape: shape of the output, or a tuple of shapes if the network returns several tensors.
    """

    parameters: int
    flops: int
    macs: int
    output_shape: tuple[Any, ...]


def profile(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> Profile:
    """Count parameters and operations of one evaluation-mode forward pass.

    The pass runs on a copy without data (device 'meta'), so it costs no arithmetic and `model` keeps its
    mode, weights and running statistics. A network that meta tensors cannot pass (it looks at values) runs
    as a real copy.

    Args:
        model: a frozen network.
        example_input: a tensor, or a tuple of positional arguments, (B, ...); operations are for all B.

    Raises:
        SpaceError: `model` is an unfrozen space, or the forward pass fails; gives the shapes and the reason.

    Source: torch.utils.flop_counter.
    """
    require_frozen(model, "profile")
    inputs = as_inputs(example_input)
    try:
        flops, output = _count(model, inputs, "meta")
    except Exception:  # any network code may run here; the real pass below says what is wrong
        flops, output = _count_real(model, inputs)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors_of(output))
    return Profile(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        macs=flops // 2,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
    )


def _count(model: nn.Module, inputs: tuple[Tensor, ...], device: str) -> tuple[int, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    replica = copy.deepcopy(model).to(device).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = replica(*(tensor.to(device) for tensor in inputs))
    return int(counter.get_total_flops()), output


def _count_real(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, Any]:
    try:
        return _count(model, inputs, "cpu")
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise SpaceError(
            f"cannot profile {type(model).__name__}: its forward pass fails for an input of shape {shapes}: "
            f"{error}"
        ) from error
