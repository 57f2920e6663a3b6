"""Build any published architecture by its name alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from ._entries import read_entry
from .autoformer import AutoFormer
from .darts import DARTS
from .enas_macro import ENASMacro
from .fairdarts import FairDARTS
from .mobilenetv3 import MobileNetV3Space
from .nasbench101 import NASBench101
from .nasbench201 import NASBench201
from .nasnet import ENAS, PNAS, AmoebaNet, NASNet
from .proxylessnas import ProxylessNAS
from .shufflenet import ShuffleNetSpace

_SPACES: dict[str, Any] = {
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
    "ShuffleNetSpace": ShuffleNetSpace,
}


def load(name: str, *, pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Build a published architecture as a plain network: `load("darts-v2")` has 3,349,342 parameters.

    Args:
        name: an entry of `list_models()`.
        pretrained: True asks for published weights.
        overrides: constructor arguments of the entry's space, in place of the entry's.

    Raises:
        SpaceError: unknown name (names the closest), or weights asked for where none are published.
    """
    entry = read_entry(name)
    model: nn.Module = entry.build(_SPACES[entry.space], pretrained=pretrained, overrides=overrides)
    return model
