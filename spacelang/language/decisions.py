"""Decisions: the labelled variables of a space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ..errors import SpaceError, closest, listed, quoted, require_integer, short
from .intervals import FIRST, Interval

Architecture: TypeAlias = dict[str, Any]
"""`{label: value}`, JSON and YAML safe."""

_SCALARS = (str, int, float, bool, type(None))


def exported(value: object) -> object:
    """Return `value` as JSON and YAML write it: tuples become lists."""
    return [exported(item) for item in value] if isinstance(value, tuple) else value


def _same(given: object, candidate: object) -> bool:
    """Return whether a value of an architecture dict names this candidate: equal, and of the same type."""
    if isinstance(candidate, tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(candidate)
            and all(_same(g, c) for g, c in zip(given, candidate, strict=True))
        )
    if type(given) is type(candidate):
        return given == candidate
    # YAML and hand-written dicts say 1 for 1.0; True is never 1.
    return isinstance(candidate, float) and type(given) is int and given == candidate


def _checked_candidates(label: str, candidates: Sequence[Any]) -> tuple[Any, ...]:
    def plain(value: object) -> bool:
        return type(value) in _SCALARS or (isinstance(value, tuple) and all(map(plain, value)))

    frozen = tuple(tuple(c) if isinstance(c, list) else c for c in candidates)
    seen = dict[Any, list[Any]]()
    if not frozen:
        raise SpaceError(f"{label!r} has no candidates; pass at least one.")
    for candidate in frozen:
        if not plain(candidate):
            raise SpaceError(
                f"{label!r}: candidate {short(candidate)} is a {type(candidate).__name__}; candidates "
                "are strings, numbers, booleans, None or tuples of them, so that they can be saved."
            )
    for candidate in frozen:
        alike = seen.setdefault(candidate, [])
        if any(_same(candidate, other) or _same(other, candidate) for other in alike):
            raise SpaceError(f"{label!r}: candidate {candidate!r} is given twice.")
        alike.append(candidate)
    return frozen


class _Candidates:
    """Candidates of a decision, each found at once however many there are."""

    candidates: tuple[Any, ...]

    @cached_property
    def _alike(self) -> dict[Any, list[int]]:
        """Positions of the candidates that are equal; 1 and True are, and yet are different candidates."""
        positions = dict[Any, list[int]]()
        for position, candidate in enumerate(self.candidates):
            positions.setdefault(candidate, []).append(position)
        return positions

    def _named(self, value: object) -> int | None:
        """Return the position of the candidate that a value of an architecture dict names, or None."""
        try:
            alike = self._alike.get(_as_candidate(value), ())
        except TypeError:  # no candidate is without a hash
            return None
        return next((i for i in alike if _same(value, self.candidates[i])), None)


def _as_candidate(value: object) -> object:
    """Return a value of an architecture dict with tuples for its lists, as candidates have them."""
    return tuple(map(_as_candidate, value)) if isinstance(value, list | tuple) else value


def _checked_prior(label: str, prior: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if prior is None:
        return None
    weights = tuple(float(weight) for weight in prior)
    if len(weights) != count or any(not math.isfinite(w) or w < 0 for w in weights) or sum(weights) <= 0:
        raise SpaceError(
            f"{label!r}: prior={list(prior)!r} must be {count} finite weights, none negative, not all zero."
        )
    return weights


@dataclass(frozen=True, init=False)
class Categorical(_Candidates):
    """One of several candidates: a layer, a value, a depth or a single input.

    Args:
        label: Full label.
        candidates: Names, indices or values; at least one, all different.
        prior: Weight of each candidate in random sampling; any scale. None is uniform.
        default: Candidate of the space's default architecture; the first one where it is left out.
    """

    label: str
    candidates: tuple[Any, ...]
    prior: tuple[float, ...] | None
    default: Any = field(repr=False)

    def __init__(
        self,
        label: str,
        candidates: Sequence[Any],
        prior: Sequence[float] | None = None,
        default: Any = FIRST,
    ) -> None:
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "candidates", _checked_candidates(label, candidates))
        object.__setattr__(self, "prior", _checked_prior(label, prior, len(candidates)))
        object.__setattr__(self, "default", self._default(default))

    def _default(self, given: object) -> Any:
        return next(self.values()) if given is FIRST else exported(self.parse(given))

    def __str__(self) -> str:
        return f"{self.label!r}: {listed(self.candidates)}"

    @property
    def cardinality(self) -> int:
        """Number of legal values."""
        return len(self.candidates)

    def values(self) -> Iterator[Any]:
        """Return every legal value as an architecture dict holds it, in candidate order."""
        return (exported(candidate) for candidate in self.candidates)

    def parse(self, value: object) -> Any:
        """Return the candidate that `value` names.

        Raises:
            SpaceError: It names none; the message lists the candidates and the closest.
        """
        return self.candidates[self.position(value)]

    def position(self, value: object) -> int:
        """Return the position of the candidate that `value` names.

        Raises:
            SpaceError: As `parse`.
        """
        # A single input may be written as a one-element list.
        listed = isinstance(value, list | tuple) and len(value) == 1 and self._is_index
        found = self._named(value[0] if listed else value)  # type: ignore[index]
        if found is None:
            raise SpaceError(
                f"{self.label!r} got {short(value)}; candidates are {quoted(self.candidates)}."
                + (closest(value, self.candidates) if isinstance(value, str) else "")
            )
        return found

    @cached_property
    def _is_index(self) -> bool:
        return all(type(c) is int and c == i for i, c in enumerate(self.candidates))

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw a value by the prior."""
        count = len(self.candidates)
        if self.prior is None:
            return exported(self.candidates[int(rng.integers(count))])
        p = np.array(self.prior) / sum(self.prior)
        return exported(self.candidates[int(rng.choice(count, p=p))])

    def probabilities(self) -> Iterator[float]:
        """Yield the probability that `sample` draws each of `values()`."""
        weights = self.prior or (1.0,) * len(self.candidates)
        return (weight / sum(weights) for weight in weights)

    def indicator(self, value: object) -> list[float]:
        """Return the one-hot vector of `value`, (cardinality,)."""
        chosen = self.position(value)
        return [float(i == chosen) for i in range(len(self.candidates))]


@dataclass(frozen=True, init=False)
class Subset(_Candidates):
    """Several of `n` candidates: `n_chosen` of them, or with None any non-empty set.

    In an architecture dict the value is the list of those chosen, in the order of the candidates.

    Args:
        label: Full label.
        candidates: Indices 0..n-1 of inputs, or different values.
        n_chosen: Size of the set, 1..n, or None.
        prior: Weights of drawing each candidate without replacement; with `n_chosen=None`,
            the probability in (0, 1) of including each. None is uniform over the legal sets.
        default: Set of the space's default architecture; the first one where it is left out.
    """

    label: str
    candidates: tuple[Any, ...]
    n_chosen: int | None
    prior: tuple[float, ...] | None
    default: list[Any] = field(repr=False)

    def __init__(
        self,
        label: str,
        candidates: Sequence[Any],
        n_chosen: int | None,
        prior: Sequence[float] | None = None,
        default: Any = FIRST,
    ) -> None:
        count = len(candidates)
        require_integer(f"{label!r}: n_chosen", n_chosen, least=1, most=count, optional=True)
        weights = _checked_prior(label, prior, count)
        if weights is not None and n_chosen is None and not all(0 < w < 1 for w in weights):
            raise SpaceError(f"{label!r}: with n_chosen=None prior={weights} are probabilities in (0, 1).")
        if weights is not None and n_chosen is not None and sum(w > 0 for w in weights) < n_chosen:
            raise SpaceError(f"{label!r}: prior={weights} leaves fewer than n_chosen={n_chosen} candidates.")
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "candidates", _checked_candidates(label, candidates))
        object.__setattr__(self, "n_chosen", n_chosen)
        object.__setattr__(self, "prior", weights)
        first = next(self.values()) if default is FIRST else exported(self.parse(default))
        object.__setattr__(self, "default", first)

    def __hash__(self) -> int:  # the default is a list
        return hash((self.label, self.candidates, self.n_chosen, self.prior))

    def __str__(self) -> str:
        count = "any" if self.n_chosen is None else self.n_chosen
        return f"{self.label!r}: {count} of {listed(self.candidates)}"

    @property
    def cardinality(self) -> int:
        """Number of legal sets."""
        count = len(self.candidates)
        return 2**count - 1 if self.n_chosen is None else math.comb(count, self.n_chosen)

    def values(self) -> Iterator[list[Any]]:
        """Yield every legal set, smaller sets first, then in lexicographic order."""
        return map(self._values_at, self._positions())

    def _positions(self) -> Iterator[tuple[int, ...]]:
        """Yield the positions of the candidates of every legal set."""
        count = len(self.candidates)
        for size in range(1, count + 1) if self.n_chosen is None else [self.n_chosen]:
            yield from itertools.combinations(range(count), size)

    def _values_at(self, positions: Iterable[int]) -> list[Any]:
        return [exported(self.candidates[i]) for i in sorted(positions)]

    def parse(self, value: object) -> tuple[Any, ...]:
        """Return the tuple of candidates that `value` names, in their order.

        Raises:
            SpaceError: Not a list of different known candidates of the right number.
        """
        return tuple(self.candidates[i] for i in self.position(value))

    def position(self, value: object) -> tuple[int, ...]:
        """Return the positions of the chosen candidates, increasing.

        Raises:
            SpaceError: As `parse`.
        """
        given = value if isinstance(value, list | tuple) else ()
        found = [self._named(each) for each in given]
        chosen = sorted({i for i in found if i is not None})
        if not chosen or len(chosen) < len(given) or self.n_chosen not in (None, len(chosen)):
            wanted = "one or more" if self.n_chosen is None else str(self.n_chosen)
            raise SpaceError(
                f"{self.label!r} got {short(value)}; expected a list of {wanted} different "
                f"candidates out of {quoted(self.candidates)}."
            )
        return tuple(chosen)

    def sample(self, rng: np.random.Generator) -> list[Any]:
        """Draw a set by the prior."""
        count = len(self.candidates)
        if self.n_chosen is not None:
            p = None if self.prior is None else np.array(self.prior) / sum(self.prior)
            return self._values_at(map(int, rng.choice(count, size=self.n_chosen, replace=False, p=p)))
        inclusion = np.full(count, 0.5) if self.prior is None else np.array(self.prior)
        while True:  # conditioned on a non-empty set; with probabilities of 1/2 every set is equally likely
            included = rng.random(count) < inclusion
            if included.any():
                return self._values_at(map(int, included.nonzero()[0]))

    def probabilities(self) -> Iterator[float]:
        """Yield the probability that `sample` draws each of `values()`."""
        if self.prior is None:
            yield from itertools.repeat(1 / self.cardinality, self.cardinality)
            return
        if self.n_chosen is not None:
            yield from (_one_by_one(self.prior, chosen) for chosen in self._positions())
            return
        empty = math.prod(1 - p for p in self.prior)
        for chosen in self._positions():
            yield math.prod(p if i in chosen else 1 - p for i, p in enumerate(self.prior)) / (1 - empty)

    def indicator(self, value: object) -> list[float]:
        """Return a vector with 1 at each chosen candidate, (n,)."""
        chosen = self.position(value)
        return [float(i in chosen) for i in range(len(self.candidates))]


def _one_by_one(weights: Sequence[float], chosen: Sequence[int]) -> float:
    """Return the probability of drawing just these, one after another without replacement, in any order."""
    total = sum(weights)
    reached = {frozenset[int](): 1.0}
    for _ in chosen:
        grown: dict[frozenset[int], float] = {}
        for drawn, chance in reached.items():
            left = total - sum(weights[i] for i in drawn)
            for i in set(chosen) - drawn:
                grown[drawn | {i}] = grown.get(drawn | {i}, 0.0) + chance * weights[i] / left
        reached = grown
    return reached[frozenset(chosen)]


Decision: TypeAlias = Categorical | Subset | Interval


def clash(one: Decision, other: Decision, place: str = "", other_place: str = "") -> SpaceError:
    """Return the error of a label that two different decisions have.

    Args:
        one: First decision of the label.
        other: Second one.
        place: Place where the first was made, if that is known.
        other_place: Place of the second.
    """

    def described(decision: Decision, place: str) -> str:
        text = f"{len(decision.candidates)} candidates {quoted(decision.candidates, 6)}"
        return f"{text} (at {place})" if place else text

    return SpaceError(
        f"label {one.label!r} is used for two different decisions: {described(one, place)} and "
        f"{described(other, other_place)}. Use another label for one of them."
    )


def problem(decision: Decision, arch: Mapping[str, Any]) -> str | None:
    """Return why `decision` cannot be read off `arch`, or None."""
    if decision.label not in arch:
        return f"{decision.label!r} is missing; candidates are {quoted(decision.candidates, 8)}."
    try:
        decision.parse(arch[decision.label])
    except SpaceError as error:
        return str(error)
    return None
