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
from .substitutes import runnable


@dataclass(frozen=True, eq=False)
class Cut:
    """The choice of how many entries of an atom a dimension keeps: always the first ones.

    The dimension is a product, (before, size, after), row by row.

    Args:
        before: Product of the atoms outside the one that is cut.
        size: Entries of the atom.
        after: Product of the atoms inside it.
        kept: Number of entries that are kept.
    """

    before: int
    size: int
    after: int
    kept: Value

    @property
    def is_prefix(self) -> bool:
        """Whether what is kept are the first entries of the dimension."""
        return self.before == 1

    @property
    def length(self) -> Value:
        """Length of the dimension that is left."""
        return self.kept * (self.before * self.after) if self.before * self.after > 1 else self.kept

    def of(self, tensor: Tensor, dim: int, length: int) -> Tensor:
        """Return a tensor with `length` entries of a dimension; a view where they are its first ones."""
        if tensor.shape[dim] == length:
            return tensor
        kept = length // (self.before * self.after)
        if self.is_prefix:
            return tensor.narrow(dim, 0, length)
        parts = parted(tensor, dim, (self.before, self.size, self.after))
        return parts.narrow(dim + 1, 0, kept).flatten(dim, dim + 2)


def parted(tensor: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """Return a tensor with a dimension split in several."""
    return tensor.reshape(*tensor.shape[:dim], *sizes, *tensor.shape[dim + 1 :])


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
        inputs: Dimensions of its arguments that follow them, too.
    """

    cuts: Cuts
    outline: nn.Module
    inputs: Mapping[str, Mapping[int, Value]]

    def input_sizes(self, arch: Mapping[str, Any]) -> Mapping[str, Mapping[int, int]]:
        return {
            name: {dim: int(size.evaluate(arch)) for dim, size in dims.items()}
            for name, dims in self.inputs.items()
        }

    def build(self, arch: Mapping[str, Any]) -> nn.Module:
        """Return the module of an architecture with weights that have no values yet."""
        layer = self.sliced(self.outline, arch)
        device = torch.get_default_device()
        return layer if device.type == "meta" else layer.to_empty(device=device)

    def slices(self, largest: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
        sources = dict(named_tensors(largest))
        return {name: self._carved(name, sources[name], like.shape) for name, like in named_tensors(layer)}

    def keep(self, largest: nn.Module, slices: Mapping[str, Tensor]) -> None:
        for name, buffer in largest.named_buffers():
            cut = self.cuts.get(name, {}).get(0)
            if cut is not None and not cut.is_prefix and buffer.dim() == 1:
                kept = slices[name].view(cut.before, -1, cut.after)
                buffer.view(cut.before, cut.size, cut.after)[:, : kept.shape[1]].copy_(kept)

    def sliced(self, largest: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
        lengths = {
            (name, dim): int(cut.length.evaluate(arch))
            for name, cuts in self.cuts.items()
            for dim, cut in cuts.items()
        }
        tensors: dict[int, Tensor] = {}
        for name, tensor in named_tensors(largest):
            shape = [lengths.get((name, dim), size) for dim, size in enumerate(tensor.shape)]
            part = self._carved(name, tensor.detach(), shape).clone()
            held = isinstance(tensor, nn.Parameter)
            tensors[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if held else part
        layer = _twin(largest, tensors)
        for path, value in self.arguments.items():
            owner, _, name = path.rpartition(".")
            if decisions_of(value) and _has(layer, path):
                setattr(layer.get_submodule(owner), name, evaluate(value, arch))
        return runnable(layer, largest)

    def _carved(self, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        for dim, cut in self.cuts.get(name, {}).items():
            tensor = cut.of(tensor, dim, shape[dim])
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
        is_mixable: Whether a mixture of its sizes can be computed, padding what is smaller.
    """

    spec: CarvedSpec

    def __init__(self, largest: nn.Module, spec: CarvedSpec, *, is_mixable: bool) -> None:
        super(ValueLayer, self).__init__()
        self.spec = spec
        self.largest = largest
        self._is_mixable = is_mixable

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        return None

    def mixed_sizes(self) -> Sizes | None:
        return sizes_of(self.largest) if self._is_mixable else None


def carved(
    module: nn.Module,
    path: str,
    cuts: Cuts,
    *,
    heads: Mapping[str, Any],
    inputs: Mapping[str, Mapping[int, Value]],
    is_mixable: bool,
) -> Carved:
    """Return a module whose sizes are chosen.

    Args:
        module: The module as it is; becomes part of the result.
        path: Its path in the network.
        cuts: Dimensions of its tensors that have chosen sizes.
        heads: Attributes that count its heads, and their values.
        inputs: Sizes of dimensions of its arguments.
        is_mixable: See `Carved`.
    """
    arguments = dict(heads)
    for name, child in module.named_modules():
        own = {n.rpartition(".")[2]: c for n, c in cuts.items() if n.rpartition(".")[0] == name}
        prefix = f"{name}." if name else ""
        arguments |= {f"{prefix}{key}": value for key, value in attributes(child, own).items()}
    told = {decision.label for decision in decisions_of(arguments)}
    for name, dim, cut in _flat(cuts):
        if not told.issuperset(decision.label for decision in cut.kept.decisions()):
            arguments[f"{name}[{dim}]"] = cut.length
            told = {decision.label for decision in decisions_of(arguments)}
    spec = CarvedSpec(type(module), {"path": path, **arguments}, cuts, outline_of(module), inputs)
    plain = all(cut.is_prefix for _, _, cut in _flat(cuts))
    return Carved(module, spec, is_mixable=is_mixable and plain and not heads)


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
        outer = cuts.get("weight", {}).get(0)
        if outer is not None and groups > 1 and outer.size == groups and outer.is_prefix:
            groups = outer.kept
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
