"""Colours by name, for light and for dark paper."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS: dict[str, tuple[str, str]] = {  # name: (on light paper, on dark paper)
    "ink": ("#1a1a1a", "#e6e8ea"),
    "line": ("#5c6670", "#9aa5b1"),
    "faint": ("#dfe3e6", "#39414a"),
    "paper": ("#ffffff", "#15181c"),
    # The kinds of nodes have the colours of the DARTS figures.
    "input": ("#b4eeb4", "#1f5c2c"),
    "input-edge": ("#4f8f4f", "#6fbf73"),
    "node": ("#add8e6", "#1d4a5c"),
    "node-edge": ("#4a86a0", "#6db3cf"),
    "operation": ("#add8e6", "#1d4a5c"),
    "operation-edge": ("#4a86a0", "#6db3cf"),
    "output": ("#eee8aa", "#575021"),
    "output-edge": ("#a89b3c", "#cfc25f"),
    # Series: Okabe and Ito's colours, which the colour-blind tell apart, lighter on dark paper.
    "series-0": ("#0072b2", "#4aa8e0"),
    "series-1": ("#d55e00", "#ff8a3d"),
    "series-2": ("#009e73", "#2fcf9f"),
    "series-3": ("#aa4a8c", "#e08cc6"),
    "series-4": ("#b07a00", "#e6b23a"),
    "series-5": ("#3d8fc4", "#8cc8ee"),
    "series-6": ("#7a5195", "#b796d6"),
    "series-7": ("#6b7280", "#aab2bd"),
}
SERIES = tuple(name for name in COLOURS if name.startswith("series-"))


def series(index: int) -> str:
    """Return the colour of a series; after the last comes the first again."""
    return SERIES[index % len(SERIES)]


def stylesheet(names: Iterable[str] = COLOURS) -> str:
    """Return the CSS of pictures: the class `f-NAME` fills, `s-NAME` strokes.

    Colours are written out, not as variables, which many programs that show SVG do not know.

    Args:
        names: Colours that are used.
    """
    used = [name for name in COLOURS if name in set(names)]
    light, dark = ("".join(_rules(name, COLOURS[name][mode]) for name in used) for mode in (0, 1))
    halo = ".halo{{paint-order:stroke;stroke:{};stroke-width:3px}}"
    light += halo.format(COLOURS["paper"][0]) + ".hover:hover{stroke-width:3;opacity:1}"
    dark += halo.format(COLOURS["paper"][1])
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _rules(name: str, colour: str) -> str:
    return f".f-{name}{{fill:{colour}}}.s-{name}{{stroke:{colour}}}"
