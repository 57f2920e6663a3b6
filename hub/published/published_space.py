"""The base class of spaces with published architectures."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, Self

from torch import Tensor

from spacelang import ModelSpace, model_context
from spacelang.errors import SpaceError, closest, quoted

from .entries import Entry, read_entry
from .weights import Pretrained, check_pretrained, load_weights


def build(entry: Entry, space: type, *, pretrained: Pretrained, overrides: Mapping[str, Any]) -> Any:
    """Build an entry as a plain network of its space class.

    Raises:
        SpaceError: `space` is another space, has no such argument, or the weights do not fit.
    """
    if entry.space not in (base.__name__ for base in space.__mro__):
        raise SpaceError(f"{entry.name!r} is an architecture of {entry.space}, not of {space.__name__}.")
    check_pretrained(entry, pretrained)
    known = list(signature(space.__init__).parameters)[1:]  # type: ignore[misc]
    for argument in overrides:
        if argument not in known:
            names = f"it takes {quoted(known)}.{closest(argument, known)}"
            raise SpaceError(f"{entry.space} takes no argument {argument!r}; {names}")
    with model_context(dict(entry.architecture)):
        model = space(**{**entry.arguments, **overrides})
    if pretrained is not False:
        load_weights(model, entry, pretrained)
    return model


class PublishedSpace(ModelSpace):
    """A space of the hub: its published architectures load by name."""

    @classmethod
    def load_searched_model(cls, name: str, *, pretrained: Pretrained = False, **overrides: Any) -> Self:
        """Build a published architecture of this space as a plain network.

        Args:
            name: an entry of `spacelang.hub.list_models()`.
            pretrained: True for the published weights, or where others are, as in `spacelang.hub.load`.
            overrides: constructor arguments in place of the entry's, such as `num_classes=100`.

        Raises:
            SpaceError: unknown name (names the closest), an entry of another space, or weights that are not
                there or do not fit.
        """
        model: Self = build(read_entry(name), cls, pretrained=pretrained, overrides=overrides)
        return model

    def converted_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict of another implementation under the names of this network.

        Spaces whose networks exist elsewhere override it. The default keeps the names.
        """
        return dict(weights)
