"""Scenes painted by matplotlib, for PNG and PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .scene import Scene, Shape, Text
from .styles import COLOURS
from .text_widths import FONT

# matplotlib is imported late: it takes a second that only these files need.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES = {"start": "left", "middle": "center", "end": "right"}


def painted(scene: Scene) -> Figure:
    """Return a matplotlib figure of a scene, as on light paper."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(scene.width, scene.height), facecolor=_colour("paper"))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)  # inches, y downwards
    for order, mark in enumerate(scene.marks):
        if isinstance(mark, Text):
            _write(axes, mark, order)
        else:
            axes.add_patch(_patch(mark, order))
    return figure


def _colour(name: str) -> str:
    return COLOURS[name][0] if name else "none"


def _patch(shape: Shape, order: int) -> Any:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    codes = {"M": [Path.MOVETO], "L": [Path.LINETO], "C": [Path.CURVE4] * 3, "Z": [Path.CLOSEPOLY]}
    vertices: list[tuple[float, float]] = []
    written: list[Any] = []
    for kind, points in shape.path:
        vertices += points or [(0.0, 0.0)]
        written += codes[kind]
    return PathPatch(
        Path(vertices, written),
        facecolor=_colour(shape.fill),
        edgecolor=_colour(shape.stroke),
        linewidth=shape.width if shape.stroke else 0.0,
        linestyle=(0, shape.dash) if shape.dash else "solid",
        alpha=shape.opacity,
        zorder=order,
        gid=shape.name,
    )


def _write(axes: Axes, text: Text, order: int) -> None:
    from matplotlib.patheffects import withStroke

    axes.text(
        text.x,
        text.y,
        text.text,
        fontsize=text.size,
        fontfamily=FONT,
        color=_colour(text.colour),
        ha=_SIDES[text.anchor],
        va="center",
        rotation=90 if text.upright else 0,
        rotation_mode="anchor",
        parse_math=text.math,
        zorder=order,
        gid=text.name,
        path_effects=[withStroke(linewidth=3, foreground=_colour("paper"))] if text.halo else None,
    )
