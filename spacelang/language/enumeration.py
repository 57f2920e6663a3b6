"""The architectures of a space in lexicographic order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from ..errors import SpaceError, quoted
from .component import Component
from .decisions import Architecture
from .factors import Bucket
from .walking import Step, walk

_MOST_PASSED = 100_000  # architectures of a grid that are gone through to reach a place


class _Place(NamedTuple):
    """Something to decide: a label, or a part of a statement right after the last label it depends on."""

    label: str
    component: Component
    bucket: Bucket | None


def _places(labels: Iterable[str], components: Iterable[Component], *, counted: bool) -> list[_Place]:
    """Return what is to decide, in the order of labels.

    Args:
        labels: Labels of a space, in order.
        components: Its components.
        counted: Whether counts are needed also where no combination is left out.
    """
    found: list[_Place] = []
    for component in components:
        is_plain = component.is_single if counted else component.is_free
        buckets = None if is_plain else component.buckets
        if buckets is None:
            found += [_Place(label, component, None) for label in component.decisions]
            continue
        label = ""
        for bucket in reversed(buckets):
            label = str(bucket.variable) if bucket.variable in component.decisions else label
            found.append(_Place(label, component, bucket))
    ranks = {label: rank for rank, label in enumerate(labels)}
    return sorted(found, key=lambda place: ranks[place.label])


def every(labels: Iterable[str], components: Iterable[Component]) -> Iterator[Architecture]:
    """Yield every canonical architecture once.

    Args:
        labels: Labels of a space, in order.
        components: Its components.
    """
    arch = Architecture()
    codes: dict[int, dict[Any, Any]] = defaultdict(
        dict
    )  # of each component, whose parts have names of its own

    def step(label: str, component: Component, bucket: Bucket | None) -> Step:
        if bucket is not None:
            return partial(_decided, component, bucket, codes[id(component)], arch)
        if component.constraints and component.count is not None:
            # A dead end would be met again for every combination of decisions in between.
            return partial(component.foreseen, label, arch)
        return partial(component.decided, label, arch, component.decisions[label].values, canonical=True)

    for _ in walk([step(*place) for place in _places(labels, components, counted=False)]):
        yield dict(arch)


def _decided(
    component: Component, bucket: Bucket, codes: dict[Any, Any], arch: Architecture
) -> Iterator[None]:
    variable = bucket.variable
    for code in sorted(bucket.given(codes), key=_first_absent):
        _take(component, variable, code, codes, arch)
        yield
    arch.pop(variable, None)  # type: ignore[call-overload]


def _take(component: Component, variable: Any, code: Any, codes: dict[Any, Any], arch: Architecture) -> None:
    codes[variable] = code
    if variable in component.decisions and code is not None:
        arch[variable] = component.value(variable, code)


def _first_absent(code: int | None) -> int:
    return -1 if code is None else code


def nth(labels: Iterable[str], components: Iterable[Component], place: int) -> Architecture:
    """Return the architecture at a place of `every`, of which there are finitely many.

    Args:
        labels: Labels of a space, in order.
        components: Its components.
        place: Number of the architecture, counted from 0.

    Raises:
        SpaceError: Architectures cannot be counted.
    """
    labels, components = list(labels), list(components)
    arch, codes = Architecture(), defaultdict[int, dict[Any, Any]](dict)
    places = _places(labels, components, counted=True)
    left = int(math.prod(component.count or 0 for component in components))
    uncounted = [p.component for p in places if p.bucket is None and not p.component.is_single]
    if uncounted and 0 < left <= _MOST_PASSED:
        return next(islice(every(labels, components), place, None))
    for label, component, bucket in places:
        if component in uncounted:
            raise SpaceError(
                f"the grid cannot be entered at a place: too much depends on too much to count the "
                f"architectures (decisions {quoted(component.decisions, 6)}). Go through grid() instead."
            )
        if bucket is None:
            left //= int(component.decisions[label].cardinality)
            index, place = divmod(place, left)
            arch[label] = next(islice(component.decisions[label].values(), index, None))
            continue
        known = codes[id(component)]
        options = bucket.given(known)
        left //= bucket.message[tuple(known[variable] for variable in bucket.scope)]
        for code in sorted(options, key=_first_absent):
            if place < options[code] * left:
                break
            place -= options[code] * left
        left *= options[code]
        _take(component, bucket.variable, code, known, arch)
    return arch
