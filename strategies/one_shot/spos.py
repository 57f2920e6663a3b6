"""SPOS: single path one-shot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang import SpaceError
from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture, DecisionSpace

from ..framework import Measure, PathSampling, Scored, Unseen


@dataclass(frozen=True, kw_only=True)
class SPOS(PathSampling):
    """Single path one-shot: uniform paths in training, then evolution on the shared weights.

    The first generation is random. The parents of each later one are the best architectures measured so far.
    `mutations` draw every decision of a parent again with probability `mutation_probability`, `crossovers`
    take every decision from one of two parents, and random architectures fill up the rest. An architecture
    that was measured, or rejected by `filter`, is not proposed again, in at most ten tries for each place.

    At the end `population * generations` architectures run `calibration_batches + validation_batches` forward
    passes each: with the paper's sizes, the defaults, 1,000 times 200 batches and the validation set.

    Args:
        population: Number of architectures in a generation.
        generations: Number of generations.
        parents: Number of best architectures from which the next generation is made.
        mutations, crossovers: Numbers of both in a generation; together at most `population`.
        mutation_probability: Probability of drawing a decision again.

    Source: SPOS, Guo et al. 2020, arXiv:1904.00420, sections 3.2 to 3.4, algorithm 1.
    """

    calibration_batches: int = 200
    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_probability: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "population", "generations", "parents", least=1)
        require_all(require_integer, self, "mutations", "crossovers", least=0)
        require_number("mutation_probability", self.mutation_probability, above=0, most=1)
        if self.mutations + self.crossovers > self.population:
            raise SpaceError(
                f"mutations={self.mutations} and crossovers={self.crossovers} are more than a population of "
                f"{self.population}."
            )

    @property
    def measurements(self) -> int:
        return self.population * self.generations

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        unseen = Unseen(self.filter)
        ranking: list[Scored] = []
        for _ in range(self.generations):
            generation = self._children(space, unseen, [arch for _, arch in ranking[: self.parents]], rng)
            random = unseen.take(self.population - len(generation), lambda: space.sample(rng))
            ranking = self.best_first([*ranking, *((measure(arch), arch) for arch in [*generation, *random])])
        return ranking

    def _children(
        self, space: DecisionSpace, unseen: Unseen, parents: list[Architecture], rng: np.random.Generator
    ) -> list[Architecture]:
        if not parents:
            return []

        def parent() -> Architecture:
            return parents[int(rng.integers(len(parents)))]

        return [
            *unseen.take(self.mutations, lambda: space.redraw(parent(), self.mutation_probability, rng)),
            *unseen.take(self.crossovers, lambda: space.crossover(parent(), parent(), rng)),
        ]
