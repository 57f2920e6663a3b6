"""Published search spaces and the architectures found in them.

>>> from spacelang.hub import list_models, load
>>> list_models("darts-*")
['darts-v1', 'darts-v2']
>>> model = load("darts-v2", num_classes=100)  # a plain nn.Module
"""

from __future__ import annotations

from ._entries import architecture as architecture
from ._entries import list_models as list_models
from ._load import load as load
from .darts import DARTS as DARTS
from .genotypes import Genotype as Genotype
from .genotypes import from_genotype as from_genotype
from .genotypes import to_genotype as to_genotype

__all__ = ["DARTS", "Genotype", "architecture", "from_genotype", "list_models", "load", "to_genotype"]
