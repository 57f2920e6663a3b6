"""Pictures of architectures and spaces, cells in the manner of the DARTS paper."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import torch

from ..arguments import known_arguments
from ..errors import SpaceError, require_one_of
from ..files.storage import target_path, write_atomic
from ..language import Space, architecture_of
from ..randomness import global_generators_kept, torch_generators_kept
from ..supernet import Supernet
from .cell_pictures import (
    MergeOp,
    Picture,
    picture_of_architecture,
    picture_of_labels,
    picture_of_space,
    picture_of_supernet,
)
from .cell_scenes import scene_of_cell
from .chain_scenes import scene_of_chain
from .painting import Scene, painted, svg_of
from .painting.scene import beside, moved, stacked
from .painting.text_widths import FONT
from .table_scenes import scene_of_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MARGIN, _CELL_GAP = 0.22, 0.65  # inches
_KINDS: dict[str, dict[str, None]] = {  # what would make two files of one picture differ
    ".svg": {},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

Drawable: TypeAlias = Mapping[str, Any] | Space | type[Space] | Supernet
"""An architecture dict, a space or its class, a network that knows its architecture, or a supernet."""


CellLayout: TypeAlias = Literal["side by side", "stacked"]
"""Whether cells stand in rows of two, or one below the other."""


@dataclass(frozen=True)
class Drawing:
    """A picture: shown by notebooks, and saved as a file.

    Attributes:
        scene: Shapes and texts of the picture.
    """

    scene: Scene = field(repr=False)

    @property
    def svg(self) -> str:
        """The picture as an SVG document; its text is text, and it has colours for dark mode."""
        return svg_of(self.scene)

    def _repr_svg_(self) -> str:
        return self.svg

    def figure(self) -> Figure:
        """Return the picture as a matplotlib figure."""
        with _own_style():
            return painted(self.scene)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file ending in .svg, .png or .pdf; return its path. The same input gives the same bytes.

        Raises:
            SpaceError: Another file ending, or a missing folder.
        """
        target = target_path(path, tuple(_KINDS))
        kind = target.suffix.lower()
        write_atomic(target, self.svg.encode() if kind == ".svg" else self._rendered(kind))
        return target

    def _rendered(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        with _own_style():
            painted(self.scene).savefig(buffer, format=kind[1:], dpi=200, metadata=_KINDS[kind])
        return buffer.getvalue()


@overload
def draw(
    subject: Drawable,
    path: None = None,
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
    layout: CellLayout = "side by side",
) -> Drawing: ...


@overload
def draw(
    subject: Drawable,
    path: str | os.PathLike[str],
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
    layout: CellLayout = "side by side",
) -> Path: ...


@known_arguments
def draw(
    subject: Drawable,
    path: str | os.PathLike[str] | None = None,
    *,
    space: Space | type[Space] | None = None,
    merge_op: MergeOp = "all",
    layout: CellLayout = "side by side",
) -> Path | Drawing:
    """Draw cells, or the chain of blocks that a network without cells is, and other decisions as a table.

    In a cell inputs are green, intermediate nodes blue, the output yellow; operations stand on the edges, or
    in blue boxes where a node is an operation, as in NAS-Bench-101. A chain has a row of blocks for each
    stage, and a block is the taller the wider its output.

    Args:
        subject: Subject of the picture. Of an architecture dict or a frozen `ModelSpace` the operations are
            shown, of a space (or its class) the candidates, and of a `Supernet` the strongest candidate of
            each edge; there the width of a line is the candidate's weight, and pruned edges are absent.
        path: File ending in .svg, .png or .pdf; without it a `Drawing` is returned, which notebooks show.
        space: Space of an architecture dict, or its class; its graph says what is a cell or a chain. Without
            it, cells made by `Cell` are recognised by their labels `{cell}/op_{i}_{k}` and
            `{cell}/input_{i}_{k}`.
        merge_op: Intermediate nodes that lead to the output of a cell recognised by labels: "all", or with
            "loose_end" those nobody reads. A space knows it.
        layout: "side by side" for cells in rows of two, "stacked" for one below the other.

    Raises:
        SpaceError: a cell whose keys contradict each other, an architecture that is not of the space,
            another file ending, or a missing folder.

    Source: the figures of DARTS, arXiv:1806.09055.
    """
    require_one_of("merge_op", merge_op, ("all", "loose_end"))
    require_one_of("layout", layout, ("side by side", "stacked"))
    if path is not None:
        target_path(path, tuple(_KINDS))  # refuses it before any work
    picture = _picture(subject, space, merge_op)
    if not picture.cells and not picture.rows and picture.chain is None:
        raise SpaceError("there is nothing to draw: no decisions.")
    drawing = Drawing(_page(picture, 2 if layout == "side by side" else 1))
    return drawing if path is None else drawing.save(path)


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
    import matplotlib.style  # late: it takes a second that only PNG and PDF need

    settings = {"font.family": FONT, "mathtext.fontset": "dejavusans", "path.simplify": False}
    with matplotlib.style.context(["default", settings]):
        yield


def _page(picture: Picture, columns: int) -> Scene:
    """Put cells in rows, and below them the chain and the table, on a page that just fits."""
    cells = [scene_of_cell(cell) for cell in picture.cells]
    rows = [beside(cells[at : at + columns], _CELL_GAP) for at in range(0, len(cells), columns)]
    if picture.chain is not None:
        rows.append(scene_of_chain(picture.chain))
    if picture.rows:
        rows.append(scene_of_table(picture.rows, picture.headings))
    page = stacked(rows, _CELL_GAP)
    titles = [cell.title for cell in picture.cells] or ["a network" if picture.chain else "decisions"]
    marks = tuple(moved(page.marks, _MARGIN, _MARGIN))
    return Scene(page.width + 2 * _MARGIN, page.height + 2 * _MARGIN, marks, ", ".join(titles))
