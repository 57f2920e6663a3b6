"""Weights given with a space: whether they were changed after its construction, and copies of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def norms(module: nn.Module) -> Tensor:
    """Return the Euclidean norms of the parameters that have data, (parameters,), on the CPU."""
    parameters = [p.detach() for p in module.parameters() if not is_lazy(p)]
    known = [p for p in parameters if p.is_floating_point() and not p.is_meta]
    if not known:
        return torch.zeros(0)
    found = [norm.float() for norm in torch._foreach_norm(known)]
    one_device = len({norm.device for norm in found}) == 1  # it is asked once then
    return torch.stack(found).cpu() if one_device else torch.stack([norm.cpu() for norm in found])


def are_others(before: Tensor, now: Tensor) -> bool:
    """Return whether norms are those of other weights; those on another device may be rounded otherwise."""
    return before.shape != now.shape or not torch.allclose(before, now, rtol=1e-4, equal_nan=True)


def copy_weights(weights: Mapping[str, Tensor], module: nn.Module) -> None:
    """Copy tensors into the parameters and buffers of a module that have their names and shapes.

    It warns of those that have the name of a tensor and another shape.
    """
    own = module.state_dict(keep_vars=True)
    fitting = {name: t for name, t in weights.items() if name in own and own[name].shape == t.shape}
    others = [name for name in weights if name in own and name not in fitting]
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    if others:
        warnings.warn(
            f"{len(others)} of the weights given have another shape in {type(module).__name__} with these "
            f"arguments and begin anew there: {', '.join(others[:3])}, ...",
            stacklevel=2,
        )
