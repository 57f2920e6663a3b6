"""Evolution by tournaments in a population that only grows, and random search by mutation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang import ModelSpace
from spacelang.arguments import KnownArguments
from spacelang.errors import require_integer, require_number
from spacelang.trials import History, Proposal, Trial

from .stateless import require_untried


@dataclass(frozen=True, kw_only=True)
class TournamentEvolution(KnownArguments):
    """Mutate the winner of a tournament in a population that nobody leaves.

    The first architectures are the default one after many mutations. Then the best of a random part of all
    measured trials is mutated by `space.mutate`, which a space may define. Workers wait for nobody: who is
    still running is not in the population. Failed trials do not count. With several objectives the first
    decides. The paper measures a genotype by four trainings: `Repeated(TournamentEvolution(), times=4)`.

    The size of the first population is ours; so is a tournament of distinct members, of at least one.

    Args:
        population: Number of architectures to begin with.
        tournament: Share of the population that meets in a tournament. None draws the parent at random, as
            we understand the paper's random search.
        mutations: Number of mutations of the default architecture for each of the first ones.

    Source: Liu et al. 2018, arXiv:1711.00436.
    """

    population: int = 200
    tournament: float | None = 0.05
    mutations: int = 1000

    def __post_init__(self) -> None:
        require_integer("population", self.population, least=1)
        require_number("tournament", self.tournament, above=0, most=1, optional=True)
        require_integer("mutations", self.mutations, least=0)

    def start(self, space: ModelSpace) -> TournamentSearch:
        """Begin a search."""
        return TournamentSearch(space, self)


class TournamentSearch:
    """A search of `TournamentEvolution`."""

    def __init__(self, space: ModelSpace, settings: TournamentEvolution) -> None:
        self._space = space
        self._settings = settings

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        if not history.done or len(history.done) + len(history.running) < self._settings.population:
            return Proposal(self._first(rng))
        parent = self._winner(history, rng)
        return Proposal(self._space.mutate(parent.arch, rng), note={"parent": parent.number})

    def _first(self, rng: np.random.Generator) -> dict[str, object]:
        """Return the default architecture after many mutations."""
        arch = self._space.default()
        alone = self._space.decision_space.bound == 1
        for _ in range(0 if alone else self._settings.mutations):
            arch = self._space.mutate(arch, rng)
        return arch

    def _winner(self, history: History, rng: np.random.Generator) -> Trial:
        """Return the best of a random part of the population."""
        share, population = self._settings.tournament, history.done
        size = 1 if share is None else max(1, round(share * len(population)))
        drawn = [population[i] for i in rng.choice(len(population), size, replace=False)]
        best: Trial = max(drawn, key=history.score)
        return best
