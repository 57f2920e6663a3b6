"""Charts: curves, points, bars, parallel coordinates and small multiples, as scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .scene import Mark, Point, Scene, Shape, Text, box, dot, finite, line, polygon
from .styles import series
from .text_widths import shortened, text_width

_SIZE, _TITLE = 8.5, 10.5  # points
_TICK, _PAD = 0.05, 0.12  # inches
_ROW = 0.2
_LEGEND = 36  # characters


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Args:
        label: Text beside it.
        log: Whether its scale is logarithmic; values of at most zero are then left out.
        names: Names of the values 0, 1, ... in place of numbers.
        whole: Whether it counts something, so that only whole numbers are written beside it.
    """

    label: str = ""
    log: bool = False
    names: Sequence[str] = ()
    whole: bool = False


@dataclass(frozen=True)
class Band:
    """A band between two curves over the places of a `Curve`."""

    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """A line through points, or points alone.

    Args:
        name: Name in the legend; an empty string for none.
        xs: Places.
        ys: Values; those that are not finite are left out.
        colour: Name of its colour; by default that of its position.
        dots: Whether its points are shown.
        line: Whether they are joined.
        dashed: Whether the line is dashed.
        steps: Whether it stays level until the next point.
        band: Band around it.
        tips: Text of each point, shown under the pointer.
        trials: Number of the trial of each point.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str = ""
    dots: bool = False
    line: bool = True
    dashed: bool = False
    steps: bool = False
    band: Band | None = None
    tips: Sequence[str] = ()
    trials: Sequence[int] = ()


@dataclass(frozen=True)
class _Scale:
    """Values to inches: `low` is at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (not self.log or value > 0)


def chart(
    curves: Sequence[Curve],
    x: Axis | None = None,
    y: Axis | None = None,
    *,
    title: str = "",
    width: float = 6.4,
    height: float = 3.0,
) -> Scene:
    """Return a chart of curves with its axes and a legend."""
    x, y = x or Axis(), y or Axis()
    curves = [replace(c, colour=c.colour or series(at)) for at, c in enumerate(curves)]
    rows = _legend_rows([curve for curve in curves if curve.name], width)
    top = 0.3 * bool(title) + _ROW * len(rows) + 0.08
    values = _bounds([value for c in curves for value in _values(c)], y)
    ticks = _ticks(*values, y)
    left = max([text_width(text, _SIZE) for _, text in ticks], default=0.3) + 0.2 + 0.2 * bool(y.label)
    bottom = 0.28 + 0.18 * bool(x.label)
    up = _Scale(*values, height - bottom, top + 0.04, y.log)
    along = _Scale(*_bounds([value for c in curves for value in c.xs], x), left + 0.06, width - 0.18, x.log)
    marks: list[Mark] = [Text(width / 2, 0.14, title, _TITLE, name=f"title:{title}")] if title else []
    marks += _legend(rows, 0.3 * bool(title) + 0.1, width)
    marks += _axes(along, up, x, y, ticks, (left, top, width - 0.12, height - bottom))
    for curve in curves:
        marks += _curve(curve, along, up)
    return Scene(width, height, tuple(marks), title)


def _values(curve: Curve) -> list[float]:
    band = curve.band or Band((), ())
    return [*curve.ys, *band.low, *band.high]


def _bounds(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    """Return the ends of an axis that shows all values, with a little room."""
    shown = [value for value in finite(values) if not axis.log or value > 0]
    if axis.names:
        return -0.5, len(axis.names) - 0.5
    if not shown:
        return (1.0, 10.0) if axis.log else (0.0, 1.0)
    low, high = min(shown), max(shown)
    if axis.log:
        return (low / 1.1, high * 1.1)
    room = (high - low) * 0.04 or abs(high) * 0.05 or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, axis: Axis, most: int = 6) -> list[tuple[float, str]]:
    """Return round values between two, with their texts."""
    if axis.names:
        every = math.ceil(len(axis.names) / 24)
        return [(float(at), shortened(axis.names[at], 28)) for at in range(0, len(axis.names), every)]
    if axis.log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1, 2, 5) if len(powers) <= 3 else (1,)
        found = [factor * 10.0**power for power in powers for factor in factors]
    else:
        rough = max((high - low) / most, 1.0 if axis.whole else 0.0)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        found = [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, number_text(value)) for value in found if low <= value <= high]


def number_text(value: float) -> str:
    """Return a number as an axis or a table shows it.

    >>> number_text(1250000.0), number_text(0.25), number_text(-0.0)
    ('1.25M', '0.25', '0')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value + 0.0:.4g}"


def value_text(value: Any) -> str:
    """Return a value of an architecture or a metric as pictures and reports show it.

    >>> value_text(0.16014113442254202), value_text(16058.0), value_text([0, 2]), value_text("relu")
    ('0.16014', '16058', '0, 2', 'relu')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return str(value)


def _legend_rows(curves: Sequence[Curve], width: float) -> list[list[tuple[Curve, float]]]:
    """Return the curves in rows that fit the width, each with the room that it takes."""
    rows: list[list[tuple[Curve, float]]] = []
    used = math.inf
    for curve in curves:
        room = text_width(shortened(curve.name, _LEGEND), _SIZE) + 0.42
        if used + room > width - 0.3:
            rows.append([])
            used = 0.0
        rows[-1].append((curve, room))
        used += room
    return rows


def _legend(rows: Sequence[Sequence[tuple[Curve, float]]], y: float, width: float) -> list[Mark]:
    marks: list[Mark] = []
    for at, row in enumerate(rows):
        x, level = (width - sum(room for _, room in row)) / 2, y + at * _ROW
        for curve, room in row:
            dash = (4.0, 2.5) if curve.dashed else ()
            sample = line([(x, level), (x + 0.22, level)]) if curve.line else dot(x + 0.11, level, 0.035)
            filled = "" if curve.line else curve.colour
            marks.append(Shape(sample, filled, curve.colour if curve.line else "", 2.0, dash, name="legend"))
            name = shortened(curve.name, _LEGEND)
            marks.append(Text(x + 0.28, level, name, _SIZE, anchor="start", name=f"legend:{curve.name}"))
            x += room
    return marks


def _axes(
    along: _Scale,
    up: _Scale,
    x: Axis,
    y: Axis,
    ticks: Sequence[tuple[float, str]],
    frame: tuple[float, float, float, float],
) -> list[Mark]:
    left, top, right, low = frame
    marks: list[Mark] = []
    for value, text in ticks:
        level = up(value)
        marks.append(Shape(line([(left, level), (right, level)]), stroke="faint", width=0.7))
        marks.append(Text(left - _TICK, level, text, _SIZE, "line", "end"))
    for value, text in _fitting(_ticks(along.low, along.high, x, 8), along):
        marks.append(Shape(line([(along(value), low), (along(value), low + 0.04)]), stroke="line", width=0.7))
        marks.append(Text(along(value), low + _PAD, text, _SIZE, "line"))
    marks.append(Shape(line([(left, top), (left, low), (right, low)]), stroke="line", width=0.8))
    if x.label:
        marks.append(Text((left + right) / 2, low + 0.32, x.label, _SIZE, "line"))
    if y.label:
        marks.append(Text(0.1, (top + low) / 2, shortened(y.label, 40), _SIZE, "line", upright=True))
    return marks


def _fitting(ticks: Sequence[tuple[float, str]], along: _Scale) -> list[tuple[float, str]]:
    """Return the ticks whose texts do not run into the one before."""
    kept: list[tuple[float, str]] = []
    free = -math.inf
    for value, text in ticks:
        half = text_width(text, _SIZE) / 2 + 0.04
        if along(value) - half >= free:
            kept.append((value, text))
            free = along(value) + half
    return kept


def _curve(curve: Curve, along: _Scale, up: _Scale) -> list[Mark]:
    pairs = list(zip(curve.xs, curve.ys, strict=True))
    kept = [at for at, (x, y) in enumerate(pairs) if along.shows(x) and up.shows(y)]
    places = [(along(curve.xs[at]), up(curve.ys[at])) for at in kept]
    marks: list[Mark] = []
    if curve.band is not None:
        low = [(along(x), up(v)) for x, v in zip(curve.xs, curve.band.low, strict=True)]
        high = [(along(x), up(v)) for x, v in zip(curve.xs, curve.band.high, strict=True)]
        if curve.steps:
            low, high = _stepped(low), _stepped(high)
        marks.append(
            Shape(polygon([*low, *reversed(high)]), curve.colour, opacity=0.18, name=f"band:{curve.name}")
        )
    if curve.line and len(places) > 1:
        dash = (4.0, 2.5) if curve.dashed else ()
        path = line(_stepped(places) if curve.steps else places)
        tip = "" if curve.tips else curve.name
        marks.append(
            Shape(path, stroke=curve.colour, width=1.6, dash=dash, name=f"curve:{curve.name}", tip=tip)
        )
    if curve.dots or not curve.line or len(places) == 1:
        marks += [_dot(curve, at, place) for at, place in zip(kept, places, strict=True)]
    return marks


def _dot(curve: Curve, at: int, place: Point) -> Shape:
    return Shape(
        dot(*place, 0.035),
        curve.colour,
        curve.colour,
        0.6,
        opacity=0.75,
        name=f"dot:{curve.name}",
        tip=curve.tips[at] if curve.tips else "",
        trial=curve.trials[at] if curve.trials else None,
    )


def _stepped(places: Sequence[Point]) -> list[Point]:
    found = list(places[:1])
    for (_, before), (x, y) in pairwise(places):
        found += [(x, before), (x, y)]
    return found


def bars(rows: Sequence[tuple[str, float]], label: str = "", *, width: float = 6.4) -> Scene:
    """Return horizontal bars from zero, a row for each name and value."""
    left = max((text_width(shortened(name, 36), _SIZE) for name, _ in rows), default=0.5) + 0.2
    height = _ROW * len(rows) + 0.1 + 0.2 * bool(label)
    most = max((value for _, value in rows), default=1.0) or 1.0
    marks: list[Mark] = []
    for at, (name, value) in enumerate(rows):
        y = _ROW * (at + 0.5)
        length = (width - left - 0.7) * max(value, 0.0) / most
        marks.append(Text(left - 0.08, y, shortened(name, 36), _SIZE, anchor="end", tip=name))
        marks.append(Shape(box(left, y - 0.065, length, 0.13), "series-0", name="bar"))
        marks.append(Text(left + length + 0.06, y, number_text(value), _SIZE, "line", "start"))
    if label:
        marks.append(Text((left + width) / 2, height - 0.12, label, _SIZE, "line"))
    return Scene(width, height, tuple(marks))


def small_multiples(
    panels: Mapping[str, Sequence[Curve]],
    y: tuple[float, float],
    legend: Sequence[str],
    *,
    title: str = "",
    columns: int = 6,
) -> Scene:
    """Return a grid of small charts on one scale, with one legend: the curves of a panel have its colours.

    Args:
        panels: Curves by heading, in the order of the legend.
        y: Lowest and highest value.
        legend: Name of each curve.
        title: Heading.
        columns: Number of panels side by side.
    """
    height, wide, high = 0.0, 1.5, 1.0
    width = max(6.4, 0.2 + min(columns, len(panels)) * (wide + 0.05))
    named = [Curve(name, (), (), series(at)) for at, name in enumerate(legend)]
    rows = _legend_rows(named, width)
    marks: list[Mark] = [Text(width / 2, 0.14, title, _TITLE)] if title else []
    marks += _legend(rows, 0.36, width)
    start = 0.36 + _ROW * len(rows) + 0.05
    xs = finite(value for curves in panels.values() for curve in curves for value in curve.xs)
    bounds = (min(xs, default=0.0), max(max(xs, default=1.0), min(xs, default=0.0) + 1))
    for at, (name, curves) in enumerate(panels.items()):
        x0, y0 = 0.15 + (at % columns) * (wide + 0.05), start + (at // columns) * (high + 0.1)
        along = _Scale(*bounds, x0 + 0.05, x0 + wide - 0.05)
        up = _Scale(*y, y0 + high, y0 + 0.2)
        marks.append(Text(x0 + wide / 2, y0 + 0.1, shortened(name, 22), 7.5, tip=name))
        marks.append(Shape(box(x0, y0 + 0.2, wide - 0.05, high - 0.2), stroke="faint", width=0.8))
        for position, curve in enumerate(curves):
            marks += _curve(replace(curve, colour=series(position)), along, up)
        height = max(height, y0 + high)
    return Scene(width, height + 0.1, tuple(marks), title)
