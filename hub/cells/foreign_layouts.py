"""State dicts of other implementations of cell networks, under the names of our networks.

Two layouts are known: the evaluation network of the original DARTS (github.com/quark0/darts, `cnn/model.py`),
which DrNAS shares but for a batch norm after every pool, and the cell spaces of NNI 3.0's model-space hub.
Both hold the same tensors as our networks, so nothing is reshaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

_AUXILIARY = "auxiliary_head."
_DARTS_CELL = re.compile(r"cells\.(\d+)\.(?:(preprocess[01])|_ops\.(\d+))\.(.+)")
_NNI_CELL = re.compile(
    r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:preprocessor\.pre([01])|ops\.(\d+)\.(\d+))\.(.+)"
)
_ANY_CELL = re.compile(r"cells\.\d+\.|stages\.\d+\.(?:blocks\.)?\d+\.")
_POOL_NORM = re.compile(r"cells\.\d+\.(_ops\.\d+\.op|operations\.\d+\.\d+)\.1\.running_mean")
_WRAPPED = re.compile(r"0\.(?=\d|conv_|bn)")  # an operation and its drop path in one nn.Sequential
_LAYER = {"op.": "", "conv_1.": "1.conv0.", "conv_2.": "1.conv1.", "bn.": "2."}

Rename = Callable[[str, Any], str]


def converted_cells(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a cell network under the names of our networks.

    Args:
        weights: State dict in the layout of the original DARTS, of NNI, or in our own layout, which is kept.
        model: `CellSpace` of the same architecture, width and number of cells.
    """
    rename = _layout(weights)
    converted = {rename(name, model) if rename else name: tensor for name, tensor in weights.items()}
    if model.auxiliary_head is None:
        converted = {name: w for name, w in converted.items() if not name.startswith(_AUXILIARY)}
    return converted


def sizes_of(weights: Mapping[str, Tensor], stem_multiplier: int) -> dict[str, Any]:
    """Return the width, number of cells, stem and kind of pools that a cell network tells, in any layout."""
    sizes: dict[str, Any] = {"pool_norms": any(map(_POOL_NORM.fullmatch, weights))}
    cells = {match.group() for name in weights if (match := _ANY_CELL.match(name))}
    if cells:
        sizes["num_cells"] = len(cells)
    if "stem0.3.weight" in weights:
        return {**sizes, "width": len(weights["stem0.3.weight"]), "dataset": "imagenet"}
    stem = weights.get("stem.0.weight", weights.get("stem0.0.weight"))
    if stem is not None:
        sizes["width"] = len(stem) // stem_multiplier
        if stem.dim() == 4 and stem.shape[1] == 3:
            sizes["dataset"] = "cifar"
    return sizes


def _layout(weights: Mapping[str, Tensor]) -> Rename | None:
    if any(_DARTS_CELL.fullmatch(name) for name in weights):
        return _from_darts
    if any(_NNI_CELL.fullmatch(name) for name in weights):
        return _from_nni
    return None


def _from_darts(name: str, model: Any) -> str:
    """Rename `cells.6._ops.3.op.1.weight` to `cells.6.operations.1.1.1.weight`."""
    match = _DARTS_CELL.fullmatch(name)
    if not match:
        return _outside_cells(name, model)
    cell, preprocess, slot, layer = match.groups()
    if preprocess:
        return f"cells.{cell}.frame.preprocessor.{preprocess}.{_layer(layer)}"
    nodes = model.cells[int(cell)].operations if int(cell) < len(model.cells) else ()
    places = [f"{node}.{k}" for node, operations in enumerate(nodes) for k in range(len(operations))]
    place = places[int(slot)] if int(slot) < len(places) else f"slot {slot}"
    return f"cells.{cell}.operations.{place}.{_layer(layer)}"


def _from_nni(name: str, model: Any) -> str:
    """Rename `stages.1.0.ops.1.1.1.weight` to `cells.6.operations.1.1.1.weight`, in a network of 20 cells."""
    match = _NNI_CELL.fullmatch(name)
    if not match:
        return _outside_cells(name, model)
    stage, block, preprocess, node, slot, layer = match.groups()
    cell = int(stage) * len(model.cells) // 3 + int(block)
    if preprocess:
        return f"cells.{cell}.frame.preprocessor.preprocess{preprocess}.{_layer(layer)}"
    return f"cells.{cell}.operations.{node}.{slot}.{_layer(_WRAPPED.sub('', layer, count=1))}"


def _outside_cells(name: str, model: Any) -> str:
    """Rename a weight of stems, auxiliary head or classifier, which both layouts name alike."""
    if name.startswith("stem."):
        return f"stem0.{name.removeprefix('stem.')}"
    if name.startswith(_AUXILIARY) and model.auxiliary_head is not None:
        last = len(model.auxiliary_head) - 1
        inside = name.removeprefix(_AUXILIARY).removeprefix("features.")
        return _AUXILIARY + re.sub(r"^classifier\.", f"{last}.", inside)
    return name


def _layer(name: str) -> str:
    """Rename a layer inside an operation; only the factorized reduction is built in another way."""
    for theirs, ours in _LAYER.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
