"""Elastic layers: one set of weights, sliced to whatever sizes are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from ..errors import SpaceError
from ._group import Group
from ._mixed import Mixed

if TYPE_CHECKING:
    from ..nn import ValueLayer


class ElasticLayer(Mixed):
    """A layer whose arguments are chosen, computed with slices of its largest weights.

    Running statistics are sliced by view, so that a selected path updates its part of them.
    """

    def __init__(self, groups: Sequence[Group], layer: ValueLayer) -> None:
        super().__init__()
        self.groups = list(groups)
        self.spec = layer.spec
        self.largest = layer.largest
        self._plain: dict[str, nn.Module] = {}
        labels = ", ".join(repr(group.label) for group in self.groups)
        self.soft_refusal = f"{labels}: {self.spec} computes one choice at a time"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plain": {}}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not all(group.is_selected for group in self.groups):
            raise SpaceError(f"{self.soft_refusal}; call supernet.select(arch).")
        arch = {group.label: group.selected for group in self.groups}
        layer = self._layer(arch)
        return functional_call(layer, self.spec.slices(self.largest, layer), args, kwargs)

    def _layer(self, arch: Mapping[str, Any]) -> nn.Module:
        """Layer of the chosen sizes, without memory of its own."""
        key = repr(arch)
        if key not in self._plain:
            with torch.device("meta"):
                self._plain[key] = self.spec.build(arch)
        return self._plain[key].train(self.training)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.spec.sliced(self.largest, arch)
