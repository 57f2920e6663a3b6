"""RandomOneShot: random search with weight sharing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang import SpaceError
from spacelang.errors import require_all, require_integer
from spacelang.language import DecisionSpace

from ..framework import Measure, PathSampling, Scored, Unseen


@dataclass(frozen=True, kw_only=True)
class RandomOneShot(PathSampling):
    """Random search with weight sharing.

    Each training batch trains a random architecture. Then `candidates` random ones are measured on few
    validation batches, and the best `finalists` of them again on `validation_batches`, which ranks them; the
    others follow in the order of the first measurement. At the end each candidate runs
    `calibration_batches + first_batches` forward passes.

    Args:
        candidates: Number of random architectures compared; 1,000 in the paper.
        first_batches: Validation batches of the first measurement.
        finalists: Number of architectures measured again.

    Source: Li and Talwalkar 2019, arXiv:1902.07638, section 4.
    """

    candidates: int = 1000
    first_batches: int = 10
    finalists: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(require_integer, self, "candidates", "first_batches", "finalists", least=1)
        if self.finalists > self.candidates:
            raise SpaceError(
                f"finalists={self.finalists} of candidates={self.candidates} is too many; set fewer."
            )

    @property
    def measurements(self) -> int:
        return self.candidates + self.finalists

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        candidates = Unseen(self.filter).take(self.candidates, lambda: space.sample(rng))
        first = self.best_first((measure(arch, self.first_batches), arch) for arch in candidates)
        finalists = self.best_first((measure(arch), arch) for _, arch in first[: self.finalists])
        return [*finalists, *first[self.finalists :]]
