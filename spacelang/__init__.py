"""Neural-architecture search: a space in ordinary PyTorch, any strategy, a plain `nn.Module` out.

The names below are loaded on first use, so that `import spacelang` costs a few milliseconds and pulls
in neither PyTorch nor Lightning:

    from spacelang import ModelSpace, LayerChoice, value_choice, model_context, Experiment

Strategies, published spaces and evaluators are sub-packages of their own, imported by name:
`spacelang.strategies`, `spacelang.hub`, `spacelang.evaluators`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .doors import open_door
from .namesake import told_of_namesake
from .version import __version__ as __version__

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
    from .language import value_range as value_range
    from .models import Depth as Depth
    from .models import OneOf as OneOf
    from .models import Skip as Skip
    from .models import Width as Width
    from .models import searchable as searchable
    from .models import suggest as suggest
    from .results import draw as draw
    from .results import export_onnx as export_onnx
    from .results import load_bundle as load_bundle
    from .results import save_bundle as save_bundle
    from .space import ModelSpace as ModelSpace
    from .supernet import Supernet as Supernet

if told := told_of_namesake(__path__[0]):
    import warnings  # late: almost nobody needs it

    warnings.warn(told, stacklevel=2)
open_door(globals())
