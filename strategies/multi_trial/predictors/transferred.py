"""A predictor that begins with the results of another search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spacelang import ModelSpace, SpaceError
from spacelang.language import Architecture
from spacelang.trials import History

from .predictor import Array, Predictor, standardised


class Transferred:
    """A `Predictor` that also learns from known results, of another task or data set for example.

    Values of the two are on different scales, so each are standardised by themselves: what carries over is
    which architectures were better than others. Predictions are on the scale of the search's own results.
    Where both are on one scale, wrap the strategy in `WarmStart` instead, and the known results count as
    its own.

        other = Experiment.load("other-task").history
        Bananas(predictor=lambda space: Transferred(MLPEnsemble(space.encode), other, space))

    Args:
        predictor: Predictor that learns from both.
        known: History of another search of this space, of which the first objective decides; or pairs of an
            architecture and a value of which more is better.
        space: Space of the search.

    Raises:
        SpaceError: there are no results, or an architecture does not belong to the space.
    """

    def __init__(
        self,
        predictor: Predictor,
        known: History | Iterable[tuple[Mapping[str, Any], float]],
        space: ModelSpace,
    ) -> None:
        self.predictor = predictor
        if isinstance(known, History):
            measured = [t for t in known.done if not t.overrides and known.has_scores(t)]
            known = [(trial.arch, known.score(trial)) for trial in measured]
        pairs = [(space.canonical(arch), float(value)) for arch, value in known]
        if not pairs or not np.isfinite([value for _, value in pairs]).all():
            raise SpaceError(f"known holds {len(pairs)} results; expected at least one, and finite values.")
        self._archs = [arch for arch, _ in pairs]
        self._values = standardised(np.array([value for _, value in pairs]))[0]

    def fit(self, archs: Sequence[Architecture], values: Array, rng: np.random.Generator) -> None:
        """See `Predictor`."""
        own, self._mean, self._scale = standardised(values)
        self.predictor.fit([*self._archs, *archs], np.concatenate([self._values, own]), rng)

    def predict(self, archs: Sequence[Architecture]) -> tuple[Array, Array]:
        """See `Predictor`."""
        mean, std = self.predictor.predict(archs)
        return self._mean + self._scale * mean, self._scale * std
