"""BANANAS: Bayesian optimisation with a neural predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacelang import ModelSpace
from spacelang.language import Architecture
from spacelang.trials import History

from .predictors import Acquisition, MLPEnsemble, Predictor, path_encoding, path_graphs, thompson
from .rounds import CandidateSearch, CandidateSettings


def paths_ensemble(space: ModelSpace) -> MLPEnsemble:
    """Return an ensemble of networks on the path encoding."""
    return MLPEnsemble(path_encoding(space))


def authors_ensemble(space: ModelSpace) -> MLPEnsemble:
    """Return the ensemble of the authors' code: batches of 32, the shortest paths up to 40 in number."""
    return MLPEnsemble(path_encoding(space, max_paths=40), epochs=150, batch_size=32, betas=(0.9, 0.99))


@dataclass(frozen=True, kw_only=True)
class Bananas(CandidateSettings):
    """Try the architectures that an ensemble of networks on the path encoding finds most promising.

    Any predictor and acquisition may replace them, so this is predictor-based search in general:

        Bananas(predictor=lambda space: Regressor(RandomForestRegressor(), space.encode))

    With several objectives the first decides. The networks learn standardised values by their absolute error;
    the paper's relative error needs a known lower bound of the error.

    It differs from the authors' code, whose settings `Bananas.authors()` has: their networks train 150 epochs
    in batches of 32, their candidates are all mutations of the best, and their encoding keeps 40 paths. On a
    table of digits theirs needed fewer trials where trials have no noise, and found worse architectures where
    they have (`docs/quality.md`).

    Args:
        predictor: Function that makes a `Predictor` for a space.
        acquisition: Function that rates how promising architectures are.

    Source: White et al. 2021, arXiv:1910.11858, algorithm 1.
    """

    predictor: Callable[[ModelSpace], Predictor] = paths_ensemble
    acquisition: Acquisition = thompson

    @classmethod
    def authors(cls, **settings: Any) -> Bananas:
        """Return the settings of the authors' code: 100 mutations of the best, then of the next best.

        Args:
            settings: Settings to use in place of the authors'.
        """
        own: dict[str, Any] = {"predictor": authors_ensemble, "mutations": 100, "random_share": 0.0}
        return cls(**(own | settings))

    def unused_features(self, space: ModelSpace) -> list[str]:
        """Return sentences on features that the space leaves without effect, as for `spacelang.trials`."""
        if self.predictor not in (paths_ensemble, authors_ensemble) or path_graphs(space):
            return []
        return [
            f"the path encoding of Bananas reads cells, and {type(space).__name__} has none, so that its "
            "predictor reads one-hot encodings. Any predictor may be set: Bananas(predictor=...)."
        ]

    def start(self, space: ModelSpace) -> CandidateSearch:
        """Begin a search."""
        return _Search(space, self)


class _Search(CandidateSearch):
    def __init__(self, space: ModelSpace, strategy: Bananas) -> None:
        super().__init__(space, strategy)
        self._predictor = strategy.predictor(space)
        self._acquisition = strategy.acquisition

    def choose(
        self, history: History, candidates: Sequence[Architecture], rng: np.random.Generator
    ) -> list[Architecture]:
        """See `CandidateSearch`."""
        values = np.array([history.score(trial) for trial in history.done])
        self._predictor.fit([trial.arch for trial in history.done], values, rng)
        mean, std = self._predictor.predict(candidates)
        worth = self._acquisition(mean, std, float(values.max()), rng)
        return [candidates[i] for i in np.argsort(-worth, kind="stable")]
