"""What one forward pass of a network costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from spacelang.errors import SpaceError

from ._frozen import require_frozen
from ._tensors import as_inputs, tensors_of
from ._timing import device_of, forked_rng, median_milliseconds

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from spacelang.language import ModelSpace

_WARMUP = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """Cost of one forward pass of the whole batch.

    Attributes:
        parameters: number of weights; shared ones count once, an auxiliary head counts.
        flops: floating-point operations of convolutions, matrix products and attention.
        macs: multiply-accumulates, flops // 2; the number papers call FLOPs.
        output_shape: shape of the output, or a tuple of shapes if the network returns several tensors.
        activation_memory: bytes that a training-mode pass keeps for the backward pass, each storage once, the
            input too where it is kept, weights and buffers not. None where the network does not train on this
            input (batch norm needs more than one value per channel).
        latency: milliseconds, median of an evaluation-mode pass without gradients; None unless asked for.
    """

    parameters: int
    flops: int
    macs: int
    output_shape: tuple[Any, ...]
    activation_memory: int | None = None
    latency: float | None = None


@overload
def profile(
    model: ModelSpace, example_input: Tensor | tuple[Tensor, ...], *, latency: bool = ..., repeats: int = ...
) -> Any: ...  # a Profile or a SpaceProfile: a frozen space has the same class


@overload
def profile(
    model: nn.Module, example_input: Tensor | tuple[Tensor, ...], *, latency: bool = ..., repeats: int = ...
) -> Profile: ...


def profile(
    model: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    *,
    latency: bool = False,
    repeats: int = 20,
) -> Any:
    """Count what a network costs, or how much the models of a space differ in it.

    Everything but latency is counted on tensors without data, so it costs no arithmetic; a network that
    cannot run on these (it looks at values) runs as a real copy. `model` keeps its mode, weights and running
    statistics.

    Args:
        model: a frozen network, or a space with choices to make.
        example_input: a tensor, or a tuple of positional arguments, (B, ...); costs are for all B.
        latency: also measure time, on the device of the model.
        repeats: passes of which the median counts.

    Returns:
        `Profile` of a network; of a space a `spacelang.costs.SpaceProfile`, the range of each cost.

    Raises:
        SpaceError: `model` is neither, or the forward pass fails; gives the shapes and the reason.

    Source: torch.utils.flop_counter.
    """
    inputs = as_inputs(example_input)
    if (space := _space_to_profile(model)) is not None:
        from spacelang.costs import profile_space

        return profile_space(space, inputs, latency=latency, repeats=repeats)
    require_frozen(model, "profile")
    flops, output = count_flops(model, inputs)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors_of(output))
    return Profile(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        macs=flops // 2,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        activation_memory=_activation_memory(model, inputs),
        latency=_latency(model, inputs, repeats) if latency else None,
    )


def _space_to_profile(model: object) -> ModelSpace | None:
    from spacelang.language import ModelSpace, is_frozen

    return model if isinstance(model, ModelSpace) and not is_frozen(model) else None


def count_flops(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[int, Any]:
    """Operations of one evaluation-mode pass of a frozen network, and its output.

    Raises:
        SpaceError: the forward pass fails.
    """
    try:
        return _count(model, inputs, "meta")
    except Exception:  # any network code may run here; the real pass below says what is wrong
        pass
    try:
        return _count(model, inputs, "cpu")
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        raise SpaceError(
            f"cannot profile {type(model).__name__}: its forward pass fails for an input of shape {shapes}: "
            f"{error}"
        ) from error


def _count(model: nn.Module, inputs: tuple[Any, ...], device: str) -> tuple[int, Any]:
    import torch
    from torch.utils._pytree import tree_map_only
    from torch.utils.flop_counter import FlopCounterMode

    replica = copy.deepcopy(model).to(device).eval()
    given = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = replica(*given)
    return int(counter.get_total_flops()), output


def _activation_memory(model: nn.Module, inputs: tuple[Tensor, ...]) -> int | None:
    """Bytes kept for the backward pass; None where a training-mode pass fails."""
    device = device_of(model)
    given = tuple(tensor.to(device) for tensor in inputs)
    with forked_rng(device):
        for kept in (_kept_without_data, _kept):
            try:
                return kept(model, given)
            except Exception:  # what does not run without data may run with it; what does not train has none
                continue
    return None


def _kept_without_data(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    # Fake tensors have a device but no data: what a kernel keeps depends on the device.
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    fake = {id(t): mode.from_tensor(t) for t in (*model.parameters(), *model.buffers())}
    with mode:
        return _kept(model, tuple(mode.from_tensor(tensor) for tensor in inputs), fake)


def _kept(model: nn.Module, inputs: tuple[Tensor, ...], tensors: dict[int, Any] | None = None) -> int:
    """Bytes kept by a copy of a network that has other tensors in place of its own."""
    import torch

    replica = copy.deepcopy(model, tensors).train()
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive: an address that is free again misleads

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        replica(*inputs)
    own = {t.untyped_storage()._cdata for t in (*replica.parameters(), *replica.buffers())}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in own)


def _latency(model: nn.Module, inputs: tuple[Tensor, ...], repeats: int) -> float:
    import torch

    device = device_of(model)
    replica = copy.deepcopy(model).eval()
    given = tuple(tensor.to(device) for tensor in inputs)
    with torch.no_grad():
        return median_milliseconds(lambda: replica(*given), device, repeats, _WARMUP)
