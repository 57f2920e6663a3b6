"""SemiNAS: NAO whose predictor also learns from its own guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_all, require_integer
from spacelang.language import Architecture
from spacelang.trials import History, key_of

from .nao import NAO, NAOSearch, measured
from .predictors import SemiNASNetwork, SequencePredictor, standardised

semi_predictor = partial(SequencePredictor, network=SemiNASNetwork, scaling=standardised, weight_decay=1e-4)
"""The predictor of SemiNAS, for standardised values."""


@dataclass(frozen=True, kw_only=True)
class SemiNAS(NAO):
    """NAO that learns from few trials, and from the predicted values of many architectures without one.

    In each round the predictor learns from the measured trials, predicts `guesses` random architectures, and
    learns again from both, with each measured one ten times. The ascent begins at the best `parents` by
    measured or predicted value.

    Args:
        initial: Architectures drawn at random before the first round; 100 or 1,100 in the authors' code.
        round_size: Architectures tried in a round; 300 in the authors' code.
        parents: Best architectures, measured or guessed, at which the ascent begins.
        max_step: Longest step.
        predictor: Function that makes the `SequencePredictor` of a space. For NAS-Bench-101 the authors
            standardise by the whole benchmark: `scaling=nasbench101_scaling`.
        guesses: Random architectures whose values are guessed; 10,000 in the authors' code.
        epochs: Passes over measured and guessed architectures; 500 in the authors' code.

    Source: Luo et al. 2020, arXiv:2002.10389, algorithm 1; settings from the authors' code.
    """

    max_step: int = 100
    predictor: Callable[[ModelSpace], SequencePredictor] = semi_predictor
    guesses: int = 500
    epochs: int = 50
    of_authors: ClassVar[Mapping[str, Any]] = {
        "initial": 100,
        "round_size": 300,
        "parents": 100,
        "guesses": 10_000,
        "epochs": 500,
        "predictor": partial(semi_predictor, epochs=1000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "guesses", "epochs", least=1)

    def start(self, space: ModelSpace) -> NAOSearch:
        """Begin a search; see `NAO.start`."""
        return _Search(space, self)


class _Search(NAOSearch):
    settings: SemiNAS

    def learn(self, history: History, rng: np.random.Generator) -> list[Architecture]:
        """See `NAOSearch`."""
        predictor = self.predictor
        archs, values = measured(history)
        predictor.learn(archs, values, rng)
        known = {key_of(arch) for arch in archs}
        drawn = (history.space.sample(rng) for _ in range(self.settings.guesses))
        guessed = list({key: arch for arch in drawn if (key := key_of(arch)) not in known}.values())
        guesses = predictor.predict(guessed)[0] if guessed else np.zeros(0)
        predictor.learn(archs, values, rng, guessed=(guessed, guesses), epochs=self.settings.epochs)
        order = np.argsort(-np.concatenate([values, guesses]), kind="stable")
        both = {key_of(arch): arch for arch in ([*archs, *guessed][i] for i in order)}
        return list(both.values())[: self.settings.parents]
