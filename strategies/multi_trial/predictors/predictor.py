"""What a predictor is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf, pi, sqrt
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


class Acquisition(Protocol):
    """How much each architecture is worth trying."""

    def __call__(self, mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
        """Return a number for each.

        Args:
            mean, std: of the prediction, (n,).
            best: highest value so far.
            rng: for everything random.

        Returns:
            (n,); the highest are tried.
        """
        ...


def thompson(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """A draw from N(mean, std) for each by itself: independent Thompson sampling, as BANANAS does."""
    return np.asarray(rng.normal(mean, std))


def upper_confidence(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """mean + std / 2."""
    return mean + 0.5 * std


def expected_improvement(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """E max(value - best, 0) = std (z Phi(z) + phi(z)), where z = (mean - best) / std."""
    safe = np.where(std > 0, std, 1.0)
    z = (mean - best) / safe
    density = np.exp(-(z**2) / 2) / sqrt(2 * pi)
    below = np.array([(1 + erf(x / sqrt(2))) / 2 for x in z])
    improvement: Array = np.where(std > 0, safe * (z * below + density), np.maximum(mean - best, 0.0))
    return improvement
