"""Helpers of all checks of strategies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..space import ModelSpace


@dataclass(frozen=True)
class Conformance:
    """Results of a strategy on the toy spaces.

    Attributes:
        searched: Names of the spaces it searched.
        refused: Reasons by name of the other spaces.
        exhausted: Names of the spaces on which a multi-trial search ended by itself.
        stopped: Names of the spaces on which it ended trials early.
    """

    searched: tuple[str, ...]
    refused: dict[str, str]
    exhausted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()


def require(condition: bool, broken: str) -> None:
    """Raise an `AssertionError` that says which promise was broken."""
    if not condition:
        raise AssertionError(f"a strategy broke a promise: {broken}.")


@contextmanager
def on_space(name: str) -> Iterator[None]:
    """Say in errors which space they are about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"space {name!r} of spacelang.testing.toy_spaces()")
        raise


@contextmanager
def unchanged(space: ModelSpace) -> Iterator[None]:
    """Require that the space's weights stay as they are."""
    weights = {name: value.clone() for name, value in space.state_dict().items()}
    yield
    same = (torch.equal(value, weights[name]) for name, value in space.state_dict().items())
    require(all(same), "the space's weights changed")
