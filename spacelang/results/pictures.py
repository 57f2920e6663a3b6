"""Pictures of architectures and spaces in the manner of the DARTS paper, with matplotlib alone."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch

from ..arguments import known_arguments
from ..errors import SpaceError, require_one_of
from ..files.storage import target_path, write_atomic
from ..language import Space, architecture_of
from ..randomness import global_generators_kept, torch_generators_kept
from ..supernet import Supernet
from .cell_pictures import (
    CellNode,
    CellPicture,
    MergeOp,
    Picture,
    picture_of_architecture,
    picture_of_labels,
    picture_of_space,
    picture_of_supernet,
)
from .drawing import Box, Edge, Layout, layered_layout, s_curve

# matplotlib is imported late, everywhere in this file: it takes a second that only pictures need.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_FONT = "DejaVu Sans"  # ships with matplotlib, so pictures are the same everywhere
_LABEL_SIZE, _NODE_SIZE, _TITLE_SIZE, _TABLE_SIZE = 11.5, 13.5, 15.0, 10.5  # points
_MARGIN, _CELL_GAP, _TITLE_SPACE, _NOTE_SPACE, _ROW = 0.22, 0.65, 0.50, 0.38, 0.28  # inches
_ROWS_PER_BLOCK = 16
_LONGEST_LABEL, _LONGEST_TEXT = 28, 44  # characters
_UNDATED: dict[str, dict[str, None]] = {  # what would make two files of one picture differ
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_INK, _LINE, _FAINT = "#1a1a1a", "#5c6670", "#dfe3e6"


@dataclass(frozen=True, slots=True)
class _Style:
    """Fill, outline and size (inches) of a kind of node; the colours are those of the DARTS figures."""

    fill: str
    outline: str
    width: float
    height: float


_STYLES = {
    "input": _Style("#b4eeb4", "#4f8f4f", 0.74, 0.46),
    "node": _Style("#add8e6", "#4a86a0", 0.46, 0.46),
    "operation": _Style("#add8e6", "#4a86a0", 0.46, 0.46),
    "output": _Style("#eee8aa", "#a89b3c", 0.60, 0.46),
}


Drawable: TypeAlias = Mapping[str, Any] | Space | type[Space] | Supernet
"""An architecture dict, a space or its class, a network that knows its architecture, or a supernet."""


@overload
def draw(
    subject: Drawable,
    path: None = None,
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
) -> Figure: ...


@overload
def draw(
    subject: Drawable,
    path: str | os.PathLike[str],
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
) -> Path: ...


@known_arguments
def draw(
    subject: Drawable,
    path: str | os.PathLike[str] | None = None,
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
) -> Path | Figure:
    """Draw cells side by side, and the other decisions as a table.

    Inputs are green, intermediate nodes blue, the output yellow; operations stand on the edges, or in blue
    boxes where a node is an operation, as in NAS-Bench-101. The same input gives the same bytes.

    Args:
        subject: Subject of the picture. Of an architecture dict or a frozen `ModelSpace` the operations are
            shown, of a space (or its class) how many candidates each edge has, and of a `Supernet` the
            strongest candidate of each edge; there the width of a line is the candidate's weight, and
            pruned edges are absent.
        path: File ending in .svg, .png or .pdf; without it the figure is returned.
        space: Space of an architecture dict, or its class; its graph says what is a cell. Without it, cells
            made by `Cell` are recognised by their labels `{cell}/op_{i}_{k}` and `{cell}/input_{i}_{k}`.
        merge_op: Intermediate nodes that lead to the output of a cell recognised by labels: "all", or with
            "loose_end" those nobody reads. A space knows it.

    Raises:
        SpaceError: a cell whose keys contradict each other, an architecture that is not of the space,
            another file ending, or a missing folder.

    Source: the figures of DARTS, arXiv:1806.09055.
    """
    target = None if path is None else target_path(path, tuple(_UNDATED))
    require_one_of("merge_op", merge_op, ("all", "loose_end"))
    picture = _picture(subject, space, merge_op)
    if not picture.cells and not picture.rows:
        raise SpaceError("there is nothing to draw: no decisions.")
    with _own_style():
        figure = _figure(picture)
        if target is None:
            return figure
        data = _rendered(figure, target.suffix.lower()[1:])
    write_atomic(target, data)
    return target


def _picture(subject: object, space: Space | type[Space] | None, merge_op: MergeOp) -> Picture:
    """Read what is to be drawn."""
    if isinstance(subject, Mapping):
        if space is None:
            return picture_of_labels(subject, merge_op)
        return picture_of_architecture(subject, _space(space))
    if isinstance(subject, Supernet):
        return picture_of_supernet(subject)
    if isinstance(subject, Space) and not subject.decisions:
        arch = architecture_of(subject)
        if arch is None:
            raise SpaceError("there is nothing to draw: no decisions.")
        return picture_of_architecture(arch, _declared(subject.rebuild))
    if isinstance(subject, Space) or (isinstance(subject, type) and issubclass(subject, Space)):
        return picture_of_space(_space(subject))
    raise SpaceError(
        f"draw got a {type(subject).__name__}; expected an architecture dict, a ModelSpace or its class, or "
        "a Supernet."
    )


def _space(space: Space | type[Space]) -> Space:
    if isinstance(space, Space):
        return space
    if isinstance(space, type) and issubclass(space, Space):
        return _declared(space)
    raise SpaceError(f"space={space!r:.60} must be a ModelSpace or its class.")


def _declared(make: Callable[[], Space]) -> Space:
    """Build a space of which only the graph is needed: without memory for weights, where that works."""
    try:
        with torch_generators_kept(), torch.device("meta"):
            return make()
    except Exception:  # any user code runs here; the second try says what is wrong
        with global_generators_kept():
            return make()


@contextmanager
def _own_style() -> Iterator[None]:
    """Shield the picture from the user's matplotlib settings, and them from ours."""
    import matplotlib.style

    settings = {
        "font.family": _FONT,
        "mathtext.fontset": "dejavusans",
        "svg.hashsalt": "spacelang",
        "svg.fonttype": "path",
        "path.simplify": False,
    }
    with matplotlib.style.context(["default", settings]):
        yield


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata=_UNDATED[f".{kind}"])
    return buffer.getvalue()


# -- composing the page ------------------------------------------------------------------------------


def _figure(picture: Picture) -> Figure:
    """Put cells in rows of two and the table below, on a canvas that just fits."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = [(cell, _layout(cell)) for cell in picture.cells]
    rows = [cells[at : at + 2] for at in range(0, len(cells), 2)]
    blocks = _blocks(picture)
    widths = [sum(layout.width for _, layout in row) + _CELL_GAP * (len(row) - 1) for row in rows]
    heights = [_row_height(row) for row in rows]
    table_width, table_height = _table_size(blocks)
    width = max([*widths, table_width]) + 2 * _MARGIN
    height = (
        sum(heights) + _CELL_GAP * max(0, len(rows) - 1 + bool(blocks and rows)) + table_height + 2 * _MARGIN
    )

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches, y downwards

    y = _MARGIN
    for row, row_width, row_height in zip(rows, widths, heights, strict=True):
        x = (width - row_width) / 2
        for cell, layout in row:
            _draw_cell(axes, cell, layout, x, y, row_height)
            x += layout.width + _CELL_GAP
        y += row_height + _CELL_GAP
    if blocks:
        _draw_table(axes, blocks, picture.headings, (width - table_width) / 2, y)
    return figure


def _row_height(row: list[tuple[CellPicture, Layout]]) -> float:
    note = _NOTE_SPACE if any(cell.note for cell, _ in row) else 0.0
    return _TITLE_SPACE + max(layout.height for _, layout in row) + note


def _style(node: CellNode) -> _Style:
    """Return colours and size of a node; a box is as wide as the operation in it."""
    style = _STYLES[node.kind]
    if node.kind != "operation":
        return style
    return replace(style, width=_text_width(_short(node.text), _LABEL_SIZE) + 0.24)


def _layout(cell: CellPicture) -> Layout:
    height = _LABEL_SIZE * 1.45 / 72
    edges = [
        Edge(edge.source, edge.target, (_text_width(_short(edge.label), _LABEL_SIZE) + 0.12, height))
        if edge.label
        else Edge(edge.source, edge.target)
        for edge in cell.edges
    ]
    styles = [_style(node) for node in cell.nodes]
    return layered_layout([(s.width, s.height) for s in styles], edges, sinks=(len(styles) - 1,))


def _short(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Return `text` on one line, the middle left out if it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "''"
    if len(line) <= longest:
        return line
    half = (longest - 1) // 2
    return f"{line[:half]}…{line[-half:]}"


def _text_width(text: str, size: float) -> float:
    """Width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    properties = FontProperties(family=_FONT, size=size)
    return float(TextToPath().get_text_width_height_descent(text, properties, ismath=False)[0]) / 72


# -- drawing ---------------------------------------------------------------------------------------


def _draw_cell(axes: Axes, cell: CellPicture, layout: Layout, x: float, y: float, row_height: float) -> None:
    """Draw one cell with its left edge at x, centred in a row of height `row_height` that starts at y."""
    centre = x + layout.width / 2
    _write(axes, centre, y + 0.15, _short(cell.title), _TITLE_SIZE, f"title:{cell.title}")
    below = _NOTE_SPACE if cell.note else 0.0
    top = y + _TITLE_SPACE + (row_height - _TITLE_SPACE - below - layout.height) / 2
    strongest = max((edge.weight for edge in cell.edges if edge.weight is not None), default=1.0)
    for edge, route in zip(cell.edges, layout.routes, strict=True):
        share = None if edge.weight is None else edge.weight / strongest
        _draw_route(axes, [(x + px, top + py) for px, py in route], share)
    for edge, box in zip(cell.edges, layout.labels, strict=True):
        if box is not None:
            _draw_label(axes, _short(edge.label), _moved(box, x, top), f"label:{edge.source}->{edge.target}")
    for index, (node, box) in enumerate(zip(cell.nodes, layout.nodes, strict=True)):
        _draw_node(axes, node, _moved(box, x, top), f"node:{index}")
    if cell.note:
        _write(axes, centre, y + row_height - 0.12, cell.note, _TABLE_SIZE, "note", color=_LINE)


def _moved(box: Box, x: float, y: float) -> Box:
    return Box(box.x + x, box.y + y, box.width, box.height)


def _draw_node(axes: Axes, node: CellNode, box: Box, gid: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = _STYLES[node.kind]
    patch = FancyBboxPatch(
        (box.x - box.width / 2, box.y - box.height / 2),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.07",
        facecolor=style.fill,
        edgecolor=style.outline,
        linewidth=1.2,
        zorder=4,
        gid=gid,
    )
    axes.add_patch(patch)
    if node.kind == "operation":
        _write(axes, box.x, box.y, _short(node.text), _LABEL_SIZE, f"name:{node.text}")
    else:
        _write(axes, box.x, box.y, node.text, _NODE_SIZE, f"name:{node.text}", math=True)


def _draw_label(axes: Axes, text: str, box: Box, gid: str) -> None:
    from matplotlib.patches import Rectangle

    corner = (box.x - box.width / 2, box.y - box.height / 2)
    axes.add_patch(Rectangle(corner, box.width, box.height, facecolor="white", edgecolor="none", zorder=2))
    _write(axes, box.x, box.y, text, _LABEL_SIZE, gid)


def _draw_route(axes: Axes, points: list[tuple[float, float]], share: float | None) -> None:
    """Draw an edge through its way points, with an arrow head at the end; wider the larger its share."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    head, half = 0.12, 0.042
    (tip_x, tip_y), line = points[-1], [*points[:-1], (points[-1][0] - head * 0.8, points[-1][1])]
    vertices, codes = [line[0]], [Curve.MOVETO]
    for start, end in pairwise(line):
        vertices += [*s_curve(start, end), end]
        codes += [Curve.CURVE4] * 3
    width = 1.1 if share is None else 0.4 + 3.2 * share
    axes.add_patch(PathPatch(Curve(vertices, codes), fill=False, edgecolor=_LINE, linewidth=width, zorder=1))
    corners = [(tip_x, tip_y), (tip_x - head, tip_y - half), (tip_x - head, tip_y + half)]
    axes.add_patch(Polygon(corners, closed=True, facecolor=_LINE, edgecolor="none", zorder=3))


def _write(
    axes: Axes, x: float, y: float, text: str, size: float, gid: str, *, math: bool = False, **style: Any
) -> None:
    options: dict[str, Any] = {"ha": "center", "va": "center", "color": _INK, "zorder": 5} | style
    axes.text(x, y, text, fontsize=size, fontfamily=_FONT, parse_math=math, gid=gid, **options)


# -- the table of other decisions ----------------------------------------------------------------


def _blocks(picture: Picture) -> list[list[tuple[str, str]]]:
    """Cut the rows into blocks of like size that stand side by side."""
    rows = [(_short(label, _LONGEST_TEXT), _short(value, _LONGEST_TEXT)) for label, value in picture.rows]
    if not rows:
        return []
    size = math.ceil(len(rows) / math.ceil(len(rows) / _ROWS_PER_BLOCK))
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _block_widths(block: list[tuple[str, str]]) -> tuple[float, float]:
    widths = [
        max(_text_width(text, _TABLE_SIZE) for text in (*column, "decision"))
        for column in zip(*block, strict=True)
    ]
    return widths[0] + 0.35, widths[1] + 0.2


def _table_size(blocks: list[list[tuple[str, str]]]) -> tuple[float, float]:
    if not blocks:
        return 0.0, 0.0
    width = sum(sum(_block_widths(block)) for block in blocks) + 0.5 * (len(blocks) - 1)
    return width, _ROW * (len(blocks[0]) + 1)


def _draw_table(
    axes: Axes, blocks: list[list[tuple[str, str]]], headings: tuple[str, str], x: float, y: float
) -> None:
    """Draw label and value in two columns per block, with a rule under each row."""
    for block in blocks:
        first, second = _block_widths(block)
        for at, row in enumerate([headings, *block]):
            level = y + _ROW * (at + 0.5)
            color = _LINE if at == 0 else _INK
            for offset, text in zip((0.1, first), row, strict=True):
                gid = f"row:{at}:{'label' if offset < first else 'value'}"
                _write(axes, x + offset, level, text, _TABLE_SIZE, gid, ha="left", color=color)
            rule = _LINE if at == 0 else _FAINT
            axes.plot([x, x + first + second], [level + _ROW / 2] * 2, color=rule, linewidth=0.8, zorder=1)
        x += first + second + 0.5
