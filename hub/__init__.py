"""Published search spaces and the architectures found in them.

>>> from spacelang.hub import list_models, load
>>> list_models("darts-v*")
['darts-v1', 'darts-v2']
>>> model = load("darts-v2", num_classes=100)  # a plain nn.Module
"""

from __future__ import annotations

from spacelang.doors import open_door

from .cells import DARTS as DARTS
from .cells import ENAS as ENAS
from .cells import PNAS as PNAS
from .cells import SNAS as SNAS
from .cells import AmoebaNet as AmoebaNet
from .cells import ENASMacro as ENASMacro
from .cells import FairDARTS as FairDARTS
from .cells import FairDARTSEdges as FairDARTSEdges
from .cells import HierarchicalCells as HierarchicalCells
from .cells import NASNet as NASNet
from .conversion import Conversion as Conversion
from .conversion import convert_checkpoint as convert_checkpoint
from .graphs import GraphCells as GraphCells
from .loading import load as load
from .mobile import DenseNAS as DenseNAS
from .mobile import MobileNetV3Space as MobileNetV3Space
from .mobile import OnceForAll as OnceForAll
from .mobile import ProxylessNAS as ProxylessNAS
from .mobile import ShuffleNetSpace as ShuffleNetSpace
from .nasbench import DigitsCells as DigitsCells
from .nasbench import NASBench101 as NASBench101
from .nasbench import NASBench201 as NASBench201
from .nasbench import StagedCells as StagedCells
from .notations import Genotype as Genotype
from .notations import from_blocks as from_blocks
from .notations import from_genotype as from_genotype
from .notations import from_mbconv as from_mbconv
from .notations import from_nasbench101 as from_nasbench101
from .notations import from_nasbench201 as from_nasbench201
from .notations import from_recurrent_genotype as from_recurrent_genotype
from .notations import from_sparse_genotype as from_sparse_genotype
from .notations import to_blocks as to_blocks
from .notations import to_genotype as to_genotype
from .notations import to_mbconv as to_mbconv
from .notations import to_nasbench101 as to_nasbench101
from .notations import to_nasbench201 as to_nasbench201
from .notations import to_recurrent_genotype as to_recurrent_genotype
from .notations import to_sparse_genotype as to_sparse_genotype
from .plain import VGG as VGG
from .plain import PlainCNN as PlainCNN
from .published import architecture as architecture
from .published import convert_weights as convert_weights
from .published import list_models as list_models
from .readers import read_hw_nas_bench as read_hw_nas_bench
from .readers import read_nasbench101 as read_nasbench101
from .readers import read_nasbench201 as read_nasbench201
from .readers import read_nds as read_nds
from .recurrent import RecurrentLM as RecurrentLM
from .recurrent import RNNCell as RNNCell
from .tabular import MLP as MLP
from .transformers import GPT as GPT
from .transformers import AutoFormer as AutoFormer

open_door(globals())
