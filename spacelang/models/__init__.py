"""Existing models as spaces: `searchable`, `suggest` and what can be chosen."""

from .adopted_model import AdoptedModel as AdoptedModel
from .adopted_model import searchable as searchable
from .layered import BlockOptions as BlockOptions
from .layered import Blocks as Blocks
from .layered import Layer as Layer
from .layered import LayeredSpace as LayeredSpace
from .layered import kept_layers as kept_layers
from .net2net import deeper as deeper
from .net2net import undo_norm as undo_norm
from .net2net import wider as wider
from .passing import Passing as Passing
from .selectors import Depth as Depth
from .selectors import OneOf as OneOf
from .selectors import Skip as Skip
from .selectors import Width as Width
from .substitutes import FewerHeads as FewerHeads
from .substitutes import FewerWindowHeads as FewerWindowHeads
from .suggestion import suggest as suggest
