"""State dicts of other implementations of mobile networks, under the names of our networks.

Known are the networks of the authors of ProxylessNAS (github.com/mit-han-lab/proxylessnas) and SPOS
(github.com/megvii-model/SinglePathOneShot), and those of NNI 3.0's model-space hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_PROXYLESS_BLOCK = re.compile(
    r"blocks\.(\d+)\.mobile_inverted_conv\.(inverted_bottleneck|depth_conv|point_linear)\.(conv|bn)\.(.+)"
)
_NNI_STAGE = re.compile(r"(blocks\.\d+)\.(.+)")
_OUTSIDE = {"first_conv": "stem", "feature_mix_layer": "feature_mix_layer"}
_PARTS = ("inverted_bottleneck", "depth_conv", "point_linear")  # each is convolution, norm and activation
_LAYERS = ("conv", "bn")
_MOST = 4  # positions of a searched stage


def converted_proxyless(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a ProxylessNAS network of its authors or of NNI under our names.

    Args:
        weights: State dict in either layout, or in ours, which is kept.
        own: State dict of our network.
    """
    numbers = sorted({int(match[1]) for name in weights if (match := _PROXYLESS_BLOCK.fullmatch(name))})
    if not numbers:
        return {_stage_wrapped(name, own): tensor for name, tensor in weights.items()}
    places = _places(numbers)
    return {_from_proxyless(name, places): tensor for name, tensor in weights.items()}


def _places(numbers: list[int]) -> dict[int, str]:
    """Return our place of each of the authors' blocks.

    They number the first block, four positions of each of the stages 2 to 6, and stage 7. A position whose
    block was removed has no tensors, and need not be the last of its stage; our blocks have no gaps.
    """
    places = {}
    for number in numbers:
        stage, first = (number + _MOST - 1) // _MOST, _MOST * ((number - 1) // _MOST) + 1
        places[number] = f"{stage}.{sum(first <= other < number for other in numbers)}" if number else "0"
    return places


def _from_proxyless(name: str, places: Mapping[int, str]) -> str:
    """Rename `blocks.21.mobile_inverted_conv.depth_conv.bn.weight` to `blocks.6.0.4.weight`."""
    if match := _PROXYLESS_BLOCK.fullmatch(name):
        number, part, layer, last = match.groups()
        without = number == "0"  # the first block has no inverted bottleneck
        index = 3 * (_PARTS.index(part) - without) + _LAYERS.index(layer)
        return f"blocks.{places[int(number)]}.{index}.{last}"
    module, layer, *last = name.split(".", 2)
    if module in _OUTSIDE and layer in _LAYERS:
        return ".".join((_OUTSIDE[module], str(_LAYERS.index(layer)), *last))
    return name.replace("classifier.linear.", "classifier.")


def _stage_wrapped(name: str, own: Mapping[str, Tensor]) -> str:
    """Rename `blocks.6.3.weight` to `blocks.6.0.3.weight`: NNI unwraps a stage of one block."""
    wrapped = _NNI_STAGE.sub(r"\1.0.\2", name)
    return wrapped if name not in own and wrapped in own else name


def converted_shuffle(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a SPOS network of its authors or of NNI; only the classifier is renamed."""
    return {re.sub(r"^classifier\.0\.", "classifier.", name): tensor for name, tensor in weights.items()}
