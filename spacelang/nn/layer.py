"""Layers of torch.nn whose arguments may be value choices."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import SpaceError
from ..language import Decision, Interval, Value
from ..language.context import FreezeContext
from ..language.primitive import Primitive, Relaxer, Undecided
from ..language.values import decisions_of, evaluate
from ..randomness import torch_generators_kept
from .sizes import Sizes, sizes_of


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """A layer type and its arguments, some of them value choices.

    Args:
        layer_type: Class of torch.nn.
        arguments: Constructor arguments by name.

    Attributes:
        nested: Whether the weights of a smaller choice are entries of those of a larger one, so that one call
            with masked weights may compute a mixture. A subclass whose `slices` computes says no.
    """

    layer_type: type[nn.Module]
    arguments: Mapping[str, Any]
    nested: ClassVar[bool] = True

    @property
    def unmixed(self) -> str:
        """Return why mixtures of its choices cannot be computed, where `Sizes` are not known."""
        return "it is not known which of its dimensions have chosen sizes"

    def __str__(self) -> str:
        return f"{self.layer_type.__name__}({self.written})"

    @property
    def written(self) -> str:
        """Arguments as they are written in a call, value choices by their labels."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments.items())

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerSpec:
        return self  # immutable, and its values stay symbolic in copies

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Decisions the arguments depend on."""
        return decisions_of(dict(self.arguments))

    @cached_property
    def ranges(self) -> dict[str, float]:
        """Defaults of the ranges among the decisions, by label; no size depends on a range."""
        return {d.label: d.default for d in self.decisions if isinstance(d, Interval)}

    @property
    def sized(self) -> tuple[Decision, ...]:
        """Decisions that sizes may depend on: those that are not ranges."""
        return tuple(decision for decision in self.decisions if decision.label not in self.ranges)

    def input_sizes(self, arch: Mapping[str, Any]) -> Mapping[str, Mapping[int, int]]:
        """Return sizes of dimensions by argument of `forward`, unless the layer's attributes say them."""
        return {}

    def build(self, arch: Mapping[str, Any]) -> nn.Module:
        """Construct the plain layer of an architecture, with defaults of ranges that it lacks."""
        return self.layer_type(**evaluate(dict(self.arguments), {**self.ranges, **arch}))

    def build_largest(self) -> nn.Module:
        """Construct the layer whose weights contain those of every choice."""
        sizes = {name: _largest(value) for name, value in self.arguments.items()}
        if isinstance(self.arguments.get("groups"), Value):
            sizes["groups"] = self._fewest_groups(sizes["in_channels"])
        shared = _SHARED.get(self.layer_type, "")
        if isinstance(self.arguments.get(shared), Value):
            sizes[shared] = 1  # the most need not divide the largest size
        try:
            return self.layer_type(**sizes)
        except (AssertionError, TypeError, ValueError) as error:
            hint = " A range is for what is no size; use value_choice([...])." * bool(self.ranges)
            raise SpaceError(
                f"{self} cannot be built with its largest arguments {sizes}: {error}{hint}"
            ) from error

    def _fewest_groups(self, in_channels: int) -> int:
        """Return groups that leave each filter as many channels as any choice; depthwise stays depthwise."""
        ratio: Any = self.arguments["in_channels"] // self.arguments["groups"]
        return in_channels // int(max(ratio.possible()))

    def slices(self, largest: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
        """Return views of the parameters and buffers of `largest`, cut to the shapes of `layer`, by name."""
        sources = dict(_tensors(largest))
        return {name: self._cut(name, sources, like, largest) for name, like in _tensors(layer)}

    def keep(self, largest: nn.Module, layer: nn.Module, slices: Mapping[str, Tensor]) -> None:
        """Write statistics that a call of `layer` changed in `slices` back to `largest`, if no views."""

    def sliced(self, largest: nn.Module, arch: Mapping[str, Any]) -> nn.Module:
        """Return the plain layer of an architecture with copies of its slices of `largest`."""
        # First weights are overwritten: whatever the default device, draw them where no generator advances.
        device = torch.device("meta" if any(tensor.is_meta for _, tensor in _tensors(largest)) else "cpu")
        with torch_generators_kept(), device:
            layer = self.build(arch)
        with torch.enable_grad():  # else slices do not say whether they are trained
            cuts = self.slices(largest, layer)
        for name, tensor in _tensors(layer):
            tensor.data = cuts[name].detach().clone()  # device, dtype and memory layout with it
            tensor.requires_grad_(cuts[name].requires_grad)
        return layer.train(largest.training)

    def first(self, dim: int, room: int) -> int:
        """Return where a slice begins in dimension `dim` of a tensor that is larger by `room`."""
        # Kernels are cropped at their centre, channels taken from the first.
        is_convolution = issubclass(self.layer_type, nn.modules.conv._ConvNd)
        return room // 2 if is_convolution and dim >= 2 else 0

    def _cut(self, name: str, sources: dict[str, Tensor], like: Tensor, largest: nn.Module) -> Tensor:
        path = name[: name.rfind(".") + 1]
        projections = [f"{path}{projection}" for projection in _PROJECTIONS]
        joint = f"{path}in_proj_weight"
        if name == joint and name not in sources and sources.keys() >= set(projections):
            rows = like.chunk(3)
            return torch.cat(
                [self._cut(p, sources, r, largest) for p, r in zip(projections, rows, strict=True)]
            )
        source = sources.get(name)
        if name in projections and source is None and joint in sources:
            source = sources[joint].chunk(3)[projections.index(name)]
        if source is None or source.dim() != like.dim():
            raise SpaceError(f"{self}: {name} of one choice has no counterpart in the largest layer.")
        stacked = _stacked_blocks(largest, name)
        if stacked > 1:  # several gates or projections stacked in dimension 0: cut each of them
            blocks = source.view(stacked, -1, *source.shape[1:]).narrow(1, 0, like.shape[0] // stacked)
            return (blocks.narrow(2, 0, like.shape[1]) if like.dim() > 1 else blocks).flatten(0, 1)
        for dim, size in enumerate(like.shape):
            room = source.shape[dim] - size
            if room < 0:
                raise SpaceError(
                    f"{self}: {name} of shape {tuple(like.shape)} does not fit in the largest, "
                    f"{tuple(source.shape)}."
                )
            source = source.narrow(dim, self.first(dim, room), size)
        return source


_SHARED: dict[type[nn.Module], str] = {
    nn.MultiheadAttention: "num_heads",
    nn.TransformerEncoderLayer: "nhead",
    nn.TransformerDecoderLayer: "nhead",
    nn.GroupNorm: "num_groups",
}
"""Arguments that say among how many the weights are shared out, and not their shapes."""


_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights of attention whose keys or values have sizes of their own; otherwise they are one tensor."""


def _stacked_blocks(layer: nn.Module, name: str) -> int:
    """Return the number of blocks of equal size that dimension 0 of a tensor of `layer` consists of."""
    path, _, name = name.rpartition(".")
    owner = layer.get_submodule(path)
    if isinstance(owner, nn.MultiheadAttention) and name.startswith("in_proj"):
        return 3
    if isinstance(owner, nn.LSTM | nn.LSTMCell):
        return 1 if name.startswith("weight_hr") else 4  # of states' projections there is one
    return 3 if isinstance(owner, nn.GRU | nn.GRUCell) else 1


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _largest(value: Any) -> Any:
    """Return the largest value an argument can take; without an order, the first."""
    if isinstance(value, list | tuple):
        return type(value)(map(_largest, value))
    if not isinstance(value, Value):
        return value
    possible = value.possible()
    if all(isinstance(p, tuple) for p in possible):
        return tuple(map(max, zip(*possible, strict=True)))
    if all(isinstance(p, bool) for p in possible):
        return any(possible)
    numeric = all(isinstance(p, int | float) and not isinstance(p, bool) for p in possible)
    return max(possible) if numeric else possible[0]


class ValueLayer(Primitive):
    """A layer of torch.nn with value choices among its arguments.

    Without any it is constructed as the plain layer, and so it is in `model_context`. In a space it holds
    the largest layer; every choice is a slice of its weights (kernels cropped at the centre).

    For a layer of your own, subclass with its `layer_type`, and with `sizes` if mixtures of its choices are
    to be computed:

        class Scaled(ValueLayer):
            layer_type = Scale  # Scale(features) multiplies (..., features) by a vector
            sizes = Sizes({"x": {-1: "features"}}, ({-1: "features"},))

    One whose smaller choices are computed from the largest weights has a subclass of `LayerSpec` with its own
    `slices` as its `spec_type`.
    """

    layer_type: type[nn.Module]
    sizes: Sizes | None = None
    spec_type: type[LayerSpec] = LayerSpec

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.spec = self._spec(args, kwargs)
        self.largest = self.spec.build_largest()

    @classmethod
    def build(cls, context: FreezeContext | None, *args: Any, **kwargs: Any) -> nn.Module | None:
        if not decisions_of([list(args), kwargs]):
            return cls.layer_type(*args, **kwargs)
        if context is None:
            return None
        spec = cls._spec(args, kwargs)
        problems = context.problems(spec.decisions)
        return Undecided(problems) if problems else spec.build(context.arch)

    @classmethod
    def _spec(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerSpec:
        return cls.spec_type(cls.layer_type, _arguments(cls.layer_type, args, kwargs))

    def extra_repr(self) -> str:
        return f"{self.spec.written}; {super().extra_repr()}"

    def shown(self) -> Iterable[tuple[str, nn.Module]]:
        return ()

    def decisions(self) -> tuple[Decision, ...]:
        return self.spec.decisions

    def mixed_sizes(self) -> Sizes | None:
        """Return the sizes by which a mixture is padded; None where choices are computed one at a time."""
        return self.sizes or sizes_of(self.largest)

    def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
        return self.spec.sliced(self.largest, arch)

    def relax(self, builder: Relaxer) -> nn.Module:
        return builder.mixed(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first = {decision.label: next(iter(decision.values())) for decision in self.decisions()}
        return self.freeze(first)(*args, **kwargs)


def _arguments(layer_type: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a layer by name."""
    try:
        bound = inspect.signature(layer_type).bind(*args, **kwargs)
    except TypeError as error:
        raise SpaceError(f"nn.{layer_type.__name__}: {error}.") from error
    arguments = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL and name in arguments:
            # RNNs take *args; their leading arguments have fixed names.
            names = (
                "input_size",
                "hidden_size",
                "num_layers",
                "bias",
                "batch_first",
                "dropout",
                "bidirectional",
            )
            arguments |= dict(zip(names, arguments.pop(name), strict=False))
    return arguments
