"""Spaces of networks for phones, made of inverted residuals or of shuffle blocks."""

from __future__ import annotations

from .densenas import MOBILE_BLOCKS as MOBILE_BLOCKS
from .densenas import Block as Block
from .densenas import DenseNAS as DenseNAS
from .mobilenetv3 import MobileNetV3Space as MobileNetV3Space
from .once_for_all import OnceForAll as OnceForAll
from .proxylessnas import ProxylessNAS as ProxylessNAS
from .shufflenet import ShuffleNetSpace as ShuffleNetSpace
