"""NAO: better architectures are decoded from points up the slope of a predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_all, require_integer
from spacelang.language import Architecture
from spacelang.trials import History, key_of

from .predictors import Array, SequencePredictor
from .rounds import LearningSearch, RoundSettings


@dataclass(frozen=True, kw_only=True)
class NAO(RoundSettings):
    """Embed architectures, climb in the embedding, and try what is decoded there.

    In each round encoder, predictor and decoder learn from all measured trials, whose values are brought to
    [0, 1]; they begin with the weights of the round before. The outputs of the encoder for the best `parents`
    architectures are moved by a step of 1 along the gradient of the predicted value and decoded, then by a
    step of 2, and so on, until there are `round_size` architectures that were not tried.

    Architectures are tokens, so that any space can be searched, a range by 16 of its numbers; in a cell, nine
    copies of each architecture have two slots of a node exchanged. With several objectives the first decides.

    Differs from the authors' code, which scores a pool of 1,000 architectures with shared weights: here each
    is a trial of any evaluator, `Inherited` among them. Theirs keeps a tenth of the pool apart to watch the
    predictor; here it learns from all.

    Args:
        initial: Architectures drawn at random before the first round; 1,000 in the authors' code.
        round_size: Architectures tried in a round; 300 in the authors' code.
        parents: Best architectures at which the ascent begins; 100 in the authors' code.
        max_step: Longest step.
        predictor: Function that makes the `SequencePredictor` of a space; the authors train 1,000 epochs.

    Source: Luo et al. 2018, arXiv:1808.07233, algorithm 1; settings from the authors' code.
    """

    initial: int = 50
    round_size: int = 20
    parents: int = 20
    max_step: int = 50
    predictor: Callable[[ModelSpace], SequencePredictor] = SequencePredictor
    of_authors: ClassVar[Mapping[str, Any]] = {
        "initial": 1000,
        "round_size": 300,
        "parents": 100,
        "predictor": partial(SequencePredictor, epochs=1000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "parents", "max_step", least=1)

    @classmethod
    def authors(cls, **settings: Any) -> Self:
        """Return the sizes of the authors' code, `of_authors`; a round trains for many minutes.

        Args:
            settings: Settings to use in place of the authors'.
        """
        return cls(**{**cls.of_authors, **settings})

    def start(self, space: ModelSpace) -> NAOSearch:
        """Begin a search."""
        return NAOSearch(space, self)


class NAOSearch(LearningSearch):
    """A search with an encoder, a predictor and a decoder.

    Args:
        space: Space to search.
        settings: Settings of the strategy.
    """

    settings: NAO

    def __init__(self, space: ModelSpace, settings: NAO) -> None:
        super().__init__(space, settings)
        self.predictor = settings.predictor(space)
        self._has_begun = False

    def forget(self) -> None:
        """See `LearningSearch`."""
        self._has_begun = False

    def plan(self, history: History, tried: set[str], rng: np.random.Generator) -> list[Architecture]:
        """See `RoundSearch`."""
        if not self._has_begun:
            self.predictor.begin(rng)
            self._has_begun = True
        parents = self.learn(history, rng)
        improved = self.predictor.improved(parents, self.settings.max_step)
        return list(islice(_new(improved, tried), self.settings.round_size))

    def learn(self, history: History, rng: np.random.Generator) -> list[Architecture]:
        """Learn from measured trials; return the architectures at which the ascent begins."""
        self.predictor.learn(*measured(history), rng)
        return [trial.arch for trial in history.ranked(self.settings.parents)]


def measured(history: History) -> tuple[list[Architecture], Array]:
    """Return the measured architectures, and the score of each."""
    scores = np.array([history.score(trial) for trial in history.done])
    return [trial.arch for trial in history.done], scores


def _new(archs: Iterable[Architecture], tried: set[str]) -> Iterable[Architecture]:
    """Yield each architecture that was not tried, once."""
    seen = set(tried)
    for arch in archs:
        if key_of(arch) not in seen:
            seen.add(key_of(arch))
            yield arch
