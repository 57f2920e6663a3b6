"""Carved modules: existing modules of which some dimensions have chosen sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.tensors import without_data
from ..language import Value
from ..language.context import FreezeContext
from ..language.values import decisions_of, evaluate
from ..nn import LayerSpec, Sizes, ValueLayer, sizes_of
from .couplings import named_tensors
from .cuts import Cut
from .substitutes import runnable

Cuts = Mapping[str, Mapping[int, Cut]]
"""Cuts of a module's parameters and buffers, by name and dimension."""


@dataclass(frozen=True, eq=False)
class CarvedSpec(LayerSpec):
    """A module and which of its sizes are chosen.

    Args:
        layer_type: Class of the module.
        arguments: Its path, and the attributes and dimensions that have chosen sizes.
        cuts: Dimensions of its tensors that follow them.
        outline: The module without data.
        borders: Dimensions of what it reads and returns that follow them.
    """

    cuts: Cuts
    outline: nn.Module
    borders: Borders

    @property
    def unmixed(self) -> str:
        return self.borders.unmixed or super().unmixed

    def input_sizes(self, arch: Mapping[str, Any]) -> Mapping[str, Mapping[int, int]]:
        return {
            name: {dim: int(cut.at(arch).length) for dim, cut in dims.items()}
            for name, dims in self.borders.read.items()
        }

    def build(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return the module of an architecture with weights that have no values yet."""
        layer = self.sliced(self.outline, arch)
        device = torch.get_default_device()
        layer = layer if device.type == "meta" else layer.to_empty(device=device)
        vars(layer)[_CUTS] = self._decided(arch)
        return layer

    def slices(self, largest: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
        sources, decided = dict(named_tensors(largest)), vars(layer).get(_CUTS)
        if decided is not None:
            return {name: _cut(sources[name], decided.get(name, {})) for name, _ in named_tensors(layer)}
        found = {}
        for name, like in named_tensors(layer):  # it holds several choices, the first entries each
            part = sources[name]
            for dim in self.cuts.get(name, {}):
                part = part.narrow(dim, 0, like.shape[dim])
            found[name] = part
        return found

    def keep(self, largest: nn.Module, layer: nn.Module, slices: Mapping[str, Tensor]) -> None:
        for name, buffer in largest.named_buffers():
            cut = vars(layer)[_CUTS].get(name, {}).get(0)
            if cut is not None and not cut.is_prefix and buffer.dim() == 1:
                buffer[cut.of(torch.arange(len(buffer), device=buffer.device), 0)] = slices[name]

    def sliced(self, largest: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
        decided = self._decided(arch)
        tensors: dict[int, Tensor] = {}
        for name, tensor in named_tensors(largest):
            part = _cut(tensor.detach(), decided.get(name, {})).clone()
            held = isinstance(tensor, nn.Parameter)
            tensors[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if held else part
        layer = _twin(largest, tensors)
        for path, value in self.arguments.items():
            owner, _, name = path.rpartition(".")
            if decisions_of(value) and _has(layer, path):
                setattr(layer.get_submodule(owner), name, evaluate(value, arch))
        return runnable(layer, largest)

    def _decided(self, arch: Mapping[str, Any]) -> dict[str, dict[int, Cut]]:
        return {name: {dim: cut.at(arch) for dim, cut in cuts.items()} for name, cuts in self.cuts.items()}


_CUTS = "spacelang_cuts"  # attribute of a layer on the meta device: the cuts that it was built with


def _cut(tensor: Tensor, cuts: Mapping[int, Cut]) -> Tensor:
    for dim, cut in cuts.items():
        tensor = cut.of(tensor, dim)
    return tensor


def _has(module: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    try:
        return name in vars(module.get_submodule(owner))
    except AttributeError:
        return False


def _twin(module: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """Return a copy of a module that holds other tensors and shares what is neither module nor tensor."""
    known: dict[int, nn.Module] = {}

    def copied(original: nn.Module) -> nn.Module:
        if id(original) in known:
            return known[id(original)]
        known[id(original)] = twin = type(original).__new__(type(original))
        for name, value in vars(original).items():
            vars(twin)[name] = copy.copy(value) if isinstance(value, dict) else value
        for name, child in original._modules.items():
            twin._modules[name] = None if child is None else copied(child)
        for table in (twin._parameters, twin._buffers):
            for name, tensor in table.items():
                table[name] = None if tensor is None else tensors[id(tensor)]  # type: ignore[assignment]
        return twin

    return copied(module)


def outline_of(module: nn.Module) -> nn.Module:
    """Return a copy of a module without data."""
    return _twin(module, {id(tensor): without_data(tensor) for _, tensor in named_tensors(module)})


class Carved(ValueLayer):
    """An existing module of which some sizes are chosen.

    Args:
        largest: The module as it is.
        spec: Its chosen sizes.
        sizes: Sizes by which a mixture is padded; None where choices are computed one at a time.
    """

    spec: CarvedSpec

    def __init__(self, largest: nn.Module, spec: CarvedSpec, sizes: Sizes | None) -> None:
        super(ValueLayer, self).__init__()
        self.spec = spec
        self.largest = largest
        self._sizes = sizes

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        return None

    def mixed_sizes(self) -> Sizes | None:
        return self._sizes


def carved(module: nn.Module, path: str, cuts: Cuts, *, heads: Mapping[str, Any], borders: Borders) -> Carved:
    """Return a module whose sizes are chosen.

    Args:
        module: The module as it is; becomes part of the result.
        path: Its path in the network.
        cuts: Dimensions of its tensors that have chosen sizes.
        heads: Attributes that count its heads, and their values.
        borders: Dimensions of what it reads and returns that have chosen sizes.
    """
    arguments = dict(heads)
    for name, child in module.named_modules():
        own = {n.rpartition(".")[2]: c for n, c in cuts.items() if n.rpartition(".")[0] == name}
        prefix = f"{name}." if name else ""
        arguments |= {f"{prefix}{key}": value for key, value in attributes(child, own).items()}
    told = {decision.label for decision in decisions_of(arguments)}
    for name, dim, cut in _flat(cuts):
        several = [length for length in cut.lengths() if isinstance(length, Value)]
        if len(several) > 1:  # the sum does not tell them apart
            arguments[f"{name}[{dim}]"] = tuple(several)
        elif not told.issuperset(decision.label for decision in decisions_of(several)):
            arguments[f"{name}[{dim}]"] = cut.length
        told = {decision.label for decision in decisions_of(arguments)}
    sizes = sizes_of(module) if all(cut.is_prefix for _, _, cut in _flat(cuts)) else None
    if borders.unmixed:
        sizes = None
    elif sizes is None:
        sizes = borders.sizes
        arguments |= borders.arguments
    spec = CarvedSpec(type(module), {"path": path, **arguments}, cuts, outline_of(module), borders)
    return Carved(module, spec, sizes)


@dataclass(frozen=True, eq=False)
class Borders:
    """Dimensions with chosen sizes of what a module reads and returns.

    Args:
        read: Cuts by the dimension, counted from the last, of each argument by name, in order.
        returned: The same of each returned tensor.
        is_reduced: Whether the network computes something from all channels of such a dimension together.
    """

    read: Mapping[str, Mapping[int, Cut]]
    returned: Sequence[Mapping[int, Cut]]
    is_reduced: bool

    @property
    def unmixed(self) -> str:
        """Reason why what choices return cannot be padded and added, or an empty text."""
        cuts = [cut for dims in (*self.read.values(), *self.returned) for cut in dims.values()]
        if not all(cut.is_prefix for cut in cuts):
            return "it reads or returns several parts of chosen sizes, each of which is padded by itself"
        if cuts and self.is_reduced:
            return "something is computed from all of its channels together, which padding would change"
        return ""

    @property
    def sizes(self) -> Sizes:
        """Names of the sizes; those of `arguments`."""
        reads = {name: {dim: f"{name}[{dim}]" for dim in dims} for name, dims in self.read.items()}
        returns = tuple({dim: f"output {i}[{dim}]" for dim in d} for i, d in enumerate(self.returned))
        return Sizes(reads, returns or ({},))

    @property
    def arguments(self) -> dict[str, Any]:
        """Sizes by name."""
        every = [*self.read.items(), *((f"output {i}", d) for i, d in enumerate(self.returned))]
        return {f"{name}[{dim}]": cut.length for name, d in every for dim, cut in d.items()}


def _flat(cuts: Cuts) -> Iterator[tuple[str, int, Cut]]:
    for name, dims in cuts.items():
        for dim, cut in dims.items():
            yield name, dim, cut


def attributes(module: nn.Module, cuts: Cuts) -> dict[str, Any]:
    """Return the attributes of a layer that follow the sizes of its tensors.

    Args:
        module: Layer.
        cuts: Cuts of its own tensors.
    """

    def length(name: str, dim: int) -> Any:
        cut = cuts.get(name, {}).get(dim)
        return getattr(module, name).shape[dim] if cut is None else cut.length

    found: dict[str, Any] = {}
    if isinstance(module, nn.modules.conv._ConvNd):
        rows, columns = length("weight", 0), length("weight", 1)
        groups: Any = module.groups
        outer = cuts["weight"][0].factors[0] if 0 in cuts.get("weight", {}) else 1
        if groups > 1 and not isinstance(outer, int) and outer.size == groups:
            groups = outer.length
        found["groups"] = groups
        found["in_channels"] = rows if module.transposed else columns * groups
        found["out_channels"] = columns * groups if module.transposed else rows
    elif isinstance(module, nn.Linear):
        found = {"in_features": length("weight", 1), "out_features": length("weight", 0)}
    elif isinstance(module, nn.modules.batchnorm._NormBase) and module.affine:
        found["num_features"] = length("weight", 0)
    elif isinstance(module, nn.GroupNorm) and module.affine:
        found["num_channels"] = length("weight", 0)
    elif isinstance(module, nn.PReLU):
        found["num_parameters"] = length("weight", 0)
    elif isinstance(module, nn.Embedding):
        found["embedding_dim"] = length("weight", 1)
    elif {"nf", "nx", "weight"} <= {*vars(module), *module._parameters}:  # Conv1D of transformers
        found = {"nf": length("weight", 1), "nx": length("weight", 0)}
    elif cuts.get("weight") and isinstance(getattr(module, "normalized_shape", None), tuple):
        rank = module.get_parameter("weight").dim()
        found["normalized_shape"] = tuple(length("weight", dim) for dim in range(rank))
    return {name: value for name, value in found.items() if decisions_of(value)}
