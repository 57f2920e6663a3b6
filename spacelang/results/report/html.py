"""Pieces of HTML; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..painting import Scene, escaped, number_text, svg_of, value_text


class Html(str):
    """A text that is HTML already."""


def element(tag: str, *content: object, **attributes: str) -> Html:
    """Return an element; texts in it are escaped, an attribute `class_` is `class`."""
    given = "".join(f' {name.rstrip("_")}="{escaped(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{given}>{''.join(map(text, content))}</{tag}>")


def text(content: object) -> str:
    """Return HTML as it is, and anything else escaped."""
    return content if isinstance(content, Html) else escaped(content)


def joined(parts: Iterable[Html]) -> Html:
    """Return pieces one after the other."""
    return Html("\n".join(parts))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table; numbers stand to the right."""
    head = element("tr", *(element("th", heading) for heading in headings))
    body = [element("tr", *map(_cell, row)) for row in rows]
    return element("div", element("table", head, *body), class_="wide")


def _cell(value: object) -> Html:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return element("td", value)
    return element("td", f"{value:,}" if isinstance(value, int) else number_text(value), class_="number")


def picture(scene: Scene) -> Html:
    """Return a scene as inline SVG."""
    return element("figure", Html(svg_of(scene, alone=False)))


def details(summary: str, *content: object) -> Html:
    """Return content that is folded away."""
    return element("details", element("summary", summary), *content)


def settings(values: Mapping[str, Any], most: int = 160) -> str:
    """Return settings on a line: `a=1, b=2`."""
    shown = {k: value_text(value) if isinstance(value, float) else value for k, value in values.items()}
    words = ", ".join(f"{name}={value}" for name, value in shown.items())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(0.51), duration(75), duration(7300)
    ('0.51 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
