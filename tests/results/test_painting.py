"""Painting: widths of texts, SVG that is safe and reads in the dark, charts against known places."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from spacelang import draw
from spacelang.results.painting import (
    Axis,
    Band,
    Curve,
    Scene,
    Shape,
    Strand,
    Text,
    bars,
    chart,
    number_text,
    painted,
    parallel,
    shortened,
    small_multiples,
    svg_of,
    text_width,
    value_text,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("text", ["sep_conv_3x3", "max_pool_3x3", "c_{k-1} | W: 0.25", "~!@#$%^&*()"])
def test_widths_are_those_of_the_font(text: str) -> None:
    font = FontProperties(family="DejaVu Sans", size=11.5)
    measured = TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72
    assert text_width(text, 11.5) == pytest.approx(measured, rel=0.02)


def test_wide_characters_take_more_room_than_latin_ones() -> None:
    assert text_width("é", 10) == 1400 / 2048 * 10 / 72
    assert text_width("木", 10) == 2800 / 2048 * 10 / 72


def test_shortened_keeps_the_ends() -> None:
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("a\x00\nb", 7) == "a b"
    assert shortened("", 7) == "''"


HOSTILE = "</text><script>alert(1)</script>\x00&\"'"


def test_svg_is_escaped_and_text_stays_text() -> None:
    marks = (Text(1, 1, HOSTILE, 10, tip=HOSTILE), Shape((("M", ((0, 0),)),), "ink", tip=HOSTILE))
    text = svg_of(Scene(2, 2, marks, HOSTILE))
    root = ET.fromstring(text)
    assert not root.findall(f".//{SVG}script")
    whole = HOSTILE.replace("\x00", "\ufffd")
    assert [node.text for node in root.iter(f"{SVG}title")] == [whole] * 3
    (label,) = root.iter(f"{SVG}text")
    assert label[0].tail == whole  # after its tip


def test_every_colour_has_a_dark_one() -> None:
    text = draw({"a": 1}).svg
    light, dark = text.split("@media (prefers-color-scheme:dark)")
    assert ".f-ink{fill:#1a1a1a}" in light
    assert ".f-ink{fill:#e6e8ea}" in dark
    assert "#1a1a1a" not in dark  # shapes name colours, and do not hold them


def test_an_index_is_set_lower() -> None:
    text = svg_of(Scene(1, 1, (Text(0, 0, "$c_{k-1}$", 10, math=True),)))
    assert ">c</tspan><tspan" in text
    assert ">k-1</tspan>" in text


def places(scene: Scene, name: str) -> list[tuple[float, float]]:
    (shape,) = (mark for mark in scene.marks if isinstance(mark, Shape) and mark.name == name)
    return [point for _, points in shape.path for point in points]


def test_a_curve_is_drawn_to_scale() -> None:
    scene = chart([Curve("a", [0, 1, 3], [0.0, 1.0, 4.0])])
    (x0, y0), (x1, y1), (x2, y2) = places(scene, "curve:a")
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 4)
    assert y2 < y0  # up is up


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show() -> None:
    scene = chart([Curve("a", [1, 10, 100, 1000], [1, 2, 3, float("nan")])], Axis(log=True))
    points = places(scene, "curve:a")
    assert len(points) == 3
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0])
    assert len(places(chart([Curve("b", [0, 1, 2], [1, 1, 1])], Axis(log=True)), "curve:b")) == 2


def test_steps_stay_level_until_the_next_point() -> None:
    points = places(chart([Curve("a", [0, 1], [0.0, 1.0], steps=True)]), "curve:a")
    assert [points[0][1] == points[1][1], points[1][0] == points[2][0]] == [True, True]


def test_a_band_goes_there_and_back() -> None:
    scene = chart([Curve("a", [0, 1], [1, 1], band=Band([0, 0], [2, 2]))])
    assert len(places(scene, "band:a")) == 4


def test_bars_are_in_proportion() -> None:
    shapes = [mark for mark in bars([("a", 2.0), ("b", 1.0)]).marks if mark.name == "bar"]
    lengths = [shape.path[1][1][0][0] - shape.path[0][1][0][0] for shape in shapes]
    assert lengths[0] == pytest.approx(2 * lengths[1])


def test_parallel_coordinates_have_a_line_for_each_trial() -> None:
    nan = float("nan")
    strands = [
        Strand([0, 0.5, 1], 0.0, "one", 1),
        Strand([1, nan, 0], 1.0, "two", 2),
        Strand([nan, nan, 0], 1, "", 3),
    ]
    scene = parallel([("a", ["x", "y"]), ("b", ["1"]), ("c", ["0", "1"])], strands)
    assert len(places(scene, "trial:1")) == 3
    assert len(places(scene, "trial:2")) == 2
    assert not [mark for mark in scene.marks if mark.name == "trial:3"]
    assert 'data-trial="2"' in svg_of(scene)


def test_small_multiples_have_a_panel_for_each_name() -> None:
    panels = {f"p{i}": [Curve("", [0, 1], [0, 1]), Curve("", [0, 1], [1, 0])] for i in range(5)}
    scene = small_multiples(panels, (0, 1), ["up", "down"])
    texts = [mark.text for mark in scene.marks if isinstance(mark, Text)]
    assert texts.count("up") == 1
    assert [text for text in texts if text in panels] == list(panels)


def test_numbers_are_short() -> None:
    assert [number_text(v) for v in (0.1 + 0.2, 12340, 3e9, -0.0, 1e-7)] == [
        "0.3",
        "12.34k",
        "3G",
        "0",
        "1e-07",
    ]


def test_an_axis_that_counts_has_whole_numbers() -> None:
    def written(axis: Axis) -> list[str]:
        scene = chart([Curve("", [1, 2, 3], [5, 5, 5])], axis)
        return [
            m.text for m in scene.marks if isinstance(m, Text) and m.text in ("1", "1.5", "2", "2.5", "3")
        ]

    assert written(Axis()) == ["1", "1.5", "2", "2.5", "3"]
    assert written(Axis(whole=True)) == ["1", "2", "3"]


def test_values_are_short() -> None:
    values = [0.16014113442254202, 16058.0, [0, 2], [], "relu", True]
    assert [value_text(value) for value in values] == ["0.16014", "16058", "0, 2", "none", "relu", "True"]


def test_the_same_scene_is_painted_by_matplotlib() -> None:
    scene = chart([Curve("a", [0, 1], [0, 1], dots=True)], Axis("x"), Axis("y"), title="t")
    figure = painted(scene)
    assert [text.get_text() for text in figure.axes[0].texts] == [
        m.text for m in scene.marks if isinstance(m, Text)
    ]
    assert len(figure.axes[0].patches) == sum(isinstance(mark, Shape) for mark in scene.marks)
