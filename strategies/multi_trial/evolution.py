"""Regularised (ageing) evolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang.errors import require_all, require_integer, require_number
from spacelang.trials import History, Proposal, Trial

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
        mutation_prob: Probability with which each decision of the parent is drawn again, as in NNI; it may
            come out as it was. None changes one decision, as in the paper.
        crossover: Whether the parent is mixed with the best of another sample before it is mutated.

    Source: Real et al. 2019, arXiv:1802.01548, algorithm 1.
    """

    population: int = 100
    sample: int = 25
    mutation_prob: float | None = None
    crossover: bool = False

    def __post_init__(self) -> None:
        require_all(require_integer, self, "population", "sample", least=1)
        require_number("mutation_prob", self.mutation_prob, above=0, most=1, optional=True)

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        require_untried(history)
        if not history.done or len(history.done) + len(history.running) < self.population:
            return Proposal(history.space.sample(rng))
        parent = self._parent(history, rng)
        arch, note = parent.arch, {"parent": parent.number}
        if self.crossover:
            other = self._parent(history, rng)
            arch, note = history.space.crossover(arch, other.arch, rng), {**note, "other": other.number}
        if self.mutation_prob is None:
            return Proposal(history.space.mutate(arch, rng), note=note)
        return Proposal(history.space.redraw(arch, self.mutation_prob, rng), note=note)

    def _parent(self, history: History, rng: np.random.Generator) -> Trial:
        """Return the best of a random sample of the population."""
        population = history.done[-self.population :]
        drawn = [population[i] for i in rng.integers(len(population), size=self.sample)]
        best: Trial = max(drawn, key=history.score)
        return best
