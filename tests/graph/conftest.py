"""Each of the small spaces in turn, or one by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spacelang import ModelSpace

from ..toys.graphs import SPACES


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> ModelSpace:
    """Each of the small spaces in turn."""
    torch.manual_seed(0)
    return SPACES[request.param]()


@pytest.fixture
def make() -> Callable[..., ModelSpace]:
    """Construct one of the small spaces by name."""

    def construct(name: str, **arguments: Any) -> ModelSpace:
        torch.manual_seed(0)
        return SPACES[name](**arguments)

    return construct


@pytest.fixture
def example() -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
