"""BOGCN: Bayesian optimisation with a graph-convolutional network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spacelang import ModelSpace
from spacelang.language import Architecture
from spacelang.trials import History, pareto_front

from .predictors import GraphNetwork, expected_improvement
from .rounds import CandidateSearch, CandidateSettings


@dataclass(frozen=True, kw_only=True)
class BOGCN(CandidateSettings):
    """Try the architectures from which a Bayesian regression on graph embeddings expects most improvement.

    With several objectives each has a regression of its own, and the architectures to try are drawn from the
    Pareto front of the predicted means; when it is used up, from the front of the remaining ones.

    Args:
        network: Function that makes the `GraphNetwork` of a space.

    Source: Shi et al. 2020 (BONAS), arXiv:1911.09336; the Pareto version is that of its first, BOGCN-NAS.
    """

    network: Callable[[ModelSpace], GraphNetwork] = GraphNetwork

    def start(self, space: ModelSpace) -> CandidateSearch:
        """Begin a search."""
        return _Search(space, self)


class _Search(CandidateSearch):
    def __init__(self, space: ModelSpace, strategy: BOGCN) -> None:
        super().__init__(space, strategy)
        self._network = strategy.network(space)

    def choose(
        self, history: History, candidates: Sequence[Architecture], rng: np.random.Generator
    ) -> list[Architecture]:
        """See `CandidateSearch`."""
        scores = np.array([history.scores(trial) for trial in history.done])  # (n, objectives)
        self._network.fit([trial.arch for trial in history.done], scores, rng)
        mean, std = self._network.predict_all(candidates)
        if scores.shape[1] == 1:
            worth = expected_improvement(mean[:, 0], std[:, 0], float(scores.max()), rng)
            return [candidates[i] for i in np.argsort(-worth, kind="stable")]
        return [candidates[i] for i in _by_front(mean, rng)]


def _by_front(
    mean: np.ndarray[tuple[int, ...], np.dtype[np.floating]], rng: np.random.Generator
) -> list[int]:
    """Return indices front by front, in random order inside a front.

    Args:
        mean: Predicted means, more is better, (n, objectives).
        rng: Generator for the order.
    """
    left, order = list(range(len(mean))), list[int]()
    while left:
        front = [left[i] for i in pareto_front([tuple(mean[i]) for i in left])]
        order += [front[i] for i in rng.permutation(len(front))]
        left = [i for i in left if i not in set(front)]
    return order
