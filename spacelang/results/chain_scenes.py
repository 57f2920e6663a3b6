"""Scenes of chains: a row of blocks for each stage, or a column of blocks where outputs skip some."""

from __future__ import annotations

import textwrap

from .chain_pictures import Chain, ChainBlock, ChainStage
from .painting import Scene, Shape, Text, shortened, text_width
from .painting.scene import Mark, Point, box, curves, line, moved, polygon

_TITLE, _TEXT = 10.5, 9.5  # points
_LINE, _GAP, _ARROW = 0.19, 0.2, 0.24  # inches
_WIDEST = 11.0  # inches of blocks side by side; further ones stand below
_LONGEST = 40  # characters
_MOST_HEIGHT = 0.5  # inches that the widest layers add to a block


def scene_of_chain(chain: Chain) -> Scene:
    """Return the scene of a chain; a block is the taller the wider its output."""
    widest = max((b.width or 0 for stage in chain.stages for b in stage.blocks), default=0)
    rooms = [text_width(shortened(stage.title, _LONGEST), _TITLE) for stage in chain.stages]
    left = max(rooms) + 0.25
    marks: list[Mark] = []
    width = y = 0.0
    for stage in chain.stages:
        skips = any(block.skips for block in stage.blocks)
        drawn = _column(stage, widest) if skips else _rows(stage, widest)
        title = shortened(stage.title, _LONGEST)
        middle = y + min(drawn.height, 0.6) / 2
        marks.append(Text(left - 0.2, middle, title, _TITLE, anchor="end", name=f"title:{stage.title}"))
        marks += moved(drawn.marks, left, y)
        width, y = max(width, left + drawn.width), y + drawn.height + _GAP
    return Scene(width, y - _GAP, tuple(marks), "the network as a chain of blocks")


def _texts(block: ChainBlock) -> list[str]:
    """Return the lines of a block: its choices, then its sizes."""
    width = f"width {block.width}"
    sizes = [f"{block.kernel}×{block.kernel}"] * bool(block.kernel)
    sizes += [width] * (bool(block.width) and width not in block.lines)
    return [*_told(block), *([" · ".join(sizes)] if sizes else []), *filter(None, [block.times])] or [" "]


def _told(block: ChainBlock) -> list[str]:
    """Return the choices of a block in lines that are not too long."""
    return [shortened(part, _LONGEST) for text in block.lines for part in textwrap.wrap(text, _LONGEST)]


def _size(block: ChainBlock, widest: int) -> tuple[float, float]:
    texts = _texts(block)
    share = (block.width or 0) / widest if widest else 0.0
    wide = max(text_width(text, _TEXT) for text in texts) + 0.24
    return max(wide, 0.5), _LINE * len(texts) + 0.14 + _MOST_HEIGHT * share


def _box(block: ChainBlock, x: float, y: float, size: tuple[float, float], name: str) -> list[Mark]:
    width, height = size
    texts = _texts(block)
    marks: list[Mark] = [Shape(box(x, y, width, height, 0.06), "node", "node-edge", 1.1, name=f"node:{name}")]
    top = y + height / 2 - _LINE * (len(texts) - 1) / 2
    told = len(_told(block))
    for at, text in enumerate(texts):
        colour = "ink" if at < told else "line"
        marks.append(Text(x + width / 2, top + at * _LINE, text, _TEXT, colour, name=f"in:{name}"))
    return marks


def _rows(stage: ChainStage, widest: int) -> Scene:
    """Return blocks from left to right, in as many rows as they need."""
    lines: list[list[tuple[ChainBlock, tuple[float, float]]]] = [[]]
    used = 0.0
    for block in stage.blocks:
        size = _size(block, widest)
        if lines[-1] and used + size[0] > _WIDEST:
            lines.append([])
            used = 0.0
        lines[-1].append((block, size))
        used += size[0] + _ARROW
    marks: list[Mark] = []
    width = y = 0.0
    for row in lines:
        high = max(height for _, (_, height) in row)
        x = 0.0
        for at, (block, size) in enumerate(row):
            if at:
                marks += _arrow((x - _ARROW, y + high / 2), (x, y + high / 2))
            marks += _box(block, x, y + (high - size[1]) / 2, size, block.path)
            x += size[0] + _ARROW
        width, y = max(width, x - _ARROW), y + high + _GAP
    return Scene(width, y - _GAP, tuple(marks))


def _column(stage: ChainStage, widest: int) -> Scene:
    """Return blocks from top to bottom, with the outputs that skip some on the right."""
    sizes = [_size(block, widest) for block in stage.blocks]
    width = max(size[0] for size in sizes)
    marks: list[Mark] = []
    middles: list[float] = []
    y = reach = 0.0
    for at, (block, size) in enumerate(zip(stage.blocks, sizes, strict=True)):
        if at:
            marks += _arrow((width / 2, y - _GAP), (width / 2, y))
        marks += _box(block, 0.0, y, (width, size[1]), block.path)
        middles.append(y + size[1] / 2)
        y += size[1] + _GAP
    for at, block in enumerate(stage.blocks):
        for source in block.skips:
            bend = 0.25 + 0.16 * (at - source)
            start, end = (width, middles[source] + 0.05), (width, middles[at] - 0.05)
            path = curves([start, (width + bend, start[1]), (width + bend, end[1]), end])
            marks.append(Shape(path, stroke="line", width=0.9, opacity=0.8, name=f"edge:{source}->{at}"))
            marks.append(Shape(_head(end, -1.0, 0.0), "line", name="head"))
            reach = max(reach, 0.75 * bend)
    return Scene(width + reach + 0.1, y - _GAP, tuple(marks))


def _arrow(start: Point, end: Point) -> list[Mark]:
    across = end[0] > start[0]
    return [
        Shape(line([start, end]), stroke="line", width=1.1, name="edge"),
        Shape(_head(end, float(across), float(not across)), "line", name="head"),
    ]


def _head(
    tip: tuple[float, float], x: float, y: float
) -> tuple[tuple[str, tuple[tuple[float, float], ...]], ...]:
    """Return an arrow head at `tip` that points along (x, y)."""
    long, half = 0.09, 0.035
    back = tip[0] - long * x, tip[1] - long * y
    return polygon([tip, (back[0] - half * y, back[1] - half * x), (back[0] + half * y, back[1] + half * x)])
