"""The base class of spaces with published architectures."""

from __future__ import annotations

from typing import Any, Self

from spacelang import ModelSpace

from . import _entries
from ._weights import Pretrained


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
        entry = _entries.read_entry(name)
        model: Self = entry.build(cls, pretrained=pretrained, overrides=overrides)
        return model
