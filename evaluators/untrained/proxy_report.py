"""How well zero-cost proxies rank the architectures of a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from spacelang import ModelSpace
from spacelang.errors import SpaceError, require_integer
from spacelang.progress import with_bar
from spacelang.randomness import global_generators_kept, seed_global_generators

from .proxies import PROXIES, Loss
from .tabular import Tabular
from .zero_cost import ZeroCost

VOTERS = ("synflow", "jacob_cov", "snip")
"""Proxies that vote in Abdelfattah et al. 2021, arXiv:2101.08134."""


def verdict(a: Mapping[str, float], b: Mapping[str, float], proxies: Sequence[str] = VOTERS) -> int:
    """Return which of two architectures all proxies prefer: 1 for the first, -1 for the second.

    They abstain with 0 where they disagree, find both equal, or one of them has no value.

    Args:
        a, b: Values by proxy, as `ZeroCost` returns them.
        proxies: Names of the proxies that must agree.

    >>> verdict({"synflow": 2, "snip": 5}, {"synflow": 1, "snip": 3}, ("synflow", "snip"))
    1
    """
    signs = {np.sign(a[name] - b[name]) for name in proxies}
    (sign,) = signs if len(signs) == 1 else (0.0,)
    return int(sign) if math.isfinite(sign) else 0


@dataclass(frozen=True)
class ProxyReport:
    """How proxies rank the architectures of a table.

    Attributes:
        spearman: Rank correlation with the metric by proxy, architectures without a value last.
        missing: Architectures without a value, by proxy.
        architectures: Number of architectures compared.
        voters: Proxies of the ensemble.
        decided: Share of the pairs of architectures on which the voters agree.
        right: Share of these that they order as the metric does; NaN without any.
    """

    spearman: Mapping[str, float]
    missing: Mapping[str, int]
    architectures: int
    voters: tuple[str, ...]
    decided: float
    right: float

    def __str__(self) -> str:
        lines = [f"{self.architectures} architectures", "proxy        Spearman  without value"]
        for name, value in sorted(self.spearman.items(), key=lambda pair: -pair[1]):
            lines.append(f"{name:12} {value:8.2f} {self.missing[name]:14}")
        voters = ", ".join(self.voters)
        lines.append(f"{voters} agree on {self.decided:.0%} of all pairs, {self.right:.0%} of these right")
        return "\n".join(lines)


def proxy_report(
    space: ModelSpace,
    table: Tabular,
    metric: str,
    *,
    batch: tuple[Tensor, Tensor],
    loss: Loss = nn.functional.cross_entropy,
    proxies: Sequence[str] = tuple(PROXIES),
    voters: Sequence[str] = VOTERS,
    architectures: int = 100,
    seed: int = 0,
) -> ProxyReport:
    """Compare proxies with the results of a table, on architectures drawn from it.

    Args:
        space: Space of the architectures; its class is built again for first weights.
        table: Known results, more of the metric is better; architectures of other spaces are left out.
        metric: Name of a metric of the table, its mean over the rows of an architecture.
        batch: Inputs and targets of one minibatch.
        loss: Returns a number from the output and the targets.
        proxies: Names of proxies.
        voters: Names of those that must agree; see `verdict`.
        architectures: Number of architectures that are compared, all if the table has fewer.
        seed: Seeds the draw of architectures and the first weights of each.

    Raises:
        SpaceError: a proxy or the metric is unknown, or fewer than three architectures are of the space.
    """
    require_integer("architectures", architectures, least=3)
    evaluator = ZeroCost(*dict.fromkeys((*proxies, *voters)), batch=batch, loss=loss)
    known = [arch for arch in table.architectures() if not space.decision_space.problems(arch)]
    if len(known) < 3:
        raise SpaceError(f"the table has {len(known)} architectures of {type(space).__name__}; expected 3.")
    rng = np.random.default_rng(seed)
    drawn = [known[i] for i in rng.permutation(len(known))[:architectures]]
    truth, rows = [], []
    for number, arch in enumerate(with_bar(drawn, "proxies")):
        measured = table.mean(arch)
        if metric not in measured:
            raise SpaceError(f"the table has no metric {metric!r}; it has {', '.join(measured)}.")
        truth.append(measured[metric])
        with global_generators_kept():
            seed_global_generators(seed, number)
            rows.append(evaluator.evaluate(space.rebuild().freeze(arch)))
    values = {name: np.array([row[name] for row in rows]) for name in proxies}
    pairs = list(itertools.combinations(range(len(drawn)), 2))
    verdicts = [verdict(rows[i], rows[j], voters) for i, j in pairs]
    right = [v == np.sign(truth[i] - truth[j]) for v, (i, j) in zip(verdicts, pairs, strict=True) if v]
    return ProxyReport(
        {name: _spearman(column, truth) for name, column in values.items()},
        {name: int(np.isnan(column).sum()) for name, column in values.items()},
        len(drawn),
        tuple(voters),
        len(right) / len(pairs),
        float(np.mean(right)) if right else math.nan,
    )


def _spearman(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]], truth: Sequence[float]) -> float:
    """Return the rank correlation; NaN ranks last, and equal values give NaN."""
    from scipy.stats import spearmanr

    filled = np.where(np.isnan(values), -np.inf, values)
    if len(set(filled.tolist())) < 2 or len(set(truth)) < 2:
        return math.nan
    return float(spearmanr(filled, truth).statistic)
