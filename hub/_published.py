"""The base class of spaces with published architectures."""

from __future__ import annotations

from typing import Any, Self

from spacelang import ModelSpace

from . import _entries


class PublishedSpace(ModelSpace):
    """A space of the hub: its published architectures load by name."""

    @classmethod
    def load_searched_model(cls, name: str, *, pretrained: bool = False, **overrides: Any) -> Self:
        """Build a published architecture of this space as a plain network.

        Args:
            name: an entry of `spacelang.hub.list_models()`.
            pretrained: True asks for published weights.
            overrides: constructor arguments in place of the entry's, such as `num_classes=100`.

        Raises:
            SpaceError: unknown name (names the closest), an entry of another space, or weights asked for
                where none are published.
        """
        entry = _entries.read_entry(name)
        model: Self = entry.build(cls, pretrained=pretrained, overrides=overrides)
        return model
