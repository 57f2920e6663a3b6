"""Published search spaces and the architectures found in them.

>>> from spacelang.hub import list_models, load
>>> list_models("darts-v*")
['darts-v1', 'darts-v2']
>>> model = load("darts-v2", num_classes=100)  # a plain nn.Module
"""

from __future__ import annotations

from ._entries import architecture as architecture
from ._entries import list_models as list_models
from ._load import load as load
from .autoformer import AutoFormer as AutoFormer
from .converters import convert_weights as convert_weights
from .darts import DARTS as DARTS
from .enas_macro import ENASMacro as ENASMacro
from .fairdarts import FairDARTS as FairDARTS
from .genotypes import Genotype as Genotype
from .genotypes import from_genotype as from_genotype
from .genotypes import to_genotype as to_genotype
from .mbconv import from_mbconv as from_mbconv
from .mbconv import to_mbconv as to_mbconv
from .mobilenetv3 import MobileNetV3Space as MobileNetV3Space
from .nasbench101 import NASBench101 as NASBench101
from .nasbench201 import NASBench201 as NASBench201
from .nasnet import ENAS as ENAS
from .nasnet import PNAS as PNAS
from .nasnet import AmoebaNet as AmoebaNet
from .nasnet import NASNet as NASNet
from .notations import from_blocks as from_blocks
from .notations import from_nasbench201 as from_nasbench201
from .notations import from_sparse_genotype as from_sparse_genotype
from .notations import to_blocks as to_blocks
from .notations import to_nasbench201 as to_nasbench201
from .notations import to_sparse_genotype as to_sparse_genotype
from .proxylessnas import ProxylessNAS as ProxylessNAS
from .shufflenet import ShuffleNetSpace as ShuffleNetSpace

__all__ = [
    "DARTS",
    "ENAS",
    "PNAS",
    "AmoebaNet",
    "AutoFormer",
    "ENASMacro",
    "FairDARTS",
    "Genotype",
    "MobileNetV3Space",
    "NASBench101",
    "NASBench201",
    "NASNet",
    "ProxylessNAS",
    "ShuffleNetSpace",
    "architecture",
    "convert_weights",
    "from_blocks",
    "from_genotype",
    "from_mbconv",
    "from_nasbench201",
    "from_sparse_genotype",
    "list_models",
    "load",
    "to_blocks",
    "to_genotype",
    "to_mbconv",
    "to_nasbench201",
    "to_sparse_genotype",
]
