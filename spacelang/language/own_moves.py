"""Decisions of a space that draws or changes architectures in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .decision_space import DecisionSpace
from .decisions import Architecture, Decision

MOVES = ("sample", "mutate", "crossover", "neighbours")


class Moves(Protocol):
    """The methods of a space by which a search moves in it."""

    @property
    def bound(self) -> int | float: ...

    def sample(self, rng: np.random.Generator) -> Architecture: ...

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture: ...

    def crossover(
        self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator
    ) -> Architecture: ...

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[Architecture]: ...


@dataclass(frozen=True)
class OwnMoves(DecisionSpace):
    """Decisions among which a search moves as their space says.

    Further decisions, such as the learning rate of an evaluator, are drawn and changed beside.

    Args:
        space: The space, which knows none of the further decisions.
        own: Names of the methods that it defines, of `MOVES`.
        further: Decisions that it does not know.
    """

    space: Moves = field(kw_only=True, compare=False, repr=False)
    own: frozenset[str] = field(kw_only=True)
    further: tuple[Decision, ...] = field(kw_only=True, default=())

    @property
    def bound(self) -> int | float:
        """See `DecisionSpace.bound`."""
        return self._beside.bound * self.space.bound

    def sample(self, rng: np.random.Generator) -> Architecture:
        """See `DecisionSpace.sample`."""
        if "sample" not in self.own:
            return super().sample(rng)
        return self.canonical({**self.space.sample(rng), **self._beside.sample(rng)})

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """See `DecisionSpace.mutate`."""
        if "mutate" not in self.own:
            return super().mutate(arch, rng)
        inner, beside = self._parts(arch)
        changing = [label for label in beside if self.by_label[label].cardinality > 1]
        if changing and rng.integers(len(inner) + len(changing)) < len(changing):
            return self.canonical({**inner, **self._beside.mutate(beside, rng)})
        return self.canonical({**self.space.mutate(inner, rng), **beside})

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """See `DecisionSpace.crossover`."""
        if "crossover" not in self.own:
            return super().crossover(a, b, rng)
        (first, one), (second, other) = self._parts(a), self._parts(b)
        inner = self.space.crossover(first, second, rng)
        return self.canonical({**inner, **self._beside.crossover(one, other, rng)})

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[Architecture]:
        """See `DecisionSpace.neighbours`."""
        if "neighbours" not in self.own:
            yield from super().neighbours(arch)
            return
        inner, beside = self._parts(arch)
        for near in self.space.neighbours(inner):
            yield self.canonical({**near, **beside})
        for near in self._beside.neighbours(beside):
            yield self.canonical({**inner, **near})

    @property
    def _beside(self) -> DecisionSpace:
        """The further decisions alone."""
        labels = {decision.label for decision in self.further}
        return DecisionSpace(tuple(site for site in self.sites if site.decision.label in labels))

    def _parts(self, arch: Mapping[str, Any]) -> tuple[Architecture, Architecture]:
        """Return the decisions of the space itself, and the further ones."""
        labels = {decision.label for decision in self.further}
        whole = self.canonical(arch)
        inner = {label: value for label, value in whole.items() if label not in labels}
        return inner, {label: value for label, value in whole.items() if label in labels}
