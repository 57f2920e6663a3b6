"""State dicts of other implementations of mobile networks, under the names of our networks.

Known are the networks of the authors of ProxylessNAS (github.com/mit-han-lab/proxylessnas), once-for-all
(github.com/mit-han-lab/once-for-all) and SPOS (github.com/megvii-model/SinglePathOneShot), and those of NNI
3.0's model-space hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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


# -- once-for-all --------------------------------------------------------------------------------------

_OFA_BLOCK = re.compile(
    r"blocks\.(\d+)\.(?:mobile_inverted_conv|conv)\.(inverted_bottleneck|depth_conv|point_linear)\."
    r"(conv|bn|se\.fc\.reduce|se\.fc\.expand)\.(?:conv\.|bn\.)?([\w.]+)"
)
_OFA_OUTSIDE = {
    "first_conv.conv": "stem.0",
    "first_conv.bn": "stem.1",
    "final_expand_layer.conv": "head.0.0",
    "final_expand_layer.bn": "head.0.1",
    "feature_mix_layer.conv": "head.2",
    "classifier.linear": "classifier.1",
}
_OFA_MATRIX = re.compile(r"(\d)to(\d)_matrix")
_IN_SPACE = re.compile(r"\.largest\b|(?<=\.\d)\.blocks\b")  # what a name has more than in a frozen network


def converted_once_for_all(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a supernet or network of once-for-all under our names.

    Args:
        weights: State dict in the authors' layout, old or new, or in ours, which is kept.
        own: State dict of our space or network.
    """
    places = _ofa_places(weights)
    if not places:
        return dict(weights)
    spaces = {_IN_SPACE.sub("", name): name for name in own}
    renamed = {_from_once_for_all(name, places, weights): tensor for name, tensor in weights.items()}
    return {spaces.get(name, name): tensor for name, tensor in renamed.items()}


def once_for_all_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the architecture that the shapes of a network of once-for-all tell; None in other layouts.

    Its blocks are a chain, so that shapes tell everything.
    """
    arch: dict[str, Any] = {}
    sizes = {match.groups(): w.shape for name, w in weights.items() if (match := _OFA_BLOCK.fullmatch(name))}
    for number, (unit, block) in _ofa_places(weights).items():
        if unit == 0:
            continue
        channels, inputs, *_ = sizes[number, "inverted_bottleneck", "conv", "weight"]
        arch[f"s{unit}_depth"] = block + 1
        arch[f"s{unit}_i{block}_ks"] = sizes[number, "depth_conv", "conv", "weight"][-1]
        arch[f"s{unit}_i{block}_exp"] = channels // inputs
    return arch or None


def _ofa_places(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return unit and place of each block; a unit begins where the number of channels changes."""
    widths = {
        int(match[1]): len(w)
        for name, w in weights.items()
        if (match := _OFA_BLOCK.fullmatch(name))
        and match.group(2, 3, 4) == ("point_linear", "conv", "weight")
    }
    places: dict[str, tuple[int, int]] = {}
    unit, block, before = -1, 0, 0
    for number in sorted(widths):
        unit, block = (unit, block + 1) if widths[number] == before else (unit + 1, 0)
        places[str(number)] = unit, block
        before = widths[number]
    return places


def _from_once_for_all(
    name: str, places: Mapping[str, tuple[int, int]], weights: Mapping[str, Tensor]
) -> str:
    """Rename `blocks.5.conv.depth_conv.conv.weight` to `blocks.2.0.3.weight`."""
    match = _OFA_BLOCK.fullmatch(name)
    if not match:
        module, _, last = name.rpartition(".")
        return f"{_OFA_OUTSIDE.get(module, module)}.{last}"
    number, part, layer, last = match.groups()
    unit, block = places[number]
    index = 3 * (_PARTS.index(part) - (unit == 0))  # the first block has no inverted bottleneck
    gated = any(other.startswith(name[: match.start(2)] + "depth_conv.se.") for other in weights)
    if layer.startswith("se."):
        place = f"6.conv_{layer.rpartition('.')[2]}"
    else:
        place = str(index + _LAYERS.index(layer) + (gated and part == "point_linear"))
    last = _OFA_MATRIX.sub(r"transform_\1_to_\2", last)
    return f"blocks.{unit}.{place}.{last}" if unit == 0 else f"blocks.{unit}.{block}.{place}.{last}"
