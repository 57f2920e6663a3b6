"""Why an elastic layer cannot compute a mixture, said before any training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import conv, pooling
from torch.nn.modules.utils import _ntuple

from ..errors import SpaceError
from ..language import Value
from ..language.values import Choice, Expression, merge_decisions
from ..nn import LayerSpec, Sizes
from .elastic_merge import paddings
from .elastic_plan import Combination

_MOST_COMPARED = 10_000


class Produced:
    """Sizes that layers of one network return.

    In a mixture a tensor whose size is chosen is padded at its end, so a layer may read it only where its own
    size is the same expression. What lies between may move entries elsewhere: a concatenation, a split.
    """

    def __init__(self) -> None:
        self._sizes: list[tuple[Value, bool, LayerSpec]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Produced:
        return self  # layers of one network share it while it is being made; then it is not changed

    def add(self, spec: LayerSpec, sizes: Sizes, layer: nn.Module) -> None:
        """Note the sizes that a layer returns, unless it only passes on those it reads."""
        passed = set(next(iter(sizes.reads.values()), {}).values())
        for name in {name for dimensions in sizes.returns for name in dimensions.values()} - passed:
            size = spec.arguments.get(name)
            if isinstance(size, Value):
                self._sizes.append((size, isinstance(layer, conv._ConvNd), spec))
                if getattr(layer, "bidirectional", False):
                    self._sizes.append((size * 2, False, spec))

    def holds(self, size: Value, spec: LayerSpec) -> bool:
        """Return whether a layer finds what its frozen form reads in the first `size` entries."""
        if str(size) in (str(other) for other, _, _ in self._sizes):
            return True
        labels = {decision.label for decision in size.decisions()}
        related = [
            (other, is_channels)
            for other, is_channels, origin in self._sizes
            if origin is not spec and labels & {decision.label for decision in other.decisions()}
        ]
        if not related:  # it comes from elsewhere
            return not is_sum(size)
        # Feature maps that were flattened: channels come first, so that padding is still at the end.
        factors = [(ratio(size, other), is_channels) for other, is_channels in related]
        flattens = issubclass(spec.layer_type, nn.Linear)
        return any(
            factor == 1 or (flattens and is_channels and factor is not None and factor.is_integer())
            for factor, is_channels in factors
        )


def ratio(size: Value, other: Value) -> float | None:
    """Return `size / other` if it is the same under every architecture, else None."""
    decisions = merge_decisions([size.decisions(), other.decisions()])
    if math.prod(decision.cardinality for decision in decisions) > _MOST_COMPARED:
        return None
    labels = [decision.label for decision in decisions]
    found = set()
    for values in itertools.product(*(decision.values() for decision in decisions)):
        arch = dict(zip(labels, values, strict=True))
        try:
            found.add(size.evaluate(arch) / other.evaluate(arch))
        except (SpaceError, ArithmeticError, TypeError):
            return None
        if len(found) > 1:
            return None
    return float(found.pop())


def is_sum(size: Value) -> bool:
    """Return whether a size is a sum or difference, or a multiple of one: likely that of a concatenation."""
    if not isinstance(size, Expression):
        return False
    if size.name == "*":
        return any(isinstance(argument, Value) and is_sum(argument) for argument in size.args)
    return size.name in ("+", "-")


def refusal(
    spec: LayerSpec,
    sizes: Sizes | None,
    largest: nn.Module,
    combinations: Sequence[Combination],
    produced: Produced,
) -> str | None:
    """Return why these combinations cannot be mixed, as a sentence without its subject, or None."""
    if len(combinations) < 2:
        return None
    if sizes is None:
        return f"computes one choice at a time, since {spec.unmixed}"
    for name in sizes.fixed:
        values = {repr(combination.arguments.get(name)) for combination in combinations}
        if len(values) > 1:
            return f"returns different things for each {name}, which cannot be summed"
    try:
        for combination in combinations:
            combination.reads(sizes)
    except SpaceError as error:
        return f"cannot be mixed: {str(error).rstrip('.')}"
    layers = [combination.layer for combination in combinations]
    if getattr(largest, "return_indices", False):
        return "returns indices, which cannot be summed"
    if getattr(largest, "proj_size", 0):
        return "has projected states, which cannot be mixed; use an nn.Linear after the layer"
    return _different_maps(layers) or _misread(spec, sizes, produced)


def _different_maps(layers: Sequence[nn.Module]) -> str | None:
    """Return why feature maps differ in height or width whatever the input, or None."""
    geometries = [list(_geometry(layer)) for layer in layers]
    for dimension in zip(*geometries, strict=False):
        strides = sorted({stride for stride, _, _ in dimension})
        if len(strides) > 1:
            listed = " or ".join(map(str, strides))
            return f"returns feature maps of different sizes (stride {listed}), which cannot be summed"
        growths = [growth for _, growth, _ in dimension]
        if max(growths) - min(growths) >= dimension[0][2]:
            return (
                "returns feature maps of different sizes, which cannot be summed; "
                "pad by dilation * (kernel_size // 2)"
            )
    return None


def _geometry(layer: Any) -> Iterator[tuple[int, int, int]]:
    """Yield per dimension: stride, size added before it, and how much more changes the output's size."""
    if isinstance(layer, conv._ConvNd):
        before, after = paddings(layer)
        for i, (kernel, stride) in enumerate(zip(layer.kernel_size, layer.stride, strict=True)):
            growth = before[i] + after[i] - layer.dilation[i] * (kernel - 1)
            extra = layer.output_padding[i]
            yield stride, growth - extra, 1 if layer.transposed else stride
    elif isinstance(layer, pooling._MaxPoolNd | pooling._AvgPoolNd | pooling._LPPoolNd):
        triple = _ntuple(3)  # type: ignore[no-untyped-call]
        values = [
            triple(getattr(layer, name, default) or default)
            for name, default in (
                ("kernel_size", 1),
                ("stride", layer.kernel_size),
                ("padding", 0),
                ("dilation", 1),
            )
        ]
        for kernel, stride, padding, dilation in zip(*values, strict=False):
            yield stride, 2 * padding - dilation * (kernel - 1), stride


def _misread(spec: LayerSpec, sizes: Sizes, produced: Produced) -> str | None:
    """Return why the layer would read other entries of a padded tensor than its frozen form, or None."""
    for leaf in itertools.chain(*map(_leaves, spec.arguments.values())):
        if not isinstance(leaf, Choice):  # a count of the loose ends of a cell
            return (
                f"depends on {leaf}, but in a mixture all that it counts is there; of a cell, "
                "merge_op='all', 'mean' or 'sum' can be mixed"
            )
    names = {name for tensor, read in sizes.reads.items() if tensor != "hx" for name in read.values()}
    for name in sorted(names):
        given = spec.arguments.get(name)
        for size in given if isinstance(given, list | tuple) else [given]:
            if isinstance(size, Value) and not produced.holds(size, spec):
                return (
                    f"reads {size} entries, which no layer returns in one piece: parts that were joined or "
                    "split are padded each by itself. Give every part its own layer and add their outputs"
                )
    return None


def _leaves(value: Any) -> Iterator[Value]:
    """Yield the values an argument is computed from."""
    parts = value.args if isinstance(value, Expression) else value
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from _leaves(part)
    elif isinstance(value, Value):
        yield value
