"""Scenes as SVG: text stays text, everything is escaped, and dark mode has colours of its own."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from .scene import Scene, Shape, Text
from .styles import stylesheet
from .text_widths import FONT

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INDEXED = re.compile(r"\$(\w+)_\{([^{}]*)\}\$")
_POINTS = 72.0  # in an inch: the unit of our SVG


def escaped(text: object) -> str:
    """Return a text as HTML and XML hold it in elements and attributes; what they cannot hold is replaced."""
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", str(text)), {'"': "&quot;", "'": "&#39;"})


def svg_of(scene: Scene, *, alone: bool = True) -> str:
    """Return a scene as SVG.

    Args:
        scene: The scene.
        alone: Whether it is a document of its own, with its paper and colours; or else a part of a page that
            has the `stylesheet`.
    """
    width, height = _number(scene.width), _number(scene.height)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}pt" height="{height}pt" role="img">'
    )
    parts = [head, f"<title>{escaped(scene.title)}</title>" if scene.title else ""]
    if alone:
        parts += [
            f"<style>{stylesheet()}</style>",
            f'<rect class="f-paper" width="{width}" height="{height}"/>',
        ]
    parts += [_text(mark) if isinstance(mark, Text) else _shape(mark) for mark in scene.marks]
    return "\n".join([part for part in parts if part] + ["</svg>"])


def _colours(scene: Scene) -> set[str]:
    """Return the colours of a scene and of its paper."""
    shapes = [mark for mark in scene.marks if isinstance(mark, Shape)]
    texts = [mark for mark in scene.marks if isinstance(mark, Text)]
    return {"paper", *(x for s in shapes for x in (s.fill, s.stroke)), *(text.colour for text in texts)}


def _number(inches: float) -> str:
    return f"{inches * _POINTS:.2f}".rstrip("0").rstrip(".")


def _shape(shape: Shape) -> str:
    path = "".join(
        kind + " ".join(f"{_number(x)},{_number(y)}" for x, y in points) for kind, points in shape.path
    )
    names = [f"f-{shape.fill}"] * bool(shape.fill) + [f"s-{shape.stroke}"] * bool(shape.stroke)
    names += ["hover"] * bool(shape.tip and shape.stroke)
    given = [f'class="{" ".join(names)}"', f'd="{path}"']
    if not shape.fill:
        given.append('fill="none"')
    if shape.stroke:
        given.append(f'stroke-width="{shape.width:.2f}"')
    if shape.dash:
        given.append(f'stroke-dasharray="{" ".join(f"{length:g}" for length in shape.dash)}"')
    if shape.opacity < 1:
        given.append(f'opacity="{shape.opacity:.2f}"')
    if shape.trial is not None:
        given.append(f'data-trial="{shape.trial}"')
    return f"<path {' '.join(given)}{_closed(shape.tip, 'path')}"


def _closed(tip: str, tag: str) -> str:
    return f"><title>{escaped(tip)}</title></{tag}>" if tip else "/>"


def _text(text: Text) -> str:
    x, y = _number(text.x), _number(text.y)
    given = [
        f'class="f-{text.colour}{" halo" * text.halo}"',
        f'x="{x}" y="{y}" font-size="{text.size:g}" text-anchor="{text.anchor}" dominant-baseline="central"',
        f"font-family=\"'{FONT}',Verdana,sans-serif\"",
    ]
    if text.upright:
        given.append(f'transform="rotate(-90 {x} {y})"')
    tip = f"<title>{escaped(text.tip)}</title>" if text.tip else ""
    return f"<text {' '.join(given)}>{tip}{_content(text)}</text>"


def _content(text: Text) -> str:
    indexed = _INDEXED.fullmatch(text.text) if text.math else None
    if indexed is None:
        return escaped(text.text)
    letter, index = (escaped(part) for part in indexed.groups())
    smaller = f'<tspan dy="{text.size * 0.25:.1f}" font-size="{text.size * 0.7:.1f}">{index}</tspan>'
    return f'<tspan font-style="italic">{letter}</tspan>{smaller}'
