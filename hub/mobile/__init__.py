"""Spaces of networks for phones, made of inverted residuals or of shuffle blocks."""

from __future__ import annotations

from .mobilenetv3 import MobileNetV3Space as MobileNetV3Space
from .proxylessnas import ProxylessNAS as ProxylessNAS
from .shufflenet import ShuffleNetSpace as ShuffleNetSpace
