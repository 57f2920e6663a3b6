"""Scenes of cells: their nodes, the operations between them, and notes below."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from itertools import pairwise

from .cell_pictures import CellNode, CellPicture
from .drawing import Box, Edge, Layout, layered_layout, s_curve
from .painting import Scene, Shape, Text, shortened, text_width
from .painting.scene import Mark, box, curves, polygon

_LABEL, _NODE, _TITLE, _NOTE = 11.5, 13.5, 15.0, 10.5  # points
_TITLE_SPACE, _NOTE_SPACE = 0.50, 0.26  # inches
_LONGEST, _LONGEST_NOTE = 28, 64  # characters
_SIZES = {"input": (0.74, 0.46), "node": (0.46, 0.46), "operation": (0.46, 0.46), "output": (0.60, 0.46)}
_HEAD, _HALF = 0.12, 0.042  # length and half the width of an arrow head


def scene_of_cell(cell: CellPicture) -> Scene:
    """Return the scene of one cell."""
    layout = _layout(cell)
    title = shortened(cell.title, _LONGEST)
    notes = [part for note in cell.notes for part in textwrap.wrap(note, _LONGEST_NOTE)]
    texts = [text_width(title, _TITLE), *(text_width(note, _NOTE) for note in notes)]
    width = max(layout.width, *texts)
    height = _TITLE_SPACE + layout.height + _NOTE_SPACE * len(notes) + 0.1 * bool(notes)
    x = (width - layout.width) / 2
    marks: list[Mark] = [Text(width / 2, 0.15, title, _TITLE, name=f"title:{cell.title}")]
    marks += _routes(cell, layout, x, _TITLE_SPACE)
    for index, (node, place) in enumerate(zip(cell.nodes, layout.nodes, strict=True)):
        marks += _node(node, _moved(place, x, _TITLE_SPACE), f"node:{index}")
    for at, note in enumerate(notes):
        y = _TITLE_SPACE + layout.height + 0.1 + _NOTE_SPACE * (at + 0.5)
        marks.append(Text(width / 2, y, note, _NOTE, "line", name="note"))
    return Scene(width, height, tuple(marks), cell.title)


def _layout(cell: CellPicture) -> Layout:
    height = _LABEL * 1.45 / 72
    edges = [
        Edge(e.source, e.target, (text_width(shortened(e.label, _LONGEST), _LABEL) + 0.12, height))
        if e.label
        else Edge(e.source, e.target)
        for e in cell.edges
    ]
    sizes = [_size(node) for node in cell.nodes]
    return layered_layout(sizes, edges, sinks=(len(sizes) - 1,))


def _size(node: CellNode) -> tuple[float, float]:
    """Return width and height of a node; a box is as wide as the operation in it."""
    width, height = _SIZES[node.kind]
    if node.kind == "operation":
        width = text_width(shortened(node.text, _LONGEST), _LABEL) + 0.24
    return width, height


def _moved(place: Box, x: float, y: float) -> Box:
    return replace(place, x=place.x + x, y=place.y + y)


def _routes(cell: CellPicture, layout: Layout, x: float, y: float) -> list[Mark]:
    strongest = max((edge.weight for edge in cell.edges if edge.weight is not None), default=1.0)
    marks: list[Mark] = []
    for edge, route in zip(cell.edges, layout.routes, strict=True):
        share = None if edge.weight is None else edge.weight / strongest
        width = 1.1 if share is None else 0.4 + 3.2 * share
        marks += arrow([(x + px, y + py) for px, py in route], width, f"edge:{edge.source}->{edge.target}")
    for edge, place in zip(cell.edges, layout.labels, strict=True):
        if place is not None:
            at = _moved(place, x, y)
            paper = box(at.x - at.width / 2, at.y - at.height / 2, at.width, at.height)
            marks.append(Shape(paper, "paper", name="under"))
            name = f"label:{edge.source}->{edge.target}"
            marks.append(Text(at.x, at.y, shortened(edge.label, _LONGEST), _LABEL, name=name, tip=edge.label))
    return marks


def arrow(points: list[tuple[float, float]], width: float, name: str) -> list[Mark]:
    """Return an arrow along S-curves through points."""
    (tip_x, tip_y), way = points[-1], [*points[:-1], (points[-1][0] - _HEAD * 0.8, points[-1][1])]
    through = [way[0]]
    for start, end in pairwise(way):
        through += [*s_curve(start, end), end]
    corners = [(tip_x, tip_y), (tip_x - _HEAD, tip_y - _HALF), (tip_x - _HEAD, tip_y + _HALF)]
    return [
        Shape(curves(through), stroke="line", width=width, name=name),
        Shape(polygon(corners), "line", name="head"),
    ]


def _node(node: CellNode, place: Box, name: str) -> list[Mark]:
    outline = box(place.x - place.width / 2, place.y - place.height / 2, place.width, place.height, 0.07)
    shape = Shape(outline, node.kind, f"{node.kind}-edge", 1.2, name=name)
    if node.kind == "operation":
        text = shortened(node.text, _LONGEST)
        return [shape, Text(place.x, place.y, text, _LABEL, name=f"name:{node.text}", tip=node.text)]
    return [shape, Text(place.x, place.y, node.text, _NODE, math=True, name=f"name:{node.text}")]
