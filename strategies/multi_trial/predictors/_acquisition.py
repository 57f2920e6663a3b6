"""Acquisition: which architecture is worth trying next, from what is predicted. More is better throughout."""

from __future__ import annotations

from math import erf, pi, sqrt
from typing import Protocol

import numpy as np

from ._predictor import Array


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
