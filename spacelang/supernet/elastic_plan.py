"""How an elastic layer computes a mixture: its calls, their weights, and how their outputs are summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ..errors import SpaceError
from ..nn import LayerSpec, Sizes
from .mixed import add_weighted


@dataclass(frozen=True, eq=False)
class Combination:
    """One of the layers an elastic layer can be.

    Args:
        name: Chosen values, for messages.
        arguments: Constructor arguments.
        layer: The layer on the meta device; it holds no numbers.
    """

    name: str
    arguments: Mapping[str, Any]
    layer: nn.Module

    def reads(self, sizes: Sizes) -> dict[str, dict[int, int]]:
        """Return the sizes of dimensions of each sized argument of `forward`, by name."""
        return {tensor: self._sized(dimensions) for tensor, dimensions in sizes.reads.items()}

    def _sized(self, dimensions: Mapping[int, str]) -> dict[int, int]:
        found = {dim: self.size(name, dim) for dim, name in dimensions.items()}
        # A single slope of a PReLU serves any number of channels.
        return {d: n for d, n in found.items() if not (dimensions[d] == "num_parameters" and n == 1)}

    def size(self, name: str, dim: int) -> int:
        """Return the size of a dimension that `Sizes` gives this name."""
        value = getattr(self.layer, name, None)
        if value is None:
            value = self.arguments.get(name)
        if isinstance(value, tuple | list):
            value = value[dim]
        if not isinstance(value, int):
            raise SpaceError(f"{type(self.layer).__name__} has no size {name!r}, which its `sizes` names.")
        return value


@dataclass(frozen=True, eq=False)
class Mask:
    """The weight on each entry of a tensor of which every combination has a box.

    m = sum_c p_c 1[entry in the box of c]; dimensions along which all boxes are whole have size 1.

    Args:
        first: Indicators of the boxes' first dimension, (combinations, n).
        faces: The face of each combination, its box without the first dimension, (combinations, f).
        rest: Indicators of the faces, (f, product of the other dimensions).
        shape: Shape of the mask.
    """

    first: Tensor
    faces: Tensor
    rest: Tensor
    shape: tuple[int, ...]

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the mask for weights of the combinations, (combinations,)."""
        with torch.autocast(weights.device.type, enabled=False):
            return ((self.first * weights[:, None]).T @ self.faces @ self.rest).view(self.shape)


def make_mask(boxes: Sequence[Sequence[tuple[int, int]] | None], shape: Sequence[int], like: Tensor) -> Mask:
    """Make the mask of a tensor.

    Args:
        boxes: `(start, size)` of each combination for every dimension; None where it has none.
        shape: Shape of the tensor.
        like: Weights, for device and dtype.
    """
    present = [box for box in boxes if box is not None]
    whole = [all(box[dim] == (0, length) for box in present) for dim, length in enumerate(shape)]
    shape = tuple(1 if w else length for w, length in zip(whole, shape, strict=True))
    # Along a dimension of size 1 every box is the whole of it.
    cut = [[(0, 1) if w else s for w, s in zip(whole, box, strict=True)] if box else None for box in boxes]
    kinds = list(dict.fromkeys(tuple(box[1:]) for box in cut if box))
    first = torch.zeros(len(boxes), shape[0])
    faces = torch.zeros(len(boxes), len(kinds))
    for row, box in enumerate(cut):
        if box is not None:
            first[row, slice(box[0][0], sum(box[0]))] = 1
            faces[row, kinds.index(tuple(box[1:]))] = 1
    rest = torch.zeros(len(kinds), *shape[1:])
    for row, face in enumerate(kinds):
        rest[row][tuple(slice(start, start + size) for start, size in face)] = 1
    return Mask(first.to(like), faces.to(like), rest.view(len(kinds), -1).to(like), shape)


@dataclass(frozen=True, eq=False)
class Call:
    """One call, which computes the weighted sum of some combinations.

    Args:
        position: Position of the first of them.
        layer: Called layer, on the meta device: the combination, or a layer that holds all of them.
        reads: See `Combination.reads`.
        masks: Masks of its parameters.
        output: Mask of its output along a dimension, `(dimension, mask)`.

    A call without masks computes one combination, whose weight its output is multiplied by.
    """

    position: int
    layer: nn.Module
    reads: Mapping[str, Mapping[int, int]]
    masks: Mapping[str, Mask]
    output: tuple[int, Mask] | None = None

    def __call__(self, tensors: dict[str, Tensor], weights: Tensor, args: Any, kwargs: Any) -> Any:
        """Compute with `tensors` for the layer's parameters and buffers, and weights of all combinations."""
        for name, mask in self.masks.items():
            tensors[name] = tensors[name] * mask(weights).to(tensors[name].dtype)
        args, kwargs = self._cut(args, kwargs)
        output = functional_call(self.layer, tensors, args, kwargs)
        if self.output is not None:
            dim, mask = self.output
            shape = [1] * output.dim()
            shape[dim] = -1
            return output * mask(weights).to(output.dtype).view(shape)
        return output if self.masks else scaled(output, weights[self.position])

    def _cut(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        names = list(self.reads)
        cut = tuple(narrowed(x, self.reads[names[i]]) if i < len(names) else x for i, x in enumerate(args))
        named = {name: narrowed(x, self.reads.get(name, {})) for name, x in kwargs.items()}
        if getattr(self.layer, "inplace", False):  # other combinations read the same input
            return tree_map_only(Tensor, torch.clone, (cut, named))  # type: ignore[no-any-return]
        return cut, named


@dataclass(frozen=True, eq=False)
class Plan:
    """The calls of an elastic layer while certain choices are active.

    Args:
        where: Name of the layer, for messages.
        spec: Its type and arguments.
        largest: Its weights.
        sizes: Its sized dimensions.
        names: Names of the combinations.
        merging: Joint choices that make each combination, (combinations, joint choices) of zeros and ones;
            None where each makes its own.
        calls: Calls that together compute all combinations.
        updating: The call that updates running statistics.
        needs: Largest sizes of any combination; see `Combination.reads`.
    """

    where: str
    spec: LayerSpec
    largest: nn.Module
    sizes: Sizes
    names: tuple[str, ...]
    merging: Tensor | None
    calls: Sequence[Call]
    updating: Call
    needs: Mapping[str, Mapping[int, int]]

    def __call__(self, joint: Tensor, args: Any, kwargs: Any, *, training: bool) -> Any:
        """Compute the mixture of all combinations, `joint` the weights of the joint choices."""
        weights = joint if self.merging is None else (self.merging * joint).sum(1)  # (combinations,)
        self._check(args, kwargs)
        outputs = []
        for call in self.calls:
            call.layer.train(training)
            tensors = self.spec.slices(self.largest, call.layer)
            if training and call is not self.updating:
                tensors |= {name: tensors[name].clone() for name, _ in call.layer.named_buffers()}
            outputs.append((self.names[call.position], call(tensors, weights, args, kwargs)))
        return self._sum(outputs)

    def _check(self, args: Any, kwargs: Any) -> None:
        """Raise a `SpaceError` unless inputs have the sizes the largest combinations read."""
        for (name, sizes), x in zip(self.needs.items(), args, strict=False):
            self._check_sizes(name, sizes, x)
        for name in kwargs.keys() & self.needs.keys():
            self._check_sizes(name, self.needs[name], kwargs[name])

    def _check_sizes(self, name: str, sizes: Mapping[int, int], value: Any) -> None:
        for x in tensors_in(value) if sizes else ():
            for dim, size in sizes.items():
                if x.shape[dim] != size:
                    raise SpaceError(
                        f"{self.where}: {name} has shape {tuple(x.shape)}, but active choices read up to "
                        f"{size} entries in dimension {dim}, and in a mixture all sizes are padded to the "
                        "largest. The layer before must have the same expression for its size."
                    )

    def _sum(self, outputs: Sequence[tuple[str, Any]]) -> Any:
        """Sum the calls' outputs, tensor by tensor, each padded to the largest."""
        flat = [(name, *tree_flatten(output)) for name, output in outputs]
        _, first, structure = flat[0]
        summed = [
            self._sum_tensors([(name, leaves[i]) for name, leaves, _ in flat], self.sizes.returned(i))
            for i in range(len(first))
        ]
        return tree_unflatten(summed, structure)

    def _sum_tensors(self, terms: Sequence[tuple[str, Any]], dimensions: Iterable[int]) -> Any:
        if all(y is None for _, y in terms):
            return None
        for name, y in terms:
            if not isinstance(y, Tensor) or not y.is_floating_point():
                kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
                raise SpaceError(f"{self.where}: {name!r} returned a {kind}, which cannot be mixed.")
        for dim in dimensions:
            size = max(y.shape[dim] for _, y in terms)
            terms = [(name, padded(y, dim, size)) for name, y in terms]
        return add_weighted(terms, self.where)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a value, in order."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def scaled(output: Any, weight: Tensor) -> Any:
    """Return `weight`, zero-dimensional so that it promotes no dtype, times the tensors of an output."""
    return tree_map_only(Tensor, lambda y: weight * y if y.is_floating_point() else y, output)


def narrowed(value: Any, sizes: Mapping[int, int]) -> Any:
    """Return the first entries of every tensor of a value, as many as `sizes` says for each dimension."""

    def narrow(x: Tensor) -> Tensor:
        for dim, size in sizes.items():
            x = x if x.shape[dim] == size else x.narrow(dim, 0, size)
        return x

    return tree_map_only(Tensor, narrow, value) if sizes else value


def padded(x: Tensor, dim: int, size: int) -> Tensor:
    """Append zeros along a dimension up to `size`."""
    missing = size - x.shape[dim]
    behind = x.dim() - 1 - dim % x.dim()  # dimensions after it
    return functional.pad(x, (0, 0) * behind + (0, missing)) if missing else x
