"""Decisions that depend on one another: counted, completed and drawn together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..errors import SpaceError, quoted
from .conditions import Condition, Constraint, Symmetry
from .decisions import Architecture, Decision
from .factors import (
    COUNTING,
    PROBABILITY,
    SMALLEST,
    Algebra,
    Bucket,
    Factor,
    TooWideError,
    cheapest_order,
    eliminate,
    total,
)
from .statements import Encoder
from .walking import DeadEndsError, Step, walk

_DEAD_ENDS = 1_000  # of a search, before exact tables are made
_MOST_DEAD_ENDS = 1_000_000  # of a search, where exact tables would be too large
_MOST_DRAWN_DEAD_ENDS = 20_000  # likewise, when drawing
_MOST_ORDERED = 50_000, 100  # entries of tables for a grid: at least, and for each variable
_DRAWS = 100  # without regard to constraints, before exact tables are made
_MOST_DRAWS = 10_000  # likewise, where exact tables would be too large


@dataclass(frozen=True, eq=False)
class Component:
    """Decisions that depend on one another through conditions, constraints or symmetries.

    Answers are exact: one decision after another is eliminated (see `factors`). Where so many decisions
    depend on one another that this takes too long, architectures are found by trial, and not counted.

    Args:
        decisions: Decisions by label, each after those its condition depends on.
        conditions: When each is active.
        constraints: Statements about these decisions.
        symmetries: Slots of these decisions that may be exchanged.
    """

    decisions: Mapping[str, Decision]
    conditions: Mapping[str, Condition]
    constraints: tuple[Constraint, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()

    @cached_property
    def is_free(self) -> bool:
        """Whether any combination of active values is an architecture."""
        return not self.constraints and not self.symmetries

    @cached_property
    def is_single(self) -> bool:
        """Whether it is one decision that can take all its values."""
        return len(self.decisions) == 1 and self.is_free

    @cached_property
    def _last(self) -> dict[str, list[Constraint | Symmetry]]:
        """Constraints and symmetries by the label that is the last of theirs to be decided."""
        ranks = {label: rank for rank, label in enumerate(self.decisions)}
        found: dict[str, list[Constraint | Symmetry]] = {}
        rules: list[Constraint | Symmetry] = [*self.constraints, *self.symmetries]
        for rule in rules:
            found.setdefault(max(rule.labels, key=ranks.__getitem__), []).append(rule)
        return found

    def decided(
        self,
        label: str,
        arch: Architecture,
        values: Callable[[], Iterable[Any]],
        *,
        canonical: bool = False,
    ) -> Iterator[None]:
        """Decide a label in `arch` in each way that the constraints allow; leave it out where it is inactive.

        Args:
            label: The decision.
            arch: Decisions taken before; changed in place, and as it was after the last value.
            values: Values to try.
            canonical: Whether exchangeable slots must be in order.
        """
        if not self.conditions[label].holds(arch):
            if self._allows(label, arch, canonical):
                yield
            return
        for value in values():
            arch[label] = value
            if self._allows(label, arch, canonical):
                yield
        arch.pop(label, None)

    def _allows(self, label: str, arch: Mapping[str, Any], canonical: bool) -> bool:
        """Return whether what is complete once `label` is decided holds."""
        return all(
            rule.holds(arch) if isinstance(rule, Constraint) else not canonical or self._is_sorted(rule, arch)
            for rule in self._last.get(label, ())
        )

    def foreseen(self, label: str, arch: Architecture) -> Iterator[None]:
        """Decide a label as `decided` does, canonically, in those ways only that can be completed."""
        for _ in self.decided(label, arch, self.decisions[label].values, canonical=True):
            if self.first({x: arch[x] for x in self.decisions if x in arch}) is not None:
                yield

    def _is_sorted(self, symmetry: Symmetry, arch: Mapping[str, Any]) -> bool:
        if not symmetry.labels <= arch.keys():
            return True
        keys = [[self.decisions[x].position(arch[x]) for x in slot] for slot in symmetry.slots]
        return keys == sorted(keys)

    @cached_property
    def is_endless(self) -> bool:
        """Whether a decision takes infinitely many values."""
        return any(decision.cardinality == math.inf for decision in self.decisions.values())

    # -- counting ------------------------------------------------------------------------------------

    @cached_property
    def count(self) -> int | float | None:
        """Exact number of canonical architectures; None where too much depends on too much."""
        if self.is_endless:
            return math.inf
        if self.is_single:
            return next(iter(self.decisions.values())).cardinality
        try:
            return total(self._eliminated(COUNTING, {}, canonical=True), COUNTING) or 0
        except TooWideError:
            return None

    @cached_property
    def bound(self) -> int | float:
        """A number of architectures that there cannot be more of."""
        if self.count is not None:
            return self.count
        loose = Component(self.decisions, self.conditions)
        if not self.is_free and loose.count is not None:
            return loose.count
        bound: float = 1
        for label, decision in self.decisions.items():
            bound *= decision.cardinality + bool(self.conditions[label].labels)
        return bound

    @cached_property
    def buckets(self) -> list[Bucket] | None:
        """Canonical architectures as a tree with counts, the last decision first; None where too large."""
        try:
            return self._eliminated(COUNTING, {}, canonical=True, ordered=True)
        except TooWideError:
            return None

    def value(self, label: str, code: int) -> Any:
        """Return a value of a decision by its code in `buckets`."""
        return self._encoder.values[label][code]

    # -- exact tables --------------------------------------------------------------------------------

    @cached_property
    def _tables(self) -> Encoder | None:
        try:
            return Encoder(self.decisions, self.conditions, self.constraints)
        except TooWideError:
            return None

    @property
    def _encoder(self) -> Encoder:
        if self._tables is None:
            raise TooWideError
        return self._tables

    @cached_property
    def _symmetric(self) -> list[Factor]:
        return [self._encoder.symmetry(symmetry) for symmetry in self.symmetries]

    @cached_property
    def _order(self) -> list[Any]:
        sizes = {variable: len(self._encoder.codes[variable]) for variable in self._encoder.order()}
        return cheapest_order([*self._encoder.factors, *self._symmetric], sizes)

    def _eliminated(
        self,
        algebra: Algebra,
        weights: Mapping[str, Mapping[Any, Any]],
        *,
        canonical: bool = False,
        ordered: bool = False,
    ) -> list[Bucket]:
        """Eliminate every variable.

        Args:
            algebra: How weights are joined.
            weights: Weights of the codes of labels; all of equal weight where there are none.
            canonical: Whether slots must be in order.
            ordered: Whether to eliminate from the last decision to the first.
        """
        encoder = self._encoder
        factors = [*encoder.factors, *(self._symmetric if canonical else ())]
        given = [Factor(f.scope, dict.fromkeys(f.table, algebra.one)) for f in factors]
        for variable, codes in encoder.codes.items():
            weighted = weights.get(variable, dict.fromkeys(codes, algebra.one))  # type: ignore[call-overload]
            given.append(Factor((variable,), {(code,): weight for code, weight in weighted.items()}))
        if ordered:  # it may be a bad order, and a search does without
            least, each = _MOST_ORDERED
            return eliminate(given, encoder.order()[::-1], algebra, max(least, each * len(encoder.codes)))
        return eliminate(given, self._order, algebra)

    def _read(self, buckets: list[Bucket], pick: Callable[[Mapping[Any, Any]], Any]) -> Architecture:
        """Decide one variable after another; what is left of each are its options and their weights."""
        codes: dict[Any, Any] = {}
        for bucket in reversed(buckets):
            codes[bucket.variable] = pick(bucket.given(codes))
        return {x: self.value(x, codes[x]) for x in self.decisions if codes[x] is not None}

    def _allowed(self, label: str, fixed: Mapping[str, Any]) -> list[Any]:
        codes = self._encoder.codes[label]
        if label not in fixed:
            return codes
        wanted = self.decisions[label].parse(fixed[label])
        return [c for c in codes if c is None or self.decisions[label].parse(self.value(label, c)) == wanted]

    # -- completing ----------------------------------------------------------------------------------

    def first(self, fixed: Mapping[str, Any]) -> Architecture | None:
        """Return the first valid values (in candidate order) that agree with `fixed`, or None.

        Raises:
            SpaceError: A long search found nothing.
        """
        try:
            return self._searched(fixed, lambda label: self.decisions[label].values(), _DEAD_ENDS)
        except DeadEndsError:
            pass
        try:
            return self._smallest(fixed)
        except TooWideError:
            return self._found(fixed, lambda label: self.decisions[label].values(), _MOST_DEAD_ENDS)

    def changed(self, arch: Architecture, label: str, value: Any) -> Architecture | None:
        """Return valid values with one decision changed; what that activates takes its first values."""
        if not self.may_change(arch, label, value):
            return None
        changed = self.given_way({**arch, label: value}, label)
        return self.first(changed) if label in self._controlling or len(changed) < len(arch) else changed

    def given_way(self, arch: Architecture, label: str) -> Architecture:
        """Return `arch`, in which `label` was changed, without the decisions that give way to the change."""
        gone = {
            rule.gives_way
            for rule in self._ruling.get(label, ())
            if rule.gives_way not in ("", label) and not rule.holds(arch)
        }
        return {x: value for x, value in arch.items() if x not in gone} if gone else arch

    def may_change(self, arch: Mapping[str, Any], label: str, value: Any) -> bool:
        """Return False where constraints on what is decided already forbid another value of a decision."""
        if label in self._controlling:
            return True
        return all(
            rule.gives_way not in ("", label)
            or rule.holds({x: arch[x] for x in rule.labels if x in arch} | {label: value})
            for rule in self._ruling.get(label, ())
        )

    @cached_property
    def _controlling(self) -> frozenset[str]:
        """Labels on which it depends whether others are active."""
        return frozenset[str]().union(*(condition.labels for condition in self.conditions.values()))

    @cached_property
    def _ruling(self) -> dict[str, list[Constraint]]:
        """Constraints by each of their labels."""
        found: dict[str, list[Constraint]] = {}
        for constraint in self.constraints:
            for label in constraint.labels:
                found.setdefault(label, []).append(constraint)
        return found

    def _smallest(self, fixed: Mapping[str, Any]) -> Architecture | None:
        """Find the first architecture as the one whose codes, read as digits, are the smallest number."""
        weights: dict[str, dict[Any, int]] = {}
        place = 1
        for label in reversed(list(self.decisions)):
            weights[label] = {code: (code or 0) * place for code in self._allowed(label, fixed)}
            place *= len(self._encoder.codes[label])
        buckets = self._eliminated(SMALLEST, weights)
        if total(buckets, SMALLEST) is None:
            return None
        return self._read(buckets, lambda options: min(options, key=options.__getitem__))

    def _found(
        self, fixed: Mapping[str, Any], values: Callable[[str], Iterable[Any]], most_dead_ends: int
    ) -> Architecture | None:
        try:
            return self._searched(fixed, values, most_dead_ends)
        except DeadEndsError:
            raise SpaceError(
                f"{self._tight()} A search gave up after {most_dead_ends:,} dead ends."
            ) from None

    def _searched(
        self, fixed: Mapping[str, Any], values: Callable[[str], Iterable[Any]], most_dead_ends: int
    ) -> Architecture | None:
        """Try values in order, and go back from dead ends."""
        arch: Architecture = {}

        def step(label: str) -> Step:
            options = (lambda: (fixed[label],)) if label in fixed else partial(values, label)
            return partial(self.decided, label, arch, options)

        for _ in walk([step(label) for label in self.decisions], most_dead_ends):
            return arch
        return None

    # -- drawing -------------------------------------------------------------------------------------

    def draw(
        self, fixed: Mapping[str, Any], rng: np.random.Generator, *, patient: bool = True
    ) -> Architecture:
        """Draw values for what `fixed` leaves open, by the priors given that constraints hold.

        The distribution is exact: values are drawn without regard to constraints until they hold, and
        where that takes long, by eliminating decisions. Only where this would take too long, and 10,000
        draws fail, values are tried in the order of a random draw, which prefers what dead ends leave.

        Args:
            fixed: Values that are given.
            rng: Source of randomness.
            patient: Whether to continue after 100 draws where decisions cannot be eliminated.

        Raises:
            SpaceError: No values were found.
        """
        arch = self._drawn_freely(fixed, rng, _DRAWS)
        if arch is None and not all(label in fixed for label in self.decisions):
            try:
                arch = self._drawn_exactly(fixed, rng)
            except TooWideError:
                arch = self._drawn_patiently(fixed, rng) if patient else None
        if arch is None:
            raise SpaceError(self._tight())
        return arch

    def _drawn_patiently(self, fixed: Mapping[str, Any], rng: np.random.Generator) -> Architecture | None:
        arch = self._drawn_freely(fixed, rng, _MOST_DRAWS)
        if arch is not None:
            return arch
        return self._found(fixed, lambda label: self._shuffled(label, rng), _MOST_DRAWN_DEAD_ENDS)

    def _drawn_freely(
        self, fixed: Mapping[str, Any], rng: np.random.Generator, attempts: int
    ) -> Architecture | None:
        for _ in range(attempts):
            arch: Architecture = {}
            for label, decision in self.decisions.items():
                if self.conditions[label].holds(arch):
                    arch[label] = fixed[label] if label in fixed else decision.sample(rng)
            if all(rule.holds(arch) for rule in self.constraints):
                return arch
            if all(label in fixed for label in arch):
                break
        return None

    def _drawn_exactly(self, fixed: Mapping[str, Any], rng: np.random.Generator) -> Architecture | None:
        weights: dict[str, dict[Any, float]] = {}
        for label, decision in self.decisions.items():
            allowed = self._allowed(label, fixed)
            weights[label] = dict.fromkeys(allowed, 1.0)
            if label not in fixed:
                drawn = {code: chance for code, chance in enumerate(decision.probabilities()) if chance > 0}
                weights[label] = drawn | ({None: 1.0} if None in allowed else {})
        buckets = self._eliminated(PROBABILITY, weights)
        if not total(buckets, PROBABILITY):
            return None

        def pick(options: Mapping[Any, float]) -> Any:
            codes, chances = list(options), np.cumsum(list(options.values()))
            return codes[int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))]

        return self._read(buckets, pick)

    def _shuffled(self, label: str, rng: np.random.Generator) -> Iterator[Any]:
        """Yield values in the order in which draws meet them, first a few by the prior, then all others."""
        decision = self.decisions[label]
        yield decision.sample(rng)
        yield from decision.values()

    def _tight(self) -> str:
        return (
            f"no valid value found for {quoted(self.decisions)}: the constraints "
            f"{quoted(dict.fromkeys(c.message for c in self.constraints))} are too tight."
        )
