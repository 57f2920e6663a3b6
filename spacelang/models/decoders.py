"""Decoders whose layers know their own number, by which they find their keys and values in a cache."""

from __future__ import annotations

from torch import nn

from .passing import Passing


def renumber_layers(model: nn.Module) -> None:
    """Lower the `layer_idx` of layers by the number of those before them in their stack that are left out.

    The length of what was decoded so far is asked of layer 0, so a cache without it is wrong.
    """
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            left_out = 0
            for layer in stack:
                left_out += isinstance(layer, Passing | nn.Identity)
                for module in layer.modules():
                    if type(vars(module).get("layer_idx")) is int:
                        vars(module)["layer_idx"] -= left_out
