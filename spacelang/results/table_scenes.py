"""Scenes of tables: label and value of decisions, in blocks that fill a page."""

from __future__ import annotations

from collections.abc import Sequence

from .cell_pictures import Row
from .painting import Scene, Shape, Text, shortened, text_width
from .painting.scene import Mark, line, moved

_SIZE, _ROW = 10.5, 0.28  # points, inches
_LONGEST = 44  # characters
_ROWS, _GAP = 16, 0.5
_WIDEST = 13.0  # inches of blocks side by side; further ones stand below


def scene_of_table(rows: Sequence[Row], headings: Row) -> Scene:
    """Return a table of rows under two headings, in blocks of at most 16 rows."""
    texts = [(shortened(label, _LONGEST), shortened(value, _LONGEST)) for label, value in rows]
    size = _block_size(texts)
    blocks = [_block(texts[at : at + size], headings) for at in range(0, len(texts), size)]
    lines: list[list[Scene]] = [[]]
    for block in blocks:
        used = sum(other.width + _GAP for other in lines[-1])
        if lines[-1] and used + block.width > _WIDEST:
            lines.append([])
        lines[-1].append(block)
    marks: list[Mark] = []
    width = max(sum(block.width for block in row) + _GAP * (len(row) - 1) for row in lines)
    y = 0.0
    for row in lines:
        x = 0.0
        for block in row:
            marks += moved(block.marks, x, y)
            x += block.width + _GAP
        y += max(block.height for block in row) + _ROW
    return Scene(width, y - _ROW, tuple(marks))


def _block_size(rows: Sequence[Row]) -> int:
    """Return how many rows a block has, so that all blocks are of like size."""
    blocks = -(-len(rows) // _ROWS)
    return -(-len(rows) // blocks)


def _block(rows: Sequence[Row], headings: Row) -> Scene:
    """Return one block: label and value in two columns, with a rule under each row."""
    first, second = (
        max(text_width(text, _SIZE) for text in column) for column in zip(headings, *rows, strict=True)
    )
    place = 0.1, first + 0.35
    width = first + second + 0.55
    marks: list[Mark] = []
    for at, row in enumerate([headings, *rows]):
        y = _ROW * (at + 0.5)
        for x, text, column in zip(place, row, ("label", "value"), strict=True):
            colour = "ink" if at else "line"
            marks.append(Text(x, y, text, _SIZE, colour, "start", name=f"row:{at}:{column}"))
        rule = "faint" if at else "line"
        marks.append(Shape(line([(0, y + _ROW / 2), (width, y + _ROW / 2)]), stroke=rule, width=0.8))
    return Scene(width, _ROW * (len(rows) + 1) + 0.02, tuple(marks))
