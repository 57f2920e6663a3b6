"""What a predictor is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from spacelang.language import Architecture

Array: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]

Encoding: TypeAlias = Callable[[Mapping[str, Any]], Array]
"""A vector of fixed length from an architecture dict."""


class Predictor(Protocol):
    """Learns values from architectures, and says how sure it is."""

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """Forget everything and learn anew.

        Args:
            archs: n of them, at least one.
            values: of each, finite, (n,).
            rng: for everything random.
        """
        ...

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """Mean and standard deviation of the value of each architecture, (n,) and (n,)."""
        ...


def standardised(values: Array) -> tuple[Array, float, float]:
    """Values with mean 0 and standard deviation 1, and the two numbers that brings them back.

    Args:
        values: (n,).

    Returns:
        (values - mean) / scale, mean, scale; the scale of equal values is 1.
    """
    mean, scale = float(np.mean(values)), float(np.std(values))
    scale = scale if scale > 0 else 1.0
    return (np.asarray(values) - mean) / scale, mean, scale
