"""Numbers of a report: the importance of decisions, and the course of a random search."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any


def best_so_far(scores: Sequence[float]) -> list[float]:
    """Return the largest score up to each place; NaN counts as the worst."""
    return list(accumulate((-math.inf if math.isnan(score) else score for score in scores), max))


def random_quantiles(scores: Sequence[float], draws: int, share: float) -> list[float]:
    """Return quantiles of the best of 1, 2, ... scores drawn at random without replacement.

    Of n scores in order, v_1 <= ... <= v_n, the best of k is at most v_i with probability C(i, k) / C(n, k).

    Args:
        scores: Scores of architectures that were drawn at random.
        draws: Largest k, at most their number.
        share: Quantile, from 0 to 1.
    """
    values = sorted(scores)
    n = len(values)
    found = []
    i = 1
    for k in range(1, min(draws, n) + 1):
        i = max(i, k)
        while _log_choose(i, k) - _log_choose(n, k) < math.log(share) - 1e-12:
            i += 1
        found.append(values[i - 1])
    return found


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def importance(archs: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[tuple[str, float]]:
    """Return decisions with the share of the scores' variance that each explains by itself, largest first.

    That is omega squared, the estimate of eta squared which is not larger for decisions of many values; a
    negative one is zero. A decision that does not exist in an architecture has a value of its own there.
    """
    labels = dict.fromkeys(label for arch in archs for label in arch)
    shares = [(label, _omega_squared([_key(arch, label) for arch in archs], scores)) for label in labels]
    return sorted(shares, key=lambda pair: -pair[1])


def _key(arch: Mapping[str, Any], label: str) -> Hashable:
    return json.dumps(arch[label]) if label in arch else None


def _omega_squared(groups: Sequence[Hashable], scores: Sequence[float]) -> float:
    """Return (between - (k - 1) m) / (total + m), m the mean square within the k groups."""
    by_group: dict[Hashable, list[float]] = {}
    for group, score in zip(groups, scores, strict=True):
        by_group.setdefault(group, []).append(score)
    n, k = len(scores), len(by_group)
    if k < 2 or n <= k:
        return 0.0
    mean = sum(scores) / n
    total = sum((score - mean) ** 2 for score in scores)
    means = {group: sum(values) / len(values) for group, values in by_group.items()}
    between = sum(len(values) * (means[group] - mean) ** 2 for group, values in by_group.items())
    within = (total - between) / (n - k)
    return max(0.0, (between - (k - 1) * within) / (total + within)) if total + within else 0.0
