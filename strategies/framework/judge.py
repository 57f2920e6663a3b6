"""Judge: likely architectures compared with the supernet's weights, in place of the most probable alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.errors import require_all, require_integer, require_number
from spacelang.language import Architecture
from spacelang.supernet import Group

from .learned import Derivation, LogitsSearch
from .search import Scored


@dataclass(frozen=True)
class Judge(Derivation):
    """A derivation that compares likely architectures, measured with the supernet's weights.

    Compared are the most probable architectures and some drawn from the distribution that the logits are:
    each derived from log p / T + G, G standard Gumbel noise, in place of p. Each is measured by the
    strategy's `metric`, or else by its loss. `search.judged` has the results.

    Args:
        sample: Number of draws; what is drawn again is measured once.
        temperature: T; the higher, the less the logits matter.
        top: Number of most probable architectures.
        validation_batches: Number of validation batches on which they are compared; None for all.
        calibration_batches: Training batches from which each one's batch-norm statistics are estimated; 0
            uses those of each validation batch.
    """

    sample: int = 20
    temperature: float = 1.0
    top: int = 1
    validation_batches: int | None = None
    calibration_batches: int = 0

    def __post_init__(self) -> None:
        require_integer("top", self.top, least=1)
        require_all(require_integer, self, "sample", "calibration_batches", least=0)
        require_number("temperature", self.temperature, above=0)
        require_integer("validation_batches", self.validation_batches, least=1, optional=True)

    def judged(self, search: LogitsSearch) -> list[Scored]:
        archs = search.derive(self.top) + [self._draw(search) for _ in range(self.sample)]
        distinct: dict[str, Architecture] = {}
        for arch in archs:
            distinct.setdefault(json.dumps(search.supernet.decision_space.canonical(arch)), arch)
        with search.scorer(self.calibration_batches, of_batch=not self.calibration_batches) as scorer:
            measured = [
                (scorer.measure_architecture(arch, self.validation_batches), arch)
                for arch in distinct.values()
            ]
        return search.strategy.best_first(measured)

    def _draw(self, search: LogitsSearch) -> Architecture:
        generator, groups = search.moment.generator, search.supernet.groups
        tables = {
            label: perturbed(groups[label], table.double().cpu(), self.temperature, generator)
            for label, table in search.ranking_tables().items()
        }
        return search.strategy.architectures(search.supernet, tables, 1)[0]


def perturbed(group: Group, table: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return exp(log p / T + G), of any set sigmoid(logit p / T + logistic noise): (rows, columns)."""
    noise = -torch.empty_like(table).exponential_(generator=generator).log()
    if group.kind == "any_subset":
        noise = noise + torch.empty_like(table).exponential_(generator=generator).log()
        return (table.logit(eps=1e-12) / temperature + noise).sigmoid() * torch.tensor(group.alive)
    scores = table.log() / temperature + noise
    finite = scores[scores > -math.inf]
    return (scores - finite.max()).exp() if len(finite) else table
