"""Pictures: nothing overlaps, everything is named, the same dict gives the same bytes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang import LayerChoice, ModelSpace, SpaceError, draw, value_choice
from spacelang.results import Drawing

from ..toys.pictures import boxes, check_nothing_overlaps

OPS = [
    "skip_connect",
    "sep_conv_3x3",
    "dil_conv_5x5",
    "max_pool_3x3",
    "none",
    "x",
    "conv_7x1_1x7_with_a_long_name_on_it",
]
DARTS_V2 = {
    "normal": [[("sep_conv_3x3", 0), ("sep_conv_3x3", 1)], [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)],
               [("sep_conv_3x3", 1), ("skip_connect", 0)], [("skip_connect", 0), ("dil_conv_3x3", 2)]],
    "reduce": [[("max_pool_3x3", 0), ("max_pool_3x3", 1)], [("skip_connect", 2), ("max_pool_3x3", 1)],
               [("max_pool_3x3", 0), ("skip_connect", 2)], [("skip_connect", 2), ("max_pool_3x3", 1)]],
}  # fmt: skip


def arch_of(cells: dict[str, list[list[tuple[Any, Any]]]], num_predecessors: int = 2) -> dict[str, Any]:
    arch: dict[str, Any] = {}
    for label, nodes in cells.items():
        for node, slots in enumerate(nodes, start=num_predecessors):
            for slot, (op, source) in enumerate(slots):
                arch[f"{label}/op_{node}_{slot}"] = op
                arch[f"{label}/input_{node}_{slot}"] = source
    return arch


@st.composite
def cell_nodes(draw_: st.DrawFn, num_predecessors: int = 2) -> list[list[tuple[str, int]]]:
    """A random cell: 2 inputs, 2 to 5 nodes of 1 to 3 operations."""
    return [
        [
            (draw_(st.sampled_from(OPS)), draw_(st.integers(0, node - 1)))
            for _ in range(draw_(st.integers(1, 3)))
        ]
        for node in range(num_predecessors, num_predecessors + draw_(st.integers(2, 5)))
    ]


@pytest.mark.slow
@given(st.lists(cell_nodes(), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_nothing_overlaps_in_random_cells(cells: list[list[list[tuple[str, int]]]]) -> None:
    arch = arch_of({f"cell{index}": nodes for index, nodes in enumerate(cells)})
    figure = draw(arch | {"stem": "conv3", "width": 16}).figure()
    check_nothing_overlaps(figure)
    operations = sum(len(slots) for nodes in cells for slots in nodes)
    assert len(boxes(figure, "label:")) == operations
    assert len(boxes(figure, "node:")) == sum(len(nodes) + 3 for nodes in cells)


@pytest.mark.slow
@given(cell_nodes())
@settings(max_examples=40, deadline=None)
def test_edges_keep_clear_of_boxes_and_foreign_labels(nodes: list[list[tuple[str, int]]]) -> None:
    """In inches, on the layout itself: a curve meets only the boxes at its ends and its own label."""
    from spacelang.results.cell_pictures import picture_of_labels
    from spacelang.results.cell_scenes import _layout
    from spacelang.results.drawing import s_curve

    (cell,) = picture_of_labels(arch_of({"normal": nodes}), "all").cells
    layout = _layout(cell)
    ends = [(edge.source, edge.target) for edge in cell.edges]
    for index, route in enumerate(layout.routes):
        foreign = [box for node, box in enumerate(layout.nodes) if node not in ends[index]]
        foreign += [box for at, box in enumerate(layout.labels) if box is not None and at != index]
        for start, end in pairwise(route):
            (x1, y1), (x2, y2) = s_curve(start, end)
            for step in range(51):
                t = step / 50
                a, b, c, d = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t * t, t**3
                x, y = (
                    a * start[0] + b * x1 + c * x2 + d * end[0],
                    a * start[1] + b * y1 + c * y2 + d * end[1],
                )
                for box in foreign:
                    assert abs(x - box.x) >= box.width / 2 or abs(y - box.y) >= box.height / 2


def test_darts_cells() -> None:
    figure = draw(arch_of(DARTS_V2)).figure()
    check_nothing_overlaps(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("sep_conv_3x3") == 5
    assert texts.count("max_pool_3x3") == 5
    assert [t for t in texts if t.endswith("cell")] == ["Normal cell", "Reduction cell"]
    for name in ("$c_{k-2}$", "$c_{k-1}$", "0", "1", "2", "3", "$c_{k}$"):
        assert texts.count(name) == 2, name
    titles = dict(boxes(figure, "title:"))
    assert titles["title:Normal cell"].x1 < titles["title:Reduction cell"].x0  # side by side
    assert titles["title:Normal cell"].y0 == titles["title:Reduction cell"].y0
    edges = [patch for patch in figure.axes[0].patches if patch.get_gid().startswith("edge:")]
    assert len(edges) == 2 * (8 + 4)  # operations, and every node to the output
    colours = {patch.get_gid(): mpl.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches}
    assert [colours[f"node:{node}"] for node in (0, 1, 2, 5, 6)] == [
        "#b4eeb4", "#b4eeb4", "#add8e6", "#add8e6", "#eee8aa",
    ]  # fmt: skip


@pytest.mark.slow
def test_inputs_stand_left_and_the_output_right() -> None:
    figure = draw(arch_of({"normal": DARTS_V2["normal"]})).figure()
    placed = dict(boxes(figure, "node:"))
    assert max(placed["node:0"].x1, placed["node:1"].x1) < min(placed[f"node:{n}"].x0 for n in (2, 3, 4, 5))
    assert placed["node:6"].x0 > max(placed[f"node:{n}"].x1 for n in (2, 3, 4, 5))
    assert placed["node:0"].y0 > placed["node:1"].y1  # c_{k-2} on top, pixels upwards


def test_loose_ends_and_one_element_lists() -> None:
    nodes = [[("a", [0])], [("b", (2,))], [("c", 1)]]
    arch = arch_of({"cell": nodes})

    def edges(drawing: Drawing) -> int:
        return sum(mark.name.startswith("edge:") for mark in drawing.scene.marks)

    assert edges(draw(arch)) == 3 + 3
    assert edges(draw(arch, merge_op="loose_end")) == 3 + 2  # node 2 is read by node 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_files_are_deterministic_whatever_the_user_sets(tmp_path: Path, kind: str) -> None:
    arch = arch_of(DARTS_V2) | {"width": 16}
    one = draw(arch, tmp_path / f"one.{kind}")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "x", "savefig.dpi": 30, "lines.linewidth": 9}):
        two = draw(arch, str(tmp_path / f"two.{kind}"))
        assert mpl.rcParams["font.size"] == 30
    assert one.read_bytes() == two.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    if kind == "svg":
        text = one.read_text()
        assert "sep_conv_3x3" in text
        assert not re.search(r"<dc:date>|href=\"http", text)
    else:
        assert one.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_svg_needs_no_matplotlib(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from spacelang.results import draw; draw({'a': 1}, sys.argv[1]); "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.svg")], check=True, timeout=60)


def test_architecture_without_cells_is_a_table() -> None:
    arch = {f"layer_{index}": f"op{index}" for index in range(40)} | {"skip": [0, 2], "$x_1$": None}
    figure = draw(arch).figure()
    check_nothing_overlaps(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"layer_39", "op39", "skip", "0, 2", "$x_1$", "None", "decision", "choice"} <= set(texts)
    assert not boxes(figure, "node:")


def test_a_space_shows_its_candidates(space_class: Any) -> None:
    figure = draw(space_class()).figure()
    check_nothing_overlaps(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("candidates of an edge: conv | skip") == 1
    assert "2 of these edges are chosen for each node" in texts
    assert {"stem", "conv3 | conv1", "candidates"} <= set(texts)


def test_a_space_without_cells() -> None:
    from torch import nn

    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Identity(), nn.ReLU()], label="layer")
            self.width = value_choice(list(range(10)), label="width")

    texts = [text.get_text() for text in draw(Net()).figure().axes[0].texts]
    assert {"layer", "0 | 1", "width", "0 | 1 | 2 | 3 | ... | 9"} <= set(texts)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_odd_texts_are_drawn() -> None:
    arch = arch_of({"a/b": [[("$x_{", 0), ("two\nlines\x00", 1)], [("", 2), ("é🙂" * 40, 0)]]})
    check_nothing_overlaps(draw(arch | {"": "", "%": "\\frac{"}).figure())


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"n/op_2_0": "a", "n/input_2_0": 2}, r"'n/input_2_0' got 2; expected an int from 0 to 1"),
        ({"n/op_2_0": "a", "n/input_2_0": [0, 1]}, "a list of one"),
        ({"n/op_2_0": "a", "n/input_2_0": True}, "expected an int"),
        ({"n/op_2_0": "a", "n/input_2_0": "0"}, "expected an int"),
        ({"n/op_0_0": "a", "n/input_0_0": 0}, "expected an int"),
        ({"n/op_2_0": "a", "n/input_2_1": 0}, r"has no 'n/input_2_0'"),
        ({"n/op_2_0": "a", "n/input_2_0": 0, "n/op_9_0": "a", "n/input_9_0": 0}, "none numbered 3"),
        ({"n/op_2_0": "a", "n/input_2_0": 0, "n/op_999999_0": "a", "n/input_999999_0": 0}, "none numbered 3"),
        ({}, "nothing to draw"),
        ({1: 2}, "keys that are not str"),
        (3, "draw got a int"),
    ],
)
def test_what_cannot_be_drawn(arch: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        draw(arch)


def test_keys_that_only_look_like_a_cell_go_to_the_table() -> None:
    texts = [text.get_text() for text in draw({"block/op_1_0": "conv"}).figure().axes[0].texts]
    assert "block/op_1_0" in texts


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "d.svg").mkdir()
    for path in ("x.jpg", "x", "no/x.svg", "d.svg"):
        with pytest.raises(SpaceError):
            draw({"a": 1}, tmp_path / path)
    with pytest.raises(SpaceError, match="merge_op='some'"):
        draw({"a": 1}, merge_op="some")  # type: ignore[call-overload]
