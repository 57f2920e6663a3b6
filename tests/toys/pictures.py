"""What a figure really shows: extents of its texts and boxes, and whether any overlap."""

from __future__ import annotations

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def boxes(figure: Figure, kind: str) -> list[tuple[str, Bbox]]:
    """What is really painted: pixel extents of the artists of a kind."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    artists = [*figure.axes[0].texts, *figure.axes[0].patches]
    named = [(str(artist.get_gid()), artist) for artist in artists]
    return [(gid, artist.get_window_extent(renderer)) for gid, artist in named if gid.startswith(kind)]


def overlap(one: Bbox, other: Bbox) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


def check_nothing_overlaps(figure: Figure) -> None:
    labels, nodes, titles = boxes(figure, "label:"), boxes(figure, "node:"), boxes(figure, "title:")
    rows = boxes(figure, "row:")
    for (name, one), (other_name, other) in combinations([*labels, *nodes, *titles, *rows], 2):
        assert not overlap(one, other), f"{name} and {other_name}"
    page = figure.bbox
    for name, box in [*labels, *nodes, *titles, *rows]:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, name
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, name
