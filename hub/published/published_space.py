"""The base class of spaces with published architectures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn

from spacelang import ModelSpace, model_context
from spacelang.errors import SpaceError, closest, quoted

from .entries import Entry, read_entry
from .weights import Pretrained, check_pretrained, fill, find_weights

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that nn.DataParallel, torch.compile and modules around a network put before every name."""
_COUNTER = ".num_batches_tracked"
_HEADS = re.compile(r"(classifier(\.[01]|\.linear)?|head)\.weight")


def build(entry: Entry, space: type, *, pretrained: Pretrained, overrides: Mapping[str, Any]) -> Any:
    """Build an entry as a plain network of its space class.

    Raises:
        SpaceError: the entry belongs to another space, the space has no such argument, or the weights do not
            fit.
    """
    if entry.space not in (base.__name__ for base in space.__mro__):
        raise SpaceError(f"{entry.name!r} is an architecture of {entry.space}, not of {space.__name__}.")
    check_pretrained(entry, pretrained)
    known = list(signature(space.__init__).parameters)[1:]  # type: ignore[misc]
    for argument in overrides:
        if argument not in known:
            names = f"its arguments are {quoted(known)}.{closest(argument, known)}"
            raise SpaceError(f"{entry.space} takes no argument {argument!r}; {names}")
    with model_context(dict(entry.architecture)):
        model = space(**{**entry.arguments, **overrides})
    if pretrained is not False:
        weights, origin = find_weights(entry, pretrained)
        weights = convert_weights(weights, model)
        if "num_classes" in overrides:
            weights |= _new_heads(weights, model, overrides["num_classes"])
        fill(model, weights, origin)
    return model


def _new_heads(weights: Mapping[str, Tensor], model: nn.Module, num_classes: int) -> dict[str, Tensor]:
    """Return the new weights of classifiers that were trained for another number of classes."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    heads = [name for name, module in linear.items() if module.out_features == num_classes]
    own = model.state_dict()
    names = [f"{head}.{part}" for head in heads for part in ("weight", "bias")]
    return {
        name: own[name]
        for name in names
        if name in weights and name in own
        if weights[name].shape[1:] == own[name].shape[1:] and len(weights[name]) != num_classes
    }


class PublishedSpace(ModelSpace):
    """A space of the hub, whose published architectures load by name."""

    @classmethod
    def load_searched_model(cls, name: str, *, pretrained: Pretrained = False, **overrides: Any) -> Self:
        """Build a published architecture of this space as a plain network.

        Args:
            name: An entry of `spacelang.hub.list_models()`.
            pretrained: True for the published weights, or the place of others; see `spacelang.hub.load`.
            overrides: Constructor arguments in place of the entry's, such as `num_classes=100`.

        Raises:
            SpaceError: the name is unknown (names the closest), the entry belongs to another space, or the
                weights are missing or do not fit.
        """
        model: Self = build(read_entry(name), cls, pretrained=pretrained, overrides=overrides)
        return model

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict of another implementation under the names of this network.

        Spaces whose networks other projects also have override it. The default keeps the names.
        """
        return dict(weights)

    @classmethod
    def arguments_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the constructor arguments that the shapes in a state dict of any known layout tell.

        The default reads `num_classes` from the classifier.
        """
        if "num_classes" not in signature(cls.__init__).parameters:
            return {}
        heads = [weight for name, weight in weights.items() if _HEADS.fullmatch(name)]
        return {"num_classes": len(heads[0])} if heads else {}

    @classmethod
    def architecture_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return the architecture that the shapes in a foreign state dict tell; None where they do not.

        The default is None: shapes do not tell how a cell is wired.
        """
        return None


def convert_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `weights` under the names of `model`, ready for `model.load_state_dict`.

    The names tell the layout. A state dict in our own layout keeps its names, and so does the state dict of
    a network for which no other layout is known. The slots of the architecture must be in the order of the
    trained network, as `from_genotype` leaves them. An auxiliary head that `model` does not have is left
    out. Counters of batch norms, which files of old versions of torch lack, are set to 0.

    Args:
        weights: State dict of an evaluation network, also of one inside `nn.DataParallel`, a compiled module,
            or a module that holds it as `model` or `net`.
        model: Network of the same architecture, width and number of cells.
    """
    own = model.state_dict()
    weights = unwrapped(weights, [p for p in _WRAPPERS if not all(name.startswith(p) for name in own)])
    if not isinstance(model, PublishedSpace):
        return weights
    converted = model.converted_weights(weights)
    return converted | _counters(converted, own)


def unwrapped(weights: Mapping[str, Tensor], prefixes: Sequence[str] = _WRAPPERS) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that all of its names share."""
    for prefix in prefixes:
        if weights and all(name.startswith(prefix) for name in weights):
            return unwrapped({name.removeprefix(prefix): w for name, w in weights.items()}, prefixes)
    return dict(weights)


def _counters(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for each missing `num_batches_tracked` of a batch norm that is in `weights`."""
    layers = (name.removesuffix(_COUNTER) for name in own if name.endswith(_COUNTER))
    return {
        layer + _COUNTER: torch.tensor(0)
        for layer in layers
        if layer + _COUNTER not in weights and f"{layer}.running_mean" in weights
    }
