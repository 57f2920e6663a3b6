"""Evolution by the values of a predictor: the search of once-for-all networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from spacelang import ModelSpace
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.trials import Exhausted, History, key_of

from .predictors import MLPEnsemble, Predictor
from .rounds import RoundSearch, RoundSettings

_Rated: TypeAlias = tuple[float, Architecture]
"""A predicted value and its architecture."""


def accuracy_predictor(space: ModelSpace) -> MLPEnsemble:
    """Return one network of three layers of 400 units on the one-hot encoding."""
    return MLPEnsemble(space.encode, members=1, depth=3, width=400, learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True)
class PredictedEvolution(RoundSettings):
    """Evolve architectures by what a predictor says of them, and try the best of the last generation.

    After `initial` random trials, each round fits the predictor to all results and evolves without training:
    of a random population the best `parents` survive and have children until it is full again, half of them
    mutations (each decision is drawn again with `mutation_probability`), half crossovers of two parents. The
    `round_size` best of the last generation that were not tried yet are tried next. What `filter` rejects,
    such as a network above a latency, is in no population and never tried.

    With `Inherited(supernet, evaluator)` and a supernet of `ProgressiveShrinking` or `Sandwich`, this is the
    search of once-for-all networks: another limit needs no other training. A result is for one device:

        latency = expected_cost(space, table, example_inputs).of
        PredictedEvolution(filter=lambda arch: latency(arch) < 20)

    The paper's predictor sees no depths (blocks beyond them are zeros) and image sizes; ours sees every
    decision of the space. With several objectives the first decides.

    Args:
        initial: Architectures drawn at random before the first round; 16,000 in the paper.
        population: Size of the population.
        generations: Number of generations.
        parents: Share of the population that survives.
        mutation_probability: Probability of drawing a decision again in a mutation.
        filter: Function that returns whether an architecture may be tried.
        predictor: Function that makes a `Predictor` for a space.

    Source: once-for-all, Cai et al. 2020, arXiv:1908.09791, section 3.4; sizes of the authors' code.
    """

    initial: int = 100
    population: int = 100
    generations: int = 500
    parents: float = 0.25
    mutation_probability: float = 0.1
    filter: Callable[[Architecture], bool] | None = None
    predictor: Callable[[ModelSpace], Predictor] = accuracy_predictor

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "population", "generations", least=1)
        require_number("parents", self.parents, above=0, most=1)
        require_number("mutation_probability", self.mutation_probability, above=0, most=1)

    def start(self, space: ModelSpace) -> PredictedSearch:
        """Begin a search."""
        return PredictedSearch(space, self)


class PredictedSearch(RoundSearch):
    """A search whose rounds evolve architectures by a predictor."""

    settings: PredictedEvolution

    def __init__(self, space: ModelSpace, strategy: PredictedEvolution) -> None:
        super().__init__(space, strategy)
        self._predictor = strategy.predictor(space)

    def random(self, history: History, rng: np.random.Generator) -> Architecture:
        """Return a random architecture that was not tried, and that `filter` accepts.

        Raises:
            Exhausted: there is none among 1,000.
        """
        arch = self._accepted(lambda: super(PredictedSearch, self).random(history, rng), tries=1000)
        if arch is None:
            raise Exhausted("filter rejected 1,000 random architectures in a row; loosen it")
        return arch

    def plan(self, history: History, tried: set[str], rng: np.random.Generator) -> list[Architecture]:
        """See `RoundSearch`."""
        values = np.array([history.score(trial) for trial in history.done])
        self._predictor.fit([trial.arch for trial in history.done], values, rng)
        settings, space = self.settings, history.space
        survivors = max(1, round(settings.parents * settings.population))
        ranked = self._ranked(self._several(settings.population, lambda i: space.sample(rng)))
        for _ in range(settings.generations if ranked else 0):
            parents = ranked[:survivors]

            def child(place: int, parents: list[_Rated] = parents) -> Architecture:
                one, other = (parents[int(rng.integers(len(parents)))][1] for _ in range(2))
                if place % 2:
                    return space.crossover(one, other, rng)
                return space.redraw(one, settings.mutation_probability, rng)

            children = self._ranked(self._several(settings.population - survivors, child))
            ranked = sorted([*parents, *children], key=_value, reverse=True)
        best = {key_of(arch): arch for _, arch in ranked}
        return [arch for key, arch in best.items() if key not in tried]

    def _ranked(self, archs: list[Architecture]) -> list[_Rated]:
        """Return architectures with their predicted values, best first."""
        if not archs:
            return []
        means, _ = self._predictor.predict(archs)
        return sorted(zip(map(float, means), archs, strict=True), key=_value, reverse=True)

    def _several(self, count: int, propose: Callable[[int], Architecture]) -> list[Architecture]:
        """Return accepted architectures, one for each place where one was found."""
        found = (self._accepted(lambda place=place: propose(place)) for place in range(count))  # type: ignore[misc]
        return [arch for arch in found if arch is not None]

    def _accepted(self, propose: Callable[[], Architecture], tries: int = 100) -> Architecture | None:
        """Return the first proposal that `filter` accepts, or None."""
        accepts = self.settings.filter
        proposals = (propose() for _ in range(tries))
        return next((arch for arch in proposals if accepts is None or accepts(arch)), None)


def _value(rated: _Rated) -> float:
    return rated[0]
