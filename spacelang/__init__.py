"""Neural-architecture search: a space in ordinary PyTorch, any strategy, a plain `nn.Module` out.

The names below are loaded on first use, so that `import spacelang` costs a few milliseconds and pulls
in neither PyTorch nor Lightning:

    from spacelang import ModelSpace, LayerChoice, value_choice, model_context, Experiment

Strategies, published spaces and evaluators are sub-packages of their own, imported by name:
`spacelang.strategies`, `spacelang.hub`, `spacelang.evaluators`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import nn as nn
    from .costs import profile as profile
    from .errors import SpaceError as SpaceError
    from .experiment import Experiment as Experiment
    from .language import Cell as Cell
    from .language import InputChoice as InputChoice
    from .language import LayerChoice as LayerChoice
    from .language import Repeat as Repeat
    from .language import model_context as model_context
    from .language import value_choice as value_choice
    from .results import draw as draw
    from .results import export_onnx as export_onnx
    from .results import load_bundle as load_bundle
    from .results import save_bundle as save_bundle
    from .space import ModelSpace as ModelSpace
    from .supernet import Supernet as Supernet

    __version__: str

_HOMES = {
    "errors": ("SpaceError",),
    "experiment": ("Experiment",),
    "language": (
        "Cell",
        "InputChoice",
        "LayerChoice",
        "Repeat",
        "model_context",
        "value_choice",
    ),
    "results": ("draw", "export_onnx", "load_bundle", "save_bundle"),
    "costs": ("profile",),
    "space": ("ModelSpace",),
    "supernet": ("Supernet",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_LEAVES = ("strategies", "hub", "evaluators")

__all__ = [
    "Cell",
    "Experiment",
    "InputChoice",
    "LayerChoice",
    "ModelSpace",
    "Repeat",
    "SpaceError",
    "Supernet",
    "draw",
    "export_onnx",
    "load_bundle",
    "model_context",
    "nn",
    "profile",
    "save_bundle",
    "value_choice",
]


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562) and keep it in the module."""
    value: object
    if name in _HOME_OF:
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    elif name == "nn":
        value = import_module(".nn", __name__)
    elif name == "__version__":
        value = import_module("importlib.metadata").version(__name__)
    else:
        hint = f"; it is a sub-package: `import spacelang.{name}`" if name in _LEAVES else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__, "__version__"})
