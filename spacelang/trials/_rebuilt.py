"""What depends on the constructor arguments of a space."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import SpaceError
from ..language import Architecture, ModelSpace

T = TypeVar("T")


class Rebuilt(Generic[T]):
    """Something made of a space, and made again, once, for every set of other constructor arguments.

    Args:
        space: as it is searched.
        make: makes it of a space.
    """

    def __init__(self, space: ModelSpace, make: Callable[[ModelSpace], T]) -> None:
        self._space = space
        self._make = make
        self._made: dict[str, T] = {}

    def __call__(self, overrides: Mapping[str, Any]) -> T:
        """What is made of `space.rebuild(**overrides)`.

        Raises:
            SpaceError: the constructor does not take them, or they are no plain values.
        """
        key = json.dumps(plain_overrides(overrides), sort_keys=True)
        if key not in self._made:
            self._made[key] = self._make(self._space.rebuild(**overrides) if overrides else self._space)
        return self._made[key]

    def concerned(self, arch: Architecture, overrides: Mapping[str, Any]) -> T:
        """What is made of the space itself if it has the architecture, else of the rebuilt one."""
        foreign = overrides and self._space.decision_space.problems(arch)
        return self(overrides if foreign else {})


def plain_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments as the ledger gives them back: tuples are lists.

    Raises:
        SpaceError: they are no plain values.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(overrides)))
        return plain
    except TypeError as error:
        raise SpaceError(
            f"overrides={dict(overrides)!r} are kept in the ledger, so they must be numbers, texts, None, or "
            f"lists and dicts of them: {error}."
        ) from None
