"""Costs of one forward pass of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import known_arguments
from ..graph.tensors import tensor_arguments, tensors_in
from ..language import Architecture, Space, is_frozen, require_frozen
from ..randomness import torch_generators_kept
from .counting import count_flops
from .limits import Range
from .survey import Survey
from .timing import device_of, median_milliseconds

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
    model: Space, example_inputs: Tensor | tuple[Tensor, ...], *, latency: bool = ..., repeats: int = ...
) -> Any: ...  # a Profile or a SpaceProfile: a frozen space has the same class


@overload
def profile(
    model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], *, latency: bool = ..., repeats: int = ...
) -> Profile: ...


@known_arguments
def profile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
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
        example_inputs: a tensor, or a tuple of positional arguments; costs are for the whole batch.
        latency: also measure time, on the device of the model.
        repeats: passes of which the median counts.

    Returns:
        `Profile` of a network; of a space a `spacelang.costs.SpaceProfile`, the range of each cost.

    Raises:
        SpaceError: `model` is neither, or the forward pass fails; gives the shapes and the reason.

    Source: torch.utils.flop_counter.
    """
    inputs = tensor_arguments(example_inputs)
    if (space := _space_to_profile(model)) is not None:
        return profile_space(space, inputs, latency=latency, repeats=repeats)
    require_frozen(model, "profile")
    flops, output = count_flops(model, inputs)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors_in(output))
    return Profile(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        macs=flops // 2,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        activation_memory=_activation_memory(model, inputs),
        latency=_latency(model, inputs, repeats) if latency else None,
    )


def _space_to_profile(model: object) -> Space | None:
    return model if isinstance(model, Space) and not is_frozen(model) else None


def _activation_memory(model: nn.Module, inputs: tuple[Tensor, ...]) -> int | None:
    """Bytes kept for the backward pass; None where a training-mode pass fails."""
    device = device_of(model)
    given = tuple(tensor.to(device) for tensor in inputs)
    with torch_generators_kept(device):
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
    device = device_of(model)
    replica = copy.deepcopy(model).eval()
    given = tuple(tensor.to(device) for tensor in inputs)
    with torch.no_grad():
        return median_milliseconds(lambda: replica(*given), device, repeats, _WARMUP)


_MEASURED = 8
_SEED = 0


@dataclass(frozen=True)
class SpaceProfile:
    """Ranges of what models of a space cost in one forward pass of the whole batch.

    Attributes:
        parameters: number of weights.
        flops: floating-point operations, see `spacelang.results.Profile`.
        activation_memory: bytes kept for the backward pass; None where no model trains on the input.
        latency: milliseconds; None unless asked for.

    Parameters and FLOPs are searched for. The other two are no sum over choices; they are measured on a few
    models (all, where there are at most 8): those that have the fewest and most parameters and FLOPs, the
    default and random ones.
    """

    parameters: Range
    flops: Range
    activation_memory: Range | None
    latency: Range | None = None

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters),
            ("FLOPs", self.flops),
            ("activation memory (bytes)", self.activation_memory),
            ("latency (ms)", self.latency),
        ]
        return "\n".join(f"{name}: {found}" for name, found in rows if found is not None)


def profile_space(
    space: Space, inputs: tuple[Any, ...], *, latency: bool = False, repeats: int = 20
) -> SpaceProfile:
    """See `spacelang.profile`."""
    parameters, flops = Survey(space, "params").range, Survey(space, "flops", inputs).range
    ends = [r.smallest_architecture for r in (parameters, flops)]
    ends += [r.largest_architecture for r in (parameters, flops)]
    models = [
        (arch, profile(space.freeze(arch), inputs, latency=latency, repeats=repeats))
        for arch in _some(space, ends)
    ]
    is_all = len(models) == space.bound
    memory = _extremes(models, lambda found: found.activation_memory, is_all)
    return SpaceProfile(parameters, flops, memory, _extremes(models, lambda found: found.latency, is_all))


def _some(space: Space, first: list[Architecture]) -> list[Architecture]:
    """A few architectures, beginning with some; all, where there are few."""
    if space.bound <= _MEASURED:
        return list(space.grid())
    rng = np.random.default_rng(_SEED)

    def drawn() -> Iterator[Architecture]:
        yield from (*first, space.default())
        while True:
            yield space.sample(rng)

    found: list[Architecture] = []
    for arch in islice(drawn(), _MEASURED):
        if arch not in found:
            found.append(arch)
    return found


def _extremes(
    models: list[tuple[Architecture, Profile]], cost: Callable[[Profile], float | None], is_all: bool
) -> Range | None:
    known = [(value, arch) for arch, found in models if (value := cost(found)) is not None]
    if not known:
        return None
    (low, low_arch), (high, high_arch) = min(known, key=lambda p: p[0]), max(known, key=lambda p: p[0])
    return Range(low, high, low_arch, high_arch, is_all, len(known))
