"""Decoders whose layers know their own number, by which they find their keys and values in a cache."""

from __future__ import annotations

from torch import nn


def renumber_layers(model: nn.Module) -> None:
    """Number the layers that are left in each stack from zero, as attributes `layer_idx` of their modules.

    The length of what was decoded so far is asked of layer 0, so a cache without it is wrong.
    """
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            layers = [
                [m for m in layer.modules() if type(vars(m).get("layer_idx")) is int] for layer in stack
            ]
            numbered = [layer for layer in layers if layer]
            if all(len({m.layer_idx for m in layer}) == 1 for layer in numbered):
                for index, layer in enumerate(numbered):
                    for module in layer:
                        vars(module)["layer_idx"] = index
