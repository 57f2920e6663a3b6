"""A numbering of a cell's nodes that isomorphic cells agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Colours: TypeAlias = dict[int, int]
Arrow: TypeAlias = tuple[int, int, tuple[Any, ...]]
"""(source, node, what is applied)."""


def canonical_numbers(colours: Mapping[int, int], arrows: Sequence[Arrow]) -> Colours:
    """Number nodes so that isomorphic graphs get the same arrows between numbers.

    Colours are refined by what comes in and goes out until nothing changes (Weisfeiler-Lehman). Nodes
    still alike are told apart by singling out each in turn and taking what gives the smallest graph, so
    the result is exact where refinement alone is not.

    Args:
        colours: by node; equal ones may be exchanged. Tags and colours must be sortable.
        arrows: of the graph.
    """
    refined = _refine(dict(colours), arrows)
    sizes = Counter(refined.values())
    tied = [colour for colour in sorted(sizes) if sizes[colour] > 1]
    if not tied:
        return refined
    # Doubling leaves room for a colour just below that of the others.
    singled = (
        {node: 2 * colour - (node == first) for node, colour in refined.items()}
        for first in refined
        if refined[first] == tied[0]
    )
    return min((canonical_numbers(c, arrows) for c in singled), key=lambda numbers: _renamed(numbers, arrows))


def _refine(colours: Colours, arrows: Sequence[Arrow]) -> Colours:
    colours = _ranked(colours)
    while True:
        seen: dict[int, tuple[Any, ...]] = {
            node: (
                colour,
                sorted((colours[source], tag) for source, target, tag in arrows if target == node),
                sorted((colours[target], tag) for source, target, tag in arrows if source == node),
            )
            for node, colour in colours.items()
        }
        finer = _ranked(seen)
        if len(set(finer.values())) == len(set(colours.values())):
            return colours
        colours = finer


def _ranked(values: Mapping[int, Any]) -> Colours:
    """Replace values by their ranks."""
    distinct: list[Any] = []
    for value in sorted(values.values()):
        if not distinct or distinct[-1] != value:
            distinct.append(value)
    return {node: distinct.index(value) for node, value in values.items()}


def _renamed(numbers: Colours, arrows: Iterable[Arrow]) -> list[tuple[Any, ...]]:
    return sorted((numbers[source], numbers[target], tag) for source, target, tag in arrows)
