"""Networks of layers in a row."""

from __future__ import annotations

from .plain_cnn import PlainCNN as PlainCNN
from .vgg import VGG as VGG
