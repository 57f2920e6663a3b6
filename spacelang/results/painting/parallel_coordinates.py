"""Parallel coordinates: a line for each trial, across an axis for each decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .scene import Mark, Scene, Shape, Text, line
from .text_widths import shortened, text_width

_SIZE = 7.5  # points
_LONGEST = 16  # characters
_TOP, _BOTTOM, _GAP = 0.4, 0.15, 1.0  # inches
_MOST_TEXTS = 12


@dataclass(frozen=True)
class Strand:
    """A line across the axes.

    Args:
        heights: Place on each axis, from 0 (low) to 1; NaN where it does not meet the axis.
        rank: Place among all lines, from 0 (worst) to 1 (best).
        tip: Text that is shown under the pointer.
        trial: Number of its trial.
    """

    heights: Sequence[float]
    rank: float
    tip: str
    trial: int


def parallel(
    axes: Sequence[tuple[str, Sequence[str]]],
    strands: Sequence[Strand],
    *,
    height: float = 3.2,
) -> Scene:
    """Return parallel coordinates.

    Args:
        axes: Name of each axis and the texts along it, from low to high, evenly spaced.
        strands: Lines, painted in this order.
        height: Height in inches.
    """
    rooms = [
        max(text_width(shortened(text, _LONGEST), _SIZE) for text in (*texts, name)) for name, texts in axes
    ]
    places = [rooms[0] / 2 + 0.3]
    for before, after in pairwise(rooms):
        places.append(places[-1] + max(_GAP, (before + after) / 2 + 0.2))
    width = places[-1] + rooms[-1] + 0.3
    low = height - _BOTTOM
    marks: list[Mark] = []
    for strand in strands:
        points = [
            (x, low - share * (low - _TOP))
            for x, share in zip(places, strand.heights, strict=True)
            if math.isfinite(share)
        ]
        if len(points) > 1:
            colour = "series-1" if strand.rank >= 0.9 else "series-0" if strand.rank >= 0.5 else "series-7"
            opacity, thickness = 0.15 + 0.6 * strand.rank, 0.8 + strand.rank
            name = f"trial:{strand.trial}"
            marks.append(
                Shape(line(points), "", colour, thickness, (), opacity, name, strand.tip, strand.trial)
            )
    for (name, texts), x in zip(axes, places, strict=True):
        marks.append(Shape(line([(x, _TOP), (x, low)]), stroke="line", width=0.9))
        marks.append(Text(x, _TOP - 0.2, shortened(name, _LONGEST), _SIZE, tip=name, name=f"axis:{name}"))
        for at in range(0, len(texts), math.ceil(len(texts) / _MOST_TEXTS) or 1):
            share = at / (len(texts) - 1) if len(texts) > 1 else 0.5
            text = shortened(texts[at], _LONGEST)
            level = low - share * (low - _TOP)
            marks.append(Text(x + 0.05, level, text, _SIZE, anchor="start", halo=True))
    return Scene(width, height, tuple(marks))
