"""Regularised (ageing) evolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang.errors import require_all, require_integer
from spacelang.trials import History, Proposal

from .stateless import Stateless, require_untried


@dataclass(frozen=True, kw_only=True)
class RegularizedEvolution(Stateless):
    """Mutate the best of a random sample of the youngest architectures.

    The population consists of the last `population` measured trials: the oldest dies, however good it is.
    Until there are that many, architectures are drawn at random. Failed trials do not count. With several
    objectives the first decides.

    Args:
        population: Size P of the population.
        sample: Size S of the sample, drawn with replacement.

    Source: Real et al. 2019, arXiv:1802.01548, algorithm 1.
    """

    population: int = 100
    sample: int = 25

    def __post_init__(self) -> None:
        require_all(require_integer, self, "population", "sample", least=1)

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        if not history.done or len(history.done) + len(history.running) < self.population:
            return Proposal(history.space.sample(rng))
        population = history.done[-self.population :]
        drawn = [population[i] for i in rng.integers(len(population), size=self.sample)]
        parent = max(drawn, key=history.score)
        return Proposal(history.space.mutate(parent.arch, rng), note={"parent": parent.number})
