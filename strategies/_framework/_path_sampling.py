"""Path sampling: the supernet is trained one architecture at a time, then architectures are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from spacelang import SpaceError
from spacelang.language import Architecture, DecisionSpace
from spacelang.supernet import Supernet

from ._oneshot import OneShot

if TYPE_CHECKING:
    from ._path_search import PathSearch

Scored: TypeAlias = tuple[float, Architecture]
"""A measured architecture: its mean loss or metric first."""

TRIES = 1000


class Measure(Protocol):
    """Loss or metric of an architecture with the supernet's weights, on `batches` validation batches.

    The number of batches is `PathSampling.validation_batches` where none is given.
    """

    def __call__(self, arch: Architecture, batches: int | None = ..., /) -> float: ...


@dataclass(frozen=True, kw_only=True)
class PathSampling(OneShot):
    """Base of strategies that train one path of the supernet at a time.

    Before each training batch an architecture is drawn, and only its path runs. After training,
    architectures are compared by what they reach with the shared weights, each with batch-norm statistics
    of its own.

    Args:
        metric: what architectures are compared by: a name that the module's `validation_step` logs. None
            is the module's own training loss, in evaluation mode, on validation batches; less is better.
        mode: of `metric`: whether "max" or "min" is best.
        calibration_batches: training batches from which the batch-norm statistics of each compared
            architecture are estimated; 0 keeps those of training, which are of no architecture.
        validation_batches: on which architectures are compared, the same for all; None for all there are.
            A number of batches is kept in memory.
        filter: says of an architecture whether it may be trained and found, such as one that compares its
            parameters with a limit.
    """

    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    calibration_batches: int = 20
    validation_batches: int | None = None
    filter: Callable[[Architecture], bool] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.metric is None) != (self.mode is None) or self.mode not in (None, "max", "min"):
            raise SpaceError(
                f"metric={self.metric!r} and mode={self.mode!r}; a metric needs mode='max' or "
                "mode='min'; without one both are None: the loss is compared, and less is better."
            )
        self.check_integers(0, "calibration_batches")
        if self.validation_batches is not None:
            self.check_integers(1, "validation_batches")

    def check_integers(self, least: int, *names: str) -> None:
        """Raise a `SpaceError` unless these settings are integers of at least `least`."""
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SpaceError(f"{name}={value!r} must be an integer of at least {least}.")

    @property
    def samples_paths(self) -> bool:
        return True

    @property
    def measurements(self) -> int:
        """How often `rank` measures an architecture, at most."""
        raise NotImplementedError(f"{type(self).__name__} must say how often it measures")

    def rank(self, space: DecisionSpace, measure: Measure, rng: np.random.Generator) -> list[Scored]:
        """Compare architectures; return them best first, without duplicates."""
        raise NotImplementedError(f"{type(self).__name__} must say which architectures it compares")

    def draw(self, space: DecisionSpace, rng: np.random.Generator) -> Architecture:
        """Architecture for a training batch: every decision by its prior, which is uniform by default."""
        return self.accepted(lambda: space.sample(rng))

    def accepted(self, propose: Callable[[], Architecture]) -> Architecture:
        """The first proposal that `filter` accepts.

        Raises:
            SpaceError: it rejected 1,000 in a row.
        """
        for _ in range(TRIES):
            arch = propose()
            if self.filter is None or self.filter(arch):
                return arch
        raise SpaceError(
            f"filter rejected {TRIES} random architectures in a row; loosen it, or narrow the space so that "
            "more of it is accepted."
        )

    def best_first(self, scored: Iterable[Scored]) -> list[Scored]:
        """Sort; what is not a number comes last."""
        sign = -1 if self.mode == "max" else 1
        return sorted(scored, key=lambda pair: (math.isnan(pair[0]), sign * pair[0]))

    def check(self, supernet: Supernet) -> None:
        super().check(supernet)
        self.draw(supernet.decision_space, np.random.default_rng(0))

    def make_search(self, supernet: Supernet, previous: Any, **settings: Any) -> PathSearch:
        from ._path_search import PathSearch

        return PathSearch(self, supernet, **settings)


class Unseen:
    """Takes proposed architectures that were not taken before.

    Args:
        accepts: `filter` of a strategy.
    """

    def __init__(self, accepts: Callable[[Architecture], bool] | None) -> None:
        self._accepts = accepts
        self._seen: set[str] = set()

    def take(self, count: int, propose: Callable[[], Architecture]) -> list[Architecture]:
        """Up to `count` new architectures out of at most ten times as many proposals."""
        taken: list[Architecture] = []
        for _ in range(10 * count):
            if len(taken) == count:
                break
            arch = propose()
            key = json.dumps(arch, sort_keys=True)
            if key not in self._seen:
                self._seen.add(key)
                if self._accepts is None or self._accepts(arch):
                    taken.append(arch)
        return taken
