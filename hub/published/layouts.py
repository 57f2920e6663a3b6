"""Layouts of checkpoints: which project wrote a state dict, and how it prepared its images.

Key patterns and image preparations are read from the code of each project.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spacelang.errors import SpaceError

from .check_images import Preparation

OWN = "the names of spacelang, which NNI also uses for some networks"


@dataclass(frozen=True)
class Layout:
    """A project's names: the keys that only it has, and why its files cannot be converted, if they cannot.

    Each pattern must be the whole name of some key.
    """

    name: str
    patterns: tuple[str, ...]
    refusal: str = ""


LAYOUTS = (
    Layout(
        "a search checkpoint of DARTS",
        (r"cells\.\d+\._ops\.\d+\._ops\.\d+\..+",),
        "it holds every candidate operation; convert the file of the network that was trained afterwards",
    ),
    Layout(
        "a supernet of once-for-all",
        (r".+\.7to5_matrix",),
        "it holds every subnet. Load it into space = OnceForAll() by space.load_state_dict(convert_weights("
        "weights, space)), freeze a subnet, and estimate the statistics of its batch norms with recalibrate",
    ),
    Layout(
        "a supernet of SPOS",
        (r"features\.\d+\.\d+\.branch_main\..+",),
        "it holds every candidate; convert the file of the network that was trained afterwards",
    ),
    Layout("DrNAS", (r"cells\.\d+\._ops\.\d+\.op\.1\.running_mean",)),
    Layout("once-for-all", (r"final_expand_layer\..+", r"feature_mix_layer\..+")),
    Layout("quark0/darts, PC-DARTS, P-DARTS or SGAS", (r"cells\.\d+\.preprocess1\.op\.1\.weight",)),
    Layout("DARTS of NNI", (r"stages\.\d+\.(blocks\.)?\d+\.preprocessor\.pre1\.1\.weight",)),
    Layout("ProxylessNAS", (r"blocks\.\d+\.mobile_inverted_conv\.depth_conv\.conv\.weight",)),
    Layout("ProxylessNAS of NNI", (r"blocks\.[1-9]\.0\.weight", r"classifier\.weight")),
    Layout("SPOS", (r"features\.\d+\.branch_main\.0\.weight", r"classifier\.0\.weight")),
    Layout("NAS-Bench-201", (r"cells\.\d+\.conv_a\.op\.1\.weight", r"lastact\.0\.weight")),
    Layout("AutoFormer of NNI", (r"cls_token\.cls_token",)),
    Layout("the language model of DARTS", (r"rnns\.0\._W0",)),
)

_CIFAR = Preparation(32, 32, (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
_PDARTS_100 = Preparation(32, 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_IMAGENET = Preparation(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SPOS = Preparation(224, 256, (0, 0, 0), (1 / 255,) * 3, bgr=True)
_NASBENCH201 = {
    10: ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    100: ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    120: ((122.68, 116.66, 104.01), (63.22, 61.26, 65.09)),
}


def layout_of(weights: Mapping[str, Tensor]) -> Layout:
    """Return the layout that the names in a state dict tell; our own if they tell no other.

    Raises:
        SpaceError: files of the layout cannot be converted; says why.
    """
    for layout in LAYOUTS:
        if all(any(re.fullmatch(pattern, name) for name in weights) for pattern in layout.patterns):
            if layout.refusal:
                raise SpaceError(f"this is {layout.name}: {layout.refusal}.")
            return layout
    return Layout(OWN, ())


def preparation_of(layout: Layout, name: str, arguments: Mapping[str, Any]) -> Preparation | None:
    """Return how images were prepared in training; None where the layout does not tell.

    Args:
        layout: Layout of the checkpoint.
        name: Name of the entry.
        arguments: Constructor arguments of the network.
    """
    classes = arguments.get("num_classes", 10)
    if layout.name == "SPOS":
        return _SPOS
    if layout.name.startswith("ProxylessNAS"):
        return _IMAGENET
    if layout.name == "NAS-Bench-201" and classes in _NASBENCH201:
        mean, std = ([value / 255 for value in values] for values in _NASBENCH201[classes])
        size = 16 if classes == 120 else 32
        return Preparation(size, size, tuple(mean), tuple(std))
    if "dataset" not in arguments or layout.name == OWN:
        return None
    if arguments["dataset"] == "imagenet":
        return _IMAGENET
    return _PDARTS_100 if name.startswith("pdarts") and classes == 100 else _CIFAR
