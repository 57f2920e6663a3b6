"""MBConv lists, the notation of mobile networks, to and from architecture dicts.

ProxylessNAS has one list of names for each stage:

    [["k5e3", "k3e3"], ["k7e3", "k3e3", "k5e3", "k5e3"], ..., ["k7e6"]]

MobileNetV3 has the table of its paper. The stem is [kernel, channels, activation, stride], a block [kernel,
expanded channels, channels, squeeze-and-excite, activation, stride]; activations are HS (h-swish), RE (ReLU)
and SW (swish):

    {"stem": [3, 16, "HS", 2], "blocks": [[3, 16, 16, false, "RE", 1], [3, 64, 24, false, "RE", 2], ...]}

Text is read as YAML, of which JSON is a part; nothing is ever evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import nn

from spacelang import model_context
from spacelang.errors import SpaceError, short
from spacelang.files import load_yaml

from ..mobile.mobilenetv3 import MobileNetV3Space
from ..mobile.proxylessnas import STRIDES, ProxylessNAS
from ..operations.mobile_operations import SqueezeExcite, make_divisible

Row: TypeAlias = list[Any]
"""A block of MobileNetV3: [kernel, expanded channels, channels, squeeze-and-excite, activation, stride]."""

MAX_TEXT = 10_000  # characters; the longest published list has about 1,500
_ACTIVATIONS = {nn.Hardswish: "HS", nn.ReLU: "RE", nn.SiLU: "SW"}


def to_mbconv(architecture: Mapping[str, Any], space: ProxylessNAS | MobileNetV3Space) -> Any:
    """Write an architecture as an MBConv list; `from_mbconv` is the inverse.

    Returns:
        The notation of the space, see above; the blocks of MobileNetV3 are grouped by stage.

    Raises:
        SpaceError: the architecture does not belong to the space.
    """
    arch = _checked(space).canonical(architecture)
    if isinstance(space, ProxylessNAS):
        return [[arch[f"s{stage}_i{i}"] for i in range(arch[f"s{stage}_depth"])] for stage in STRIDES]
    return _table(arch, space)


def from_mbconv(notation: Any, space: ProxylessNAS | MobileNetV3Space) -> dict[str, Any]:
    """Read an MBConv list, or its text, as an architecture of a space.

    The blocks of MobileNetV3 may be grouped by stage or be one list; in one list a stage begins where the
    stride is 2 or the number of channels changes.

    Raises:
        SpaceError: the notation is malformed, or the space has no such network; names the block that differs.
    """
    if isinstance(notation, str):
        if len(notation) > MAX_TEXT:
            raise SpaceError(f"the MBConv list has {len(notation)} characters, at most {MAX_TEXT} are read.")
        notation = load_yaml(f"{notation}\n")  # with a line break it is never a file's name
    if isinstance(_checked(space), ProxylessNAS):
        return _from_names(notation, space)
    return _from_table(notation, space)


def _checked(space: Any) -> ProxylessNAS | MobileNetV3Space:
    if not isinstance(space, ProxylessNAS | MobileNetV3Space):
        raise SpaceError(
            f"MBConv lists belong to ProxylessNAS and MobileNetV3Space; got a {type(space).__name__}."
        )
    return space


def _from_names(stages: Any, space: ProxylessNAS | MobileNetV3Space) -> dict[str, Any]:
    if not _is_table(stages) or len(stages) != len(STRIDES):
        raise SpaceError(
            f"an MBConv list of ProxylessNAS has {len(STRIDES)} lists of names like 'k3e6'; "
            f"got {short(stages)}."
        )
    arch: dict[str, Any] = {}
    for stage, names in zip(STRIDES, stages, strict=True):
        arch[f"s{stage}_depth"] = len(names)
        arch |= {f"s{stage}_i{index}": name for index, name in enumerate(names)}
    space.validate(arch)
    return arch


def _from_table(table: Any, space: ProxylessNAS | MobileNetV3Space) -> dict[str, Any]:
    stem, stages = _parts(table)
    decisions = {decision.label: decision for decision in space.decisions}
    if any(label.endswith("_width_mult") for label in decisions):
        raise SpaceError(
            "an MBConv list says nothing of width multipliers; build the space with width_multipliers=1.0."
        )
    arch: dict[str, Any] = {"stem_ks": stem[0]}
    channels = stem[1]
    for stage, rows in enumerate(stages):
        if stage > 0:
            arch[f"s{stage}_depth"] = len(rows)
        for index, (kernel, expanded, out, squeeze_excite, _, _) in enumerate(rows):
            label = f"s{stage}_i{index}"
            arch[f"{label}_ks"] = kernel
            if f"{label}_exp" in decisions:
                ratios = decisions[f"{label}_exp"].candidates
                arch[f"{label}_exp"] = next(
                    (r for r in ratios if make_divisible(channels * r) == expanded), expanded / channels
                )
            if f"{label}_se" in decisions:
                arch[f"{label}_se"] = "se" if squeeze_excite else "identity"
            channels = out
    space.validate(arch)
    made = _table(arch, space)
    given = [stem, *(row for rows in stages for row in rows)]
    for position, (row, own) in enumerate(
        zip(given, [made["stem"], *(row for rows in made["blocks"] for row in rows)], strict=True)
    ):
        if row != own:
            place = "the stem" if position == 0 else f"block {position}"
            raise SpaceError(f"MBConv list: {place} is {row!r}, but {own!r} in this space.")
    return arch


def _parts(table: Any) -> tuple[Row, list[list[Row]]]:
    """Return the stem, and the rows by stage, of a table of MobileNetV3."""
    stem: Any = table.get("stem") if isinstance(table, Mapping) else None
    blocks: Any = table.get("blocks") if isinstance(table, Mapping) else None
    if _is_table(blocks) and _is_row(stem, 4):
        if all(_is_row(row, 6) for row in blocks):
            return list(stem), _by_stage([list(row) for row in blocks])
        if all(_is_table(rows) and all(_is_row(row, 6) for row in rows) for rows in blocks):
            return list(stem), [[list(row) for row in rows] for rows in blocks]
    raise SpaceError(
        "an MBConv list of MobileNetV3 is {'stem': [kernel, channels, activation, stride], 'blocks': [["
        f"kernel, expanded, channels, squeeze-and-excite, activation, stride], ...]}}; got {short(table)}."
    )


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(v, list | tuple) for v in value)
    )


def _is_row(value: Any, length: int) -> bool:
    """Return whether a row begins with sizes and has the right length."""
    legal = isinstance(value, list | tuple) and len(value) == length
    return legal and all(type(size) is int and size > 0 for size in value[: length // 2])


def _by_stage(rows: list[Row]) -> list[list[Row]]:
    stages = [rows[:1]]
    for before, row in pairwise(rows):
        if len(stages) == 1 or row[5] == 2 or row[2] != before[2]:  # stage 0 has one block
            stages.append([])
        stages[-1].append(row)
    return stages


def _table(arch: Mapping[str, Any], space: ProxylessNAS | MobileNetV3Space) -> dict[str, Any]:
    """Read the table off the network itself, built without data."""
    with model_context(arch), torch.device("meta"):
        network: Any = space.rebuild()
    conv, _, activation = network.stem
    first, *stages = list(network.blocks)[:-3]  # a convolution, the pooling and another convolution follow
    return {
        "stem": [
            conv.kernel_size[0],
            conv.out_channels,
            _ACTIVATIONS[type(activation)],
            conv.stride[0],
        ],
        "blocks": [[_row(first)], *([_row(block) for block in stage] for stage in stages)],
    }


def _row(block: nn.Sequential) -> Row:
    convs = [layer for layer in block if isinstance(layer, nn.Conv2d)]
    depthwise, project = convs[-2:]
    activation = next(_ACTIVATIONS[type(layer)] for layer in block if type(layer) in _ACTIVATIONS)
    squeeze_excite = any(isinstance(layer, SqueezeExcite) for layer in block)
    return [
        depthwise.kernel_size[0],
        depthwise.out_channels,
        project.out_channels,
        squeeze_excite,
        activation,
        depthwise.stride[0],
    ]
