"""torch.nn again, with value choices allowed as arguments of every layer.

>>> from spacelang import nn, value_choice
>>> nn.Linear(2, 3)
Linear(in_features=2, out_features=3, bias=True)
>>> nn.Linear(2, value_choice([3, 5], label="width")).decisions()[0].label
'width'
"""

from __future__ import annotations

from typing import Any

import torch.nn as _torch_nn

from ..errors import closest
from .layer import LayerSpec as LayerSpec
from .layer import ValueLayer as ValueLayer
from .sizes import Sizes as Sizes
from .sizes import sizes_of as sizes_of

# Bases and containers have no sizes to choose.
_PLAIN = {"Module", "Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"}
_layers: dict[str, Any] = {}  # one class per layer type, made at first use


def __getattr__(name: str) -> Any:
    original = getattr(_torch_nn, name, None)
    if original is None:
        nearest = closest(name, dir(_torch_nn), cutoff=0.6)
        raise AttributeError(f"spacelang.nn has no attribute {name!r}, nor has torch.nn.{nearest}")
    if name in _PLAIN or not (isinstance(original, type) and issubclass(original, _torch_nn.Module)):
        return original
    if name not in _layers:
        doc = f"`torch.nn.{name}` whose arguments may be value choices."
        _layers[name] = type(
            name, (ValueLayer,), {"layer_type": original, "__doc__": doc, "__module__": __name__}
        )
    return _layers[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_torch_nn)})
