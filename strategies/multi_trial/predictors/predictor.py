"""Protocols of predictors and acquisitions, and the acquisitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import erf, pi, sqrt
from typing import Any, Protocol, TypeAlias

import numpy as np

from spacelang.language import Architecture

Array: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]

Encoding: TypeAlias = Callable[[Mapping[str, Any]], Array]
"""Function from an architecture dict to a vector of fixed length."""


class Predictor(Protocol):
    """Predicts values of architectures, with their uncertainty."""

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """Forget everything and learn again.

        Args:
            archs: Architectures, at least one.
            values: Finite value of each, (n,).
            rng: Generator for every random draw.
        """
        ...

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """Return mean and standard deviation of the value of each architecture, (n,) and (n,)."""
        ...


def standardised(values: Array) -> tuple[Array, float, float]:
    """Return values with mean 0 and standard deviation 1, and the numbers that restore them.

    Args:
        values: Values, (n,).

    Returns:
        (values - mean) / scale, mean, scale; the scale of equal values is 1.
    """
    mean, scale = float(np.mean(values)), float(np.std(values))
    scale = scale if scale > 0 else 1.0
    return (np.asarray(values) - mean) / scale, mean, scale


class Acquisition(Protocol):
    """Rates how much each architecture is worth trying."""

    def __call__(self, mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
        """Return a number for each.

        Args:
            mean, std: Predicted means and standard deviations, (n,).
            best: Highest value so far.
            rng: Generator for every random draw.

        Returns:
            Ratings, (n,); the highest are tried.
        """
        ...


def thompson(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """Draw from N(mean, std) for each architecture: independent Thompson sampling, as in BANANAS."""
    return np.asarray(rng.normal(mean, std))


def upper_confidence(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """Return mean + std / 2."""
    return mean + 0.5 * std


def expected_improvement(mean: Array, std: Array, best: float, rng: np.random.Generator) -> Array:
    """Return E max(value - best, 0) = std (z Phi(z) + phi(z)), where z = (mean - best) / std."""
    safe = np.where(std > 0, std, 1.0)
    z = (mean - best) / safe
    density = np.exp(-(z**2) / 2) / sqrt(2 * pi)
    below = np.array([(1 + erf(x / sqrt(2))) / 2 for x in z])
    improvement: Array = np.where(std > 0, safe * (z * below + density), np.maximum(mean - best, 0.0))
    return improvement
