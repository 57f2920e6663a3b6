"""Scenes: shapes and texts on a page, in inches from its upper left corner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Point: TypeAlias = tuple[float, float]
Step: TypeAlias = tuple[str, tuple[Point, ...]]
"""A step of a path: "M", "L", "C" or "Z", and its points."""

_ROUND = 0.5523  # control points of a quarter of a circle, in radii


@dataclass(frozen=True, slots=True)
class Shape:
    """A path that is filled, stroked, or both.

    Args:
        path: Steps of the path.
        fill: Name of its colour; an empty string for none.
        stroke: Name of the colour of its line; an empty string for none.
        width: Width of the line in points.
        dash: Lengths of dashes and gaps in points.
        opacity: Opacity, from 0 to 1.
        name: Name of the thing it shows, for tests.
        tip: Text that is shown while the pointer is over it.
        trial: Number of the trial that it shows.
    """

    path: tuple[Step, ...]
    fill: str = ""
    stroke: str = ""
    width: float = 1.0
    dash: tuple[float, ...] = ()
    opacity: float = 1.0
    name: str = ""
    tip: str = ""
    trial: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text.

    Args:
        x: Place of its anchor.
        y: Height of its middle.
        text: The text; with `math`, "$c_{k}$" is a letter with an index.
        size: Size in points.
        colour: Name of its colour.
        anchor: Part of the text that is at `x`.
        math: Whether dollars enclose mathematics.
        upright: Whether it is written upwards.
        halo: Whether lines behind it are kept off.
        name: See `Shape`.
        tip: See `Shape`.
    """

    x: float
    y: float
    text: str
    size: float
    colour: str = "ink"
    anchor: Literal["start", "middle", "end"] = "middle"
    math: bool = False
    upright: bool = False
    halo: bool = False
    name: str = ""
    tip: str = ""


Mark: TypeAlias = Shape | Text


@dataclass(frozen=True)
class Scene:
    """A page with marks; later ones are painted over earlier ones.

    Args:
        width: Width of the page in inches.
        height: Its height.
        marks: Shapes and texts.
        title: Description for those who cannot see it.
    """

    width: float
    height: float
    marks: tuple[Mark, ...]
    title: str = ""


def line(points: Sequence[Point]) -> tuple[Step, ...]:
    """Return a line through points."""
    return (("M", (points[0],)), *(("L", (point,)) for point in points[1:]))


def polygon(points: Sequence[Point]) -> tuple[Step, ...]:
    """Return a closed line through points."""
    return (*line(points), ("Z", ()))


def curves(points: Sequence[Point]) -> tuple[Step, ...]:
    """Return a line of cubic curves: a start, then two control points and an end for each."""
    triples = (tuple(points[at : at + 3]) for at in range(1, len(points), 3))
    return (("M", (points[0],)), *(("C", triple) for triple in triples))


def box(x: float, y: float, width: float, height: float, radius: float = 0.0) -> tuple[Step, ...]:
    """Return a rectangle by its upper left corner, with round corners."""
    right, low = x + width, y + height
    if not radius:
        return polygon([(x, y), (right, y), (right, low), (x, low)])
    r = min(radius, width / 2, height / 2)
    k = r * (1 - _ROUND)
    return (
        ("M", ((x + r, y),)),
        ("L", ((right - r, y),)),
        ("C", ((right - k, y), (right, y + k), (right, y + r))),
        ("L", ((right, low - r),)),
        ("C", ((right, low - k), (right - k, low), (right - r, low))),
        ("L", ((x + r, low),)),
        ("C", ((x + k, low), (x, low - k), (x, low - r))),
        ("L", ((x, y + r),)),
        ("C", ((x, y + k), (x + k, y), (x + r, y))),
        ("Z", ()),
    )


def dot(x: float, y: float, radius: float) -> tuple[Step, ...]:
    """Return a circle by its centre."""
    return box(x - radius, y - radius, 2 * radius, 2 * radius, radius)


def moved(marks: Iterable[Mark], x: float, y: float) -> list[Mark]:
    """Return marks, moved."""
    found: list[Mark] = []
    for mark in marks:
        if isinstance(mark, Text):
            found.append(replace(mark, x=mark.x + x, y=mark.y + y))
        else:
            path = tuple((kind, tuple((px + x, py + y) for px, py in ends)) for kind, ends in mark.path)
            found.append(replace(mark, path=path))
    return found


def stacked(scenes: Sequence[Scene], gap: float = 0.2) -> Scene:
    """Return scenes one below the other, centred."""
    width = max(scene.width for scene in scenes)
    marks: list[Mark] = []
    y = 0.0
    for scene in scenes:
        marks += moved(scene.marks, (width - scene.width) / 2, y)
        y += scene.height + gap
    return Scene(width, y - gap, tuple(marks), scenes[0].title)


def beside(scenes: Sequence[Scene], gap: float = 0.2) -> Scene:
    """Return scenes side by side, centred."""
    height = max(scene.height for scene in scenes)
    marks: list[Mark] = []
    x = 0.0
    for scene in scenes:
        marks += moved(scene.marks, x, (height - scene.height) / 2)
        x += scene.width + gap
    return Scene(x - gap, height, tuple(marks), scenes[0].title)


def finite(values: Iterable[float]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if math.isfinite(value)]
