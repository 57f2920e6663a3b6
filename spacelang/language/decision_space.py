"""A space without its modules: counting, sampling, editing and checking architecture dicts."""

from __future__ import annotations

import heapq
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import SpaceError, closest, quoted, require_integer, short, written
from .component import Component
from .conditions import ALWAYS, Condition, Constraint, Symmetry, either
from .decisions import Architecture, Categorical, Decision, clash, exported, problem
from .enumeration import every, nth
from .intervals import Interval


@dataclass(frozen=True)
class Site:
    """One place where a decision is taken, and the condition under which the place exists."""

    decision: Decision
    condition: Condition = ALWAYS


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
        """Return labels so that conditions come first; otherwise in the order of construction."""
        place = {label: i for i, label in enumerate(found)}
        missing = {label: self.conditions[label].labels & place.keys() for label in found}
        followers: dict[str, list[str]] = {}
        for label, needed in missing.items():
            for other in needed:
                followers.setdefault(other, []).append(label)
        count = {label: len(needed) for label, needed in missing.items()}
        ready, done = [place[label] for label in found if not count[label]], list[str]()
        labels = list(found)
        while ready:  # a heap: sorted from the start
            done.append(labels[heapq.heappop(ready)])
            for label in followers.get(done[-1], ()):
                count[label] -= 1
                if not count[label]:
                    heapq.heappush(ready, place[label])
        if len(done) < len(found):
            raise SpaceError(
                f"the decisions {quoted(label for label in found if count[label])} exist only under each "
                "other; use another label for the inner one."
            )
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
    def _components(self) -> list[Component]:
        """Groups of decisions that do not influence each other, by their first decision."""
        constraints = [rule for rule in dict.fromkeys(self.constraints) if rule.labels]
        symmetries = list(dict.fromkeys(self.symmetries))
        links = [(label, *self.conditions[label].labels) for label in self.by_label]
        links += [tuple(rule.labels) for rule in constraints]
        links += [tuple(symmetry.labels) for symmetry in symmetries]
        leader = _leaders(self.by_label, links)
        members: dict[str, dict[str, Decision]] = {}
        for label, decision in self.by_label.items():
            members.setdefault(leader[label], {})[label] = decision
        ruled: dict[str, list[Constraint]] = {}
        for rule in constraints:
            ruled.setdefault(leader[next(iter(rule.labels))], []).append(rule)
        exchanged: dict[str, list[Symmetry]] = {}
        for symmetry in symmetries:
            exchanged.setdefault(leader[next(iter(symmetry.labels))], []).append(symmetry)
        return [
            Component(
                decisions,
                {label: self.conditions[label] for label in decisions},
                tuple(ruled.get(first, ())),
                tuple(exchanged.get(first, ())),
            )
            for first, decisions in members.items()
        ]

    @cached_property
    def _component_of(self) -> dict[str, Component]:
        return {label: component for component in self._components for label in component.decisions}

    def active(self, label: str, arch: Mapping[str, Any]) -> bool:
        """Return whether `label` exists under `arch`, whose own labels must all be active."""
        return self.conditions[label].holds(arch)

    # -- counting ----------------------------------------------------------------------------------

    def size(self) -> int | float:
        """Return the exact number of canonical architectures; infinite with a range without a step.

        Independent parts multiply; decisions that depend on one another through conditions, constraints or
        symmetries are counted together. Where so many of them do that counting would take too long, the
        number of combinations without constraints and symmetries takes the place of theirs: an upper bound.

        Warns:
            UserWarning: The number is an upper bound.
        """
        if not self.is_counted:
            labels = quoted(next(c for c in self._components if c.count is None).decisions, 6)
            warnings.warn(
                f"too much depends on too much to count the architectures (decisions {labels}): "
                "size() is an upper bound.",
                UserWarning,
                stacklevel=2,
            )
        return self.bound

    @cached_property
    def is_counted(self) -> bool:
        """Whether `size()` is exact."""
        return all(component.count is not None for component in self._components)

    @cached_property
    def bound(self) -> int | float:
        """`size()`, without a warning where it is an upper bound."""
        if any(component.is_endless for component in self._components):
            return math.inf  # also times a number that no float can hold
        return math.prod(component.bound for component in self._components)

    # -- enumerating -------------------------------------------------------------------------------

    def grid(self, points: int | None = None) -> Iterator[Architecture]:
        """Yield every canonical architecture once, in lexicographic order of candidates.

        Args:
            points: Number of values of each range without a step; needed where there is one.

        Raises:
            SpaceError: There is such a range, and no number of points.
        """
        space = self.on_grid(points)
        return every(space.by_label, space._components)

    def on_grid(self, points: int | None) -> DecisionSpace:
        """Return this space with `points` values in place of each range without a step."""
        endless = [label for label, decision in self.by_label.items() if decision.cardinality == math.inf]
        if not endless:
            return self
        if points is None:
            raise SpaceError(
                f"{quoted(endless)} take infinitely many values; say how many belong to the grid: points=5."
            )
        require_integer("points", points, least=1)

        def on_points(decision: Decision) -> Decision:
            if not isinstance(decision, Interval) or decision.step is not None:
                return decision
            return Categorical(decision.label, decision.points(points))

        sites = tuple(replace(site, decision=on_points(site.decision)) for site in self.sites)
        return replace(self, sites=sites)

    def at(self, place: int) -> Architecture:
        """Return the architecture at a place of `grid()`, counted from 0, without going through the others.

        Raises:
            SpaceError: The grid has no such place, or its architectures cannot be counted.
        """
        if self.bound == math.inf:
            self.on_grid(None)  # raises
        if not 0 <= place < self.bound:
            raise SpaceError(f"place {place} is outside a grid of {written(self.bound)} architectures.")
        return nth(self.by_label, self._components, place)

    def complete(self, partial: Mapping[str, Any]) -> Architecture | None:
        """Return the first valid architecture (in candidate order) that agrees with `partial`, or None."""
        return self._joined(component.first(partial) for component in self._components)

    def _joined(self, parts: Iterable[Architecture | None]) -> Architecture | None:
        """Join what components decide, in the order of the space; None where one of them has nothing."""
        arch: Architecture = {}
        for part in parts:
            if part is None:
                return None
            arch |= part
        return self._sorted(arch)

    def _sorted(self, arch: Mapping[str, Any]) -> Architecture:
        return {label: arch[label] for label in self.by_label if label in arch}

    def default(self) -> Architecture:
        """Return the architecture of defaults, or the first that constraints allow."""
        decisions = self.by_label.values()
        given = {d.label: d.default for d in decisions if d.default != next(iter(d.values()))}
        arch = (self.complete(given) if given else None) or self.complete({})
        if arch is None:
            raise SpaceError("no architecture satisfies the constraints of this space; loosen one of them.")
        return self.canonical(arch)

    # -- random --------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw a valid architecture: each active decision by its prior, conditioned on the constraints.

        The distribution is exact, see `Component.draw`.

        Raises:
            SpaceError: No architecture satisfies the constraints, or none was found.
        """
        return self.canonical(self._filled({}, rng))

    def _filled(
        self, partial: Mapping[str, Any], rng: np.random.Generator, *, patient: bool = True
    ) -> Architecture:
        """Decide randomly what `partial` leaves open, conditioned on the constraints."""
        arch: Architecture = {}
        for component in self._components:
            arch |= component.draw(partial, rng, patient=patient)
        return self._sorted(arch)

    def mutate(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture:
        """Change one active decision to another value; decisions that become active or give way are drawn.

        A number of a range becomes one near it.

        Raises:
            SpaceError: `arch` is invalid, or it is the only architecture near.
        """
        parent = self.canonical(arch)
        open_labels = [label for label in parent if self.by_label[label].cardinality > 1]
        for _ in range(1000 if open_labels else 0):
            label = open_labels[int(rng.integers(len(open_labels)))]
            decision = self.by_label[label]
            value = (
                decision.near(parent[label], rng) if isinstance(decision, Interval) else decision.sample(rng)
            )
            component = self._component_of[label]
            if value == parent[label] or not component.may_change(parent, label, value):
                continue
            child = self._edited(component.given_way({**parent, label: value}, label), rng)
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
            child = self.repaired(mixed, rng)
            if child is not None:
                return child
        return first

    def repaired(self, arch: Mapping[str, Any], rng: np.random.Generator) -> Architecture | None:
        """Draw what `arch` leaves open, and what gives way to a broken constraint; None where that fails."""
        given_way = {rule.gives_way for rule in self.constraints if rule.gives_way and not rule.holds(arch)}
        return self._edited({label: arch[label] for label in arch if label not in given_way}, rng)

    def redraw(self, arch: Mapping[str, Any], probability: float, rng: np.random.Generator) -> Architecture:
        """Draw each active decision again with a probability; it may come out as it was.

        When constraints reject 100 draws in a row, the child is a copy of `arch`.
        """
        parent = self.canonical(arch)
        kept = {label: value for label, value in parent.items() if rng.random() >= probability}
        return self._edited(kept, rng) or parent

    def _edited(self, partial: Mapping[str, Any], rng: np.random.Generator) -> Architecture | None:
        try:
            return self.canonical(self._filled(partial, rng, patient=False))
        except SpaceError:
            return None

    def neighbours(self, arch: Mapping[str, Any]) -> Iterator[Architecture]:
        """Yield every valid architecture that differs in one decision; of an endless range with five numbers.

        Decisions that become active or give way take their first valid candidates.
        """
        center = self.canonical(arch)
        for component in self._components:
            own = {label: center[label] for label in component.decisions if label in center}
            kept: Architecture | None = None
            for changed in self._changed(component, own):
                kept = kept or {label: value for label, value in center.items() if label not in own}
                yield self._sorted(kept | changed)

    def variants(self, arch: Architecture, label: str) -> tuple[Architecture, list[Architecture]]:
        """Return the part of a valid `arch` that a decision influences, and that part with its other values.

        Decisions that become active take their first valid candidates.
        """
        component = self._component_of[label]
        own = {x: arch[x] for x in component.decisions if x in arch}
        return own, list(self._variants(component, own, label))

    def _variants(self, component: Component, own: Architecture, label: str) -> Iterator[Architecture]:
        now = json.dumps(own[label])  # True is not 1
        for value in self.by_label[label].values():
            changed = component.changed(own, label, value) if json.dumps(value) != now else None
            if changed is not None:
                yield changed

    def _changed(self, component: Component, center: Architecture) -> Iterator[Architecture]:
        """Yield every canonical way to change one decision of a component."""
        seen = {_as_key(center)} if component.symmetries else set[str]()
        for label in center:
            for changed in self._variants(component, center, label):
                if component.symmetries:  # the same may come out in another order of slots
                    self._exchange(component.symmetries, changed)
                    if (key := _as_key(changed)) in seen:
                        continue
                    seen.add(key)
                yield changed

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
        self._exchange(dict.fromkeys(self.symmetries), kept)
        return kept

    def _exchange(self, symmetries: Iterable[Symmetry], arch: Architecture) -> None:
        """Put exchangeable slots in order."""
        for symmetry in symmetries:
            if symmetry.labels <= arch.keys():
                keys = [tuple(self.by_label[x].position(arch[x]) for x in slot) for slot in symmetry.slots]
                order = sorted(range(len(keys)), key=keys.__getitem__)
                contents = [[arch[label] for label in symmetry.slots[k]] for k in order]
                for slot, values in zip(symmetry.slots, contents, strict=True):
                    arch.update(zip(slot, values, strict=True))

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


def _leaders(labels: Iterable[str], links: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return one label of its group for each label; linked labels are in one group."""
    above = {label: label for label in labels}

    def top(label: str) -> str:
        while above[label] != label:
            above[label] = label = above[above[label]]
        return label

    for link in links:
        tops = [top(label) for label in link if label in above]
        above.update(dict.fromkeys(tops[1:], tops[0]))
    return {label: top(label) for label in above}


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise a `SpaceError` that lists the problems, if there are any."""
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpaceError(f"{what} has {count}:\n" + "\n".join(f"  {text}" for text in problems))


def _as_key(arch: Mapping[str, Any]) -> str:
    return json.dumps(arch, sort_keys=True)
