"""A space without its modules: counting, sampling, editing and checking architecture dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import SpaceError, closest, quoted, short
from .conditions import ALWAYS, Condition, Constraint, Symmetry, either
from .decisions import Architecture, Decision, clash, exported, problem

_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Site:
    """One place where a decision is taken, and the condition under which the place exists."""

    decision: Decision
    condition: Condition = ALWAYS


@dataclass(frozen=True)
class _Rule:
    """A test that applies once all its labels are decided (or inactive)."""

    labels: frozenset[str]
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class DecisionSpace:
    """The decisions of a space with their conditions, constraints and symmetries.

    Args:
        sites: Places where decisions are taken, outer ones first. Those that share a label share the
            decision, which is active when any of them exists.
        constraints: Statements every architecture satisfies.
        symmetries: Slots that may be exchanged.
    """

    sites: tuple[Site, ...]
    constraints: tuple[Constraint, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    _count_cache: dict[Any, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for constraint in self.constraints:
            missing = constraint.labels - self.by_label.keys()
            if missing:
                raise SpaceError(
                    f"the constraint {constraint.expression} names {quoted(sorted(missing))}, which no layer "
                    f"of the space uses; its decisions are {quoted(self.by_label)}."
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> DecisionSpace:
        return self  # immutable, and the values in its conditions stay symbolic in copies

    # -- structure ---------------------------------------------------------------------------------

    @cached_property
    def by_label(self) -> dict[str, Decision]:
        """Decisions by label, each after every decision its condition depends on."""
        found: dict[str, Decision] = {}
        for site in self.sites:
            known = found.setdefault(site.decision.label, site.decision)
            if known != site.decision:
                raise clash(known, site.decision)
        return {label: found[label] for label in self._ordered(found)}

    def _ordered(self, found: Mapping[str, Decision]) -> list[str]:
        waiting, done = list(found), list[str]()
        while waiting:
            ready = [x for x in waiting if self.conditions[x].labels.isdisjoint(set(waiting))]
            if not ready:
                raise SpaceError(
                    f"the decisions {quoted(waiting)} exist only under each other; "
                    "use another label for the inner one."
                )
            # One at a time keeps the order of construction wherever conditions allow it.
            done.append(ready[0])
            waiting.remove(ready[0])
        return done

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """When each decision is active, by label."""
        conditions: dict[str, list[Condition]] = {}
        for site in self.sites:
            known = conditions.setdefault(site.decision.label, [])
            if site.condition not in known:
                known.append(site.condition)
        return {label: either(parts) for label, parts in conditions.items()}

    @cached_property
    def _rules(self) -> tuple[_Rule, ...]:
        return tuple(_Rule(c.labels, c.holds) for c in dict.fromkeys(self.constraints))

    @cached_property
    def _orders(self) -> tuple[_Rule, ...]:
        """Symmetries as rules: among equivalent architectures only the canonical one counts."""

        def is_sorted(symmetry: Symmetry) -> Callable[[Mapping[str, Any]], bool]:
            def holds(arch: Mapping[str, Any]) -> bool:
                keys = self._slot_keys(symmetry, arch)
                return keys is None or keys == sorted(keys)

            return holds

        return tuple(_Rule(s.labels, is_sorted(s)) for s in dict.fromkeys(self.symmetries))

    def _slot_keys(self, symmetry: Symmetry, arch: Mapping[str, Any]) -> list[tuple[Any, ...]] | None:
        if not symmetry.labels <= arch.keys():
            return None

        return [tuple(self.by_label[x].position(arch[x]) for x in slot) for slot in symmetry.slots]

    def active(self, label: str, arch: Mapping[str, Any]) -> bool:
        """Return whether `label` exists under `arch`, whose own labels must all be active."""
        return self.conditions[label].holds(arch)

    # -- counting ----------------------------------------------------------------------------------

    def size(self) -> int:
        """Return the exact number of canonical architectures.

        Independent parts multiply; parts that depend on one another through a condition, a constraint or a
        symmetry are counted by branching on their first decision.
        """
        return self._size

    @cached_property
    def _size(self) -> int:
        return self._count(tuple(self.by_label), {})

    def _count(self, labels: tuple[str, ...], arch: dict[str, Any]) -> int:
        total = 1
        for component in self._components(labels, arch):
            total *= self._count_component(component, arch)
        return total

    def _count_component(self, labels: tuple[str, ...], arch: dict[str, Any]) -> int:
        first, rest = labels[0], labels[1:]
        rules = [r for r in (*self._rules, *self._orders) if not r.labels.isdisjoint(labels)]
        if not self.conditions[first].labels and not rest and not rules:
            return self.by_label[first].cardinality
        needed = frozenset().union(*(self.conditions[x].labels for x in labels), *(r.labels for r in rules))
        # Only what the rest of the component can still see distinguishes two situations.
        key = (labels, json.dumps([(x, arch[x]) for x in sorted(needed & arch.keys())]))
        if key not in self._count_cache:
            self._count_cache[key] = sum(self._count(rest, grown) for grown in self._branches(labels, arch))
        return self._count_cache[key]

    def _branches(self, labels: tuple[str, ...], arch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield `arch` with `labels[0]` decided in every legal way, or left out when inactive."""
        first, undecided = labels[0], set(labels[1:])
        completed = [
            rule
            for rule in (*self._rules, *self._orders)
            if first in rule.labels and rule.labels.isdisjoint(undecided)
        ]
        if not self.active(first, arch):
            if all(rule.holds(arch) for rule in completed):
                yield arch
            return
        for value in self.by_label[first].values():
            grown = {**arch, first: value}
            if all(rule.holds(grown) for rule in completed):
                yield grown

    def _components(self, labels: tuple[str, ...], arch: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Split undecided labels into groups that do not influence each other."""
        group = {label: {label} for label in labels}
        links = [self.conditions[label].labels | {label} for label in labels]
        links += [rule.labels for rule in (*self._rules, *self._orders)]
        for link in links:
            joined = set().union(*(group[label] for label in link if label in group))
            for label in joined:
                group[label] = joined
        distinct = {id(members): members for members in group.values()}.values()
        return [tuple(label for label in labels if label in members) for members in distinct]

    @cached_property
    def _independent(self) -> list[tuple[str, ...]]:
        return self._components(tuple(self.by_label), {})

    # -- enumerating -------------------------------------------------------------------------------

    def grid(self) -> Iterator[Architecture]:
        """Yield every canonical architecture once, in lexicographic order of candidates."""
        return self._completions(tuple(self.by_label), {}, {}, (*self._rules, *self._orders))

    def at(self, place: int) -> Architecture:
        """Return the architecture at a place of `grid()`, counted from 0, without going through the others.

        Raises:
            SpaceError: The grid has no such place.
        """
        if not 0 <= place < self.size():
            raise SpaceError(f"place {place} is outside a grid of {self.size():,} architectures.")
        labels, arch = tuple(self.by_label), dict[str, Any]()
        while labels:
            for grown in self._branches(labels, arch):
                count = self._count(labels[1:], grown)
                if place < count:
                    break
                place -= count
            labels, arch = labels[1:], grown
        return arch

    def complete(self, partial: Mapping[str, Any]) -> Architecture | None:
        """Return the first valid architecture (in candidate order) that agrees with `partial`, or None."""
        return next(self._completions(tuple(self.by_label), {}, partial, self._rules), None)

    def default(self) -> Architecture:
        """Return the architecture of first candidates, or the first that constraints allow."""
        arch = self.complete({})
        if arch is None:
            raise SpaceError("no architecture satisfies the constraints of this space; loosen one of them.")
        return self.canonical(arch)

    def _completions(
        self,
        labels: tuple[str, ...],
        arch: Architecture,
        fixed: Mapping[str, Any],
        rules: Sequence[_Rule],
    ) -> Iterator[Architecture]:
        if not labels:
            yield arch
            return
        first, rest = labels[0], labels[1:]
        completed = [r for r in rules if first in r.labels and r.labels.isdisjoint(rest)]
        values: Iterable[Any] = [fixed[first]] if first in fixed else self.by_label[first].values()
        options = [{**arch, first: value} for value in values] if self.active(first, arch) else [arch]
        for option in options:
            if all(rule.holds(option) for rule in completed):
                yield from self._completions(rest, option, fixed, rules)

    # -- random --------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw a valid architecture: each active decision by its prior, conditioned on the constraints.

        Raises:
            SpaceError: Constraints are so tight that 10,000 draws of one independent part all failed.
        """
        return self.canonical(self._filled({}, rng))

    def _filled(
        self, partial: Mapping[str, Any], rng: np.random.Generator, attempts: int = _ATTEMPTS
    ) -> Architecture:
        """Decide randomly what `partial` leaves open, conditioned on the constraints."""
        arch: Architecture = {}
        for component in self._independent:
            arch |= self._filled_component(component, partial, rng, attempts)
        return {label: arch[label] for label in self.by_label if label in arch}

    def _filled_component(
        self, labels: tuple[str, ...], partial: Mapping[str, Any], rng: np.random.Generator, attempts: int
    ) -> Architecture:
        rules = [rule for rule in self._rules if not rule.labels.isdisjoint(labels)]
        for _ in range(attempts):
            arch: Architecture = {}
            for label in labels:
                if self.active(label, arch):
                    arch[label] = partial[label] if label in partial else self.by_label[label].sample(rng)
            if all(rule.holds(arch) for rule in rules):
                return arch
            if all(label in partial for label in arch):
                break
        raise SpaceError(
            f"no valid value found for {quoted(labels)}: the constraints "
            f"{quoted(c.message for c in self.constraints if not c.labels.isdisjoint(labels))} are too tight."
        )

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Change one active decision to another value; decisions that become active are drawn.

        Raises:
            SpaceError: `arch` is invalid, or it is the only architecture near.
        """
        parent = self.canonical(arch)
        open_labels = [label for label in parent if self.by_label[label].cardinality > 1]
        for _ in range(1000 if open_labels else 0):
            label = open_labels[int(rng.integers(len(open_labels)))]
            value = self.by_label[label].sample(rng)
            if value == parent[label]:
                continue
            child = self._edited({**parent, label: value}, rng)
            if child is not None and child != parent:
                return child
        neighbours = list(self.neighbours(parent))
        if not neighbours:
            raise SpaceError(
                "this architecture has no neighbours: changing any one decision breaks a constraint."
            )
        return neighbours[int(rng.integers(len(neighbours)))]

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Take each decision from one of two parents; a decision neither has is drawn.

        When constraints reject 100 mixtures in a row, the child is a copy of `a`.
        """
        first, second = self.canonical(a), self.canonical(b)
        for _ in range(100):
            mixed = {}
            for label in self.by_label:
                holders = [parent for parent in (first, second) if label in parent]
                if holders:
                    mixed[label] = holders[int(rng.integers(len(holders)))][label]
            child = self._edited(mixed, rng)
            if child is not None:
                return child
        return first

    def redraw(self, arch: Mapping[str, Any], probability: float, rng: np.random.Generator) -> Architecture:
        """Draw each active decision again with a probability; it may come out as it was.

        When constraints reject 100 draws in a row, the child is a copy of `arch`.
        """
        parent = self.canonical(arch)
        kept = {label: value for label, value in parent.items() if rng.random() >= probability}
        return self._edited(kept, rng) or parent

    def _edited(self, partial: Mapping[str, Any], rng: np.random.Generator) -> Architecture | None:
        try:
            return self.canonical(self._filled(partial, rng, attempts=100))
        except SpaceError:
            return None

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[Architecture]:
        """Yield every valid architecture that differs in one decision.

        Decisions that become active take their first valid candidates.
        """
        center = self.canonical(arch)
        seen = {_as_key(center)}
        for label in center:
            for value in self.by_label[label].values():
                changed = self.complete({**center, label: value})
                if changed is None:
                    continue
                neighbour = self.canonical(changed)
                if _as_key(neighbour) not in seen:
                    seen.add(_as_key(neighbour))
                    yield neighbour

    # -- checking ------------------------------------------------------------------------------------

    def problems(self, arch: object) -> list[str]:
        """Return everything wrong with `arch`, one sentence each; nothing when it is valid."""
        return self._read(arch)[1]

    def unfit(self, arch: Mapping[str, Any]) -> list[str]:
        """Return why `arch` does not decide this space; further labels are ignored."""
        return self._decided(arch)[1]

    def _read(self, arch: object) -> tuple[Architecture, list[str]]:
        """Return the active decisions of `arch`, and everything wrong with it."""
        if not isinstance(arch, Mapping):
            return {}, [f"an architecture is a dict {{label: value}}; got {short(arch)}."]
        unknown = [
            f"{short(label)} (= {short(value)}) is not a label of this space."
            + (closest(label, self.by_label) if isinstance(label, str) else "")
            for label, value in arch.items()
            if label not in self.by_label
        ]
        known, unfit = self._decided(arch)
        return known, unknown + unfit

    def _decided(self, arch: Mapping[str, Any]) -> tuple[Architecture, list[str]]:
        """Return the active decisions of `arch`, and why it does not decide this space."""
        known: Architecture = {}
        found = list[str]()
        for label, decision in self.by_label.items():
            if self.active(label, known):
                text = problem(decision, arch)
                if text is None:
                    known[label] = exported(decision.parse(arch[label]))
                else:
                    found.append(text)
        return known, found or [c.message for c in self.constraints if not c.holds(known)]

    def validate(self, arch: object) -> None:
        """Check an architecture dict.

        Raises:
            SpaceError: With every problem: labels missing or unknown, values that are no candidates,
                violated constraints.
        """
        refuse(self.problems(arch), "the architecture")

    def canonical(self, arch: Mapping[str, Any]) -> Architecture:
        """Drop inactive labels, put exchangeable slots in order, sort labels as the space has them."""
        kept, problems = self._read(arch)
        refuse(problems, "the architecture")
        for symmetry in dict.fromkeys(self.symmetries):
            keys = self._slot_keys(symmetry, kept)
            if keys is not None:
                order = sorted(range(len(keys)), key=keys.__getitem__)
                contents = [[kept[label] for label in symmetry.slots[k]] for k in order]
                for slot, values in zip(symmetry.slots, contents, strict=True):
                    kept.update(zip(slot, values, strict=True))
        return kept

    def encode(self, arch: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a fixed-length vector: an indicator per candidate of every decision, 0 where inactive."""
        canonical = self.canonical(arch)
        parts: list[float] = []
        for label, decision in self.by_label.items():
            parts += (
                decision.indicator(canonical[label])
                if label in canonical
                else [0.0] * len(decision.candidates)
            )
        return np.array(parts, dtype=np.float32)


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise a `SpaceError` that lists the problems, if there are any."""
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpaceError(f"{what} has {count}:\n" + "\n".join(f"  {text}" for text in problems))


def _as_key(arch: Mapping[str, Any]) -> str:
    return json.dumps(arch, sort_keys=True)
