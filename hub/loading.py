"""Build any published architecture by its name alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from .cells import DARTS, ENAS, PNAS, AmoebaNet, ENASMacro, FairDARTS, NASNet
from .graphs import GraphCells
from .mobile import DenseNAS, MobileNetV3Space, OnceForAll, ProxylessNAS, ShuffleNetSpace
from .nasbench import NASBench101, NASBench201
from .plain import VGG
from .published import Pretrained, build, read_entry
from .recurrent import RecurrentLM
from .transformers import AutoFormer

SPACES: dict[str, Any] = {
    "DARTS": DARTS,
    "FairDARTS": FairDARTS,
    "NASNet": NASNet,
    "ENAS": ENAS,
    "AmoebaNet": AmoebaNet,
    "PNAS": PNAS,
    "NASBench101": NASBench101,
    "NASBench201": NASBench201,
    "ENASMacro": ENASMacro,
    "AutoFormer": AutoFormer,
    "MobileNetV3Space": MobileNetV3Space,
    "ProxylessNAS": ProxylessNAS,
    "DenseNAS": DenseNAS,
    "OnceForAll": OnceForAll,
    "ShuffleNetSpace": ShuffleNetSpace,
    "RecurrentLM": RecurrentLM,
    "GraphCells": GraphCells,
    "VGG": VGG,
}


def load(name: str, *, pretrained: Pretrained = False, **overrides: Any) -> nn.Module:
    """Build a published architecture as a plain network: `load("darts-v2")` has 3,349,342 parameters.

    Args:
        name: An entry of `list_models()`.
        pretrained: True loads the published weights, downloaded once to the cache folder. A path loads a
            `.safetensors` or `.pth` file, a bundle of `save_bundle`, or `{name}.safetensors`, `{name}.pth`
            or `model.safetensors` in a folder. "hf://owner/repository[@revision]/file" loads a file of a
            Hugging Face repository (extra `huggingface`). The layouts that `convert_weights` knows are
            converted.
        overrides: Constructor arguments of the entry's space, in place of the entry's. With another
            `num_classes` the classifier keeps its new weights, and all others are loaded.

    Raises:
        SpaceError: the name is unknown (names the closest), no weights are published, or the file is
            missing, damaged, unsafe, or does not fit.
    """
    entry = read_entry(name)
    model: nn.Module = build(entry, SPACES[entry.space], pretrained=pretrained, overrides=overrides)
    return model
