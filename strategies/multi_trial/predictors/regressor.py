"""Any scikit-learn regressor as a predictor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from spacelang import SpaceError
from spacelang.language import Architecture

from .mlp import mean_and_std
from .predictor import Array, Encoding


class Regressor:
    """A scikit-learn regressor as a `Predictor`.

    The standard deviation is the model's own where `predict` takes `return_std` (Gaussian processes, Bayesian
    regression), that of the members of an ensemble with `estimators_` (forests, bagging), and 0 otherwise.

    Args:
        model: Unfitted regressor; it is cloned for every fit.
        encode: Encoding, such as `space.encode`.

    Raises:
        SpaceError: `model` has no `fit` and `predict`.
    """

    def __init__(self, model: Any, encode: Encoding) -> None:
        check_regressor(model, "Regressor")
        self.model = model
        self.encode = encode

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`."""
        self._fitted = fresh(self.model, rng).fit(self._encoded(archs), np.asarray(values))

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`."""
        x, model = self._encoded(archs), self._fitted
        if "return_std" in inspect.signature(model.predict).parameters:
            mean, std = model.predict(x, return_std=True)
            return np.asarray(mean), np.nan_to_num(std)  # some return the root of -1e-17
        mean = np.asarray(model.predict(x))
        members = getattr(model, "estimators_", None)
        if members is None or not all(hasattr(member, "predict") for member in members):
            return mean, np.zeros_like(mean)
        return mean, mean_and_std(np.stack([member.predict(x) for member in members]))[1]

    def _encoded(self, archs: Sequence[Architecture]) -> Array:
        return np.stack([self.encode(arch) for arch in archs])


def check_regressor(model: Any, taker: str) -> None:
    """Raise a `SpaceError` unless `model` is an unfitted regressor."""
    if isinstance(model, type) or not (hasattr(model, "fit") and hasattr(model, "predict")):
        raise SpaceError(f"{taker} needs a scikit-learn regressor, such as Ridge(); got {model!r}.")


def fresh(model: Any, rng: np.random.Generator) -> Any:
    """Return an unfitted clone of a regressor whose random states, if it has any, come from `rng`."""
    from sklearn.base import clone

    new = clone(model)
    names = [name for name in new.get_params() if name.split("__")[-1] == "random_state"]
    return new.set_params(**{name: int(rng.integers(2**31)) for name in sorted(names)})
