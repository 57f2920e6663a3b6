"""Pictures read the graph: every published cell is drawn as a cell, and a supernet shows its mixture."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Cell, LayerChoice, ModelSpace, SpaceError, draw, hub
from spacelang.cli import main
from spacelang.graph import Wire, Wiring
from spacelang.hub.published import read_entry
from spacelang.results.cell_pictures import CellPicture, picture_of_architecture, picture_of_space
from spacelang.results.painting import Text
from spacelang.supernet import Supernet

from ..toys.pictures import boxes, check_nothing_overlaps

pytestmark = pytest.mark.slow

CELL_SPACES = ("DARTS", "FairDARTS", "NASNet", "ENAS", "AmoebaNet", "PNAS", "NASBench101", "NASBench201")


@functools.cache
def space_of(name: str, operations: tuple[str, ...] | None = None, num_nodes: int | None = None) -> Any:
    """A small space of the hub, without memory for weights; its cells are those of a large one."""
    given = {"operations": operations, "num_nodes": num_nodes}
    small = {"width": 4, "num_cells": 1 if name.startswith("NASBench") else 3}
    with torch.device("meta"):
        return getattr(hub, name)(
            **small, **{key: value for key, value in given.items() if value is not None}
        )


def entries() -> list[Any]:
    """Every published entry of a space made of cells."""
    return [entry for entry in map(read_entry, hub.list_models()) if entry.space in CELL_SPACES]


def picture_of_entry(entry: Any) -> Any:
    operations = entry.arguments.get("operations")
    space = space_of(entry.space, operations and tuple(operations), entry.arguments.get("num_nodes"))
    return picture_of_architecture(entry.architecture, space)


def test_every_published_cell_is_drawn_as_a_cell() -> None:
    drawn: Counter[str] = Counter()
    for entry in entries():
        picture = picture_of_entry(entry)
        assert picture.cells, entry.name
        assert not picture.rows, entry.name
        drawn[entry.space] += 1
    # NAS-Bench-101 has no published entry; its best cell is below.
    assert drawn == {
        "DARTS": 57,
        "FairDARTS": 7,
        "NASNet": 1,
        "ENAS": 4,
        "AmoebaNet": 1,
        "PNAS": 1,
        "NASBench201": 6,
    }


def arrows(cell: CellPicture) -> list[tuple[str, str, str]]:
    names = [node.text for node in cell.nodes]
    return [(names[edge.source], edge.label, names[edge.target]) for edge in cell.edges]


def test_a_cell_of_fairdarts() -> None:
    """Node 1 has no edge and is absent; "none" is no edge."""
    normal, reduce = picture_of_entry(read_entry("fairdarts-a")).cells
    assert (normal.title, reduce.title) == ("Normal cell", "Reduction cell")
    assert arrows(normal) == [
        ("$c_{k-2}$", "sep_conv_3x3", "0"),
        ("$c_{k-1}$", "sep_conv_5x5", "0"),
        ("$c_{k-2}$", "max_pool_3x3", "2"),
        ("$c_{k-2}$", "sep_conv_3x3", "3"),
        ("0", "", "$c_{k}$"),
        ("2", "", "$c_{k}$"),
        ("3", "", "$c_{k}$"),
    ]
    assert len(reduce.edges) == 8 + 4


def test_a_cell_without_edges() -> None:
    """Its input and output are drawn, with nothing between them."""
    space = space_of("NASBench201")
    figure = draw(dict.fromkeys(space.default(), "none"), space=space).figure()
    assert len(boxes(figure, "node:")) == 2
    check_nothing_overlaps(figure)


def test_a_cell_of_nasbench201() -> None:
    arch = hub.from_nasbench201("|conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|conv_1x1~2|")
    (cell,) = picture_of_architecture(arch, space_of("NASBench201")).cells
    assert cell.title == "Cell"
    assert arrows(cell) == [
        ("$c_{k-1}$", "conv_3x3", "0"),
        ("0", "skip_connect", "1"),
        ("$c_{k-1}$", "avg_pool_3x3", "$c_{k}$"),
        ("1", "conv_1x1", "$c_{k}$"),
    ]
    check_nothing_overlaps(draw(arch, space=space_of("NASBench201")).figure())
    (whole,) = picture_of_space(space_of("NASBench201")).cells
    assert [edge.label for edge in whole.edges] == [""] * 6
    names = "none | skip_connect | conv_1x1 | conv_3x3 | avg_pool_3x3"
    assert whole.notes == (f"candidates of an edge: {names}",)


def test_a_cell_of_nasbench101() -> None:
    """Operations are nodes: input -> conv3x3 -> pool -> output, and input -> output."""
    arch = {
        "cell/num_vertices": 4,
        "cell/op_1": "conv3x3-bn-relu",
        "cell/input_1": [0],
        "cell/op_2": "maxpool3x3",
        "cell/input_2": [0, 1],
        "cell/input_3": [0, 2],
    }
    picture = picture_of_architecture(arch, space_of("NASBench101"))
    (cell,) = picture.cells
    assert arrows(cell) == [
        ("$c_{k-1}$", "", "conv3x3-bn-relu"),
        ("$c_{k-1}$", "", "maxpool3x3"),
        ("conv3x3-bn-relu", "", "maxpool3x3"),
        ("$c_{k-1}$", "", "$c_{k}$"),
        ("maxpool3x3", "", "$c_{k}$"),
    ]
    assert not picture.rows
    figure = draw(arch, space=space_of("NASBench101")).figure()
    check_nothing_overlaps(figure)
    assert len(boxes(figure, "node:")) == 4


@pytest.mark.parametrize("name", ["FairDARTS", "NASBench101", "NASBench201"])
def test_random_architectures_are_readable(name: str) -> None:
    space = space_of(name)
    check_nothing_overlaps(draw(space.sample(np.random.default_rng(3)), space=space).figure())
    check_nothing_overlaps(draw(space).figure())


class Mixed(ModelSpace):
    """A cell of one node and a choice around it."""

    def __init__(self) -> None:
        super().__init__()
        candidates = {"relu": nn.ReLU(), "tanh": nn.Tanh()}
        self.cell = Cell(candidates, num_nodes=2, label="normal")
        self.head = LayerChoice({"max": nn.Identity(), "mean": nn.ReLU(), "sum": nn.Tanh()}, label="head")


def widths(figure: Any) -> list[float]:
    edges = [patch for patch in figure.axes[0].patches if patch.get_gid().startswith("edge:")]
    return [round(float(patch.get_linewidth()), 3) for patch in edges]


def test_a_supernet_shows_its_mixture() -> None:
    """Rows of the cell: 0->1, 0->2, 1->2; the edge 0->2 is pruned."""
    supernet = Supernet(Mixed())
    mixture = {
        "normal": torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.2, 0.8]]),
        "head": torch.tensor([[0.1, 0.6, 0.3]]),
    }
    supernet.prune({"normal": [[True, True], [False, False], [True, True]], "head": [[True, True, False]]})
    supernet.set_mixture(mixture)
    figure = draw(supernet).figure()
    check_nothing_overlaps(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"relu 0.75", "tanh 0.80", "head", "max 0.10 | mean 0.60", "mixture"} <= set(texts)
    assert len(boxes(figure, "label:")) == 2
    # The strongest edge has the full width; what is concatenated has no weight.
    assert widths(figure) == [3.4, 3.6, 1.1, 1.1]  # 0.4 + 3.2 * 0.75 / 0.8


def test_a_supernet_with_an_architecture_selected() -> None:
    supernet = Supernet(Mixed())
    arch = {"normal/op_1_0": "tanh", "normal/input_1_0": 0, "normal/op_2_0": "relu", "normal/input_2_0": 0}
    supernet.select(arch | {"head": "sum"})
    figure = draw(supernet).figure()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"tanh 1.00", "relu 1.00", "sum"} <= set(texts)
    assert len(boxes(figure, "label:")) == 2


def test_a_frozen_network_knows_its_architecture(space_class: Any, conv_arch: Any) -> None:
    def texts(drawing: Any) -> list[str]:
        return [mark.text for mark in drawing.scene.marks if isinstance(mark, Text)]

    expected = texts(draw(conv_arch, space=space_class))
    assert texts(draw(space_class().freeze(conv_arch))) == expected
    assert texts(draw(conv_arch, space=space_class())) == expected
    assert texts(draw(space_class)) == texts(draw(space_class()))


def test_a_cell_of_ones_own() -> None:
    class Chain(nn.Module):
        """Input -> choice -> node 1 -> choice -> output."""

        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice({"relu": nn.ReLU(), "none": nn.Identity()}, label="a")
            self.b = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="b")

        def wiring(self) -> Wiring:
            return Wiring("chain", 1, 1, (Wire(0, 1, "a", absent="none"), Wire(1, 2, "b"), Wire(0, 2)))

    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Chain(), Chain()

    (cell,) = picture_of_architecture({"a": "relu", "b": "tanh"}, Net()).cells
    assert cell.title == "chain"
    assert arrows(cell) == [
        ("$c_{k-1}$", "relu", "0"),
        ("$c_{k-1}$", "", "$c_{k}$"),
        ("0", "tanh", "$c_{k}$"),
    ]
    graph = (
        Net().graph
    )  # both chains are one sub-graph: three feature maps, two candidates each, one passed on
    assert graph.number_of_nodes() == 3
    assert graph.number_of_edges() == 5


def test_a_wire_leads_forwards() -> None:
    with pytest.raises(SpaceError, match="'c': a wire leads from node 2 to 1; nodes are numbered 0 to 2"):
        Wiring("c", 1, 1, (Wire(2, 1),))


def test_pdf_is_deterministic(tmp_path: Path, conv_arch: Any) -> None:
    one = draw(conv_arch, tmp_path / "one.pdf").read_bytes()
    with mpl.rc_context({"font.size": 30}):
        two = draw(conv_arch, tmp_path / "two.pdf").read_bytes()
    assert one == two
    assert one.startswith(b"%PDF")
    assert b"CreationDate" not in one


def test_the_command_line_draws_hub_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(hub.__path__[0]) / "architectures" / "nb201.yaml"
    picture = tmp_path / "cell.svg"
    assert main(["draw", str(file), str(picture)]) == 2
    assert "--entry=None must be one of the file's entries 'nb201-" in capsys.readouterr().err
    assert main(["draw", str(file), str(picture), "--entry", "nb201-all-skip"]) == 0
    assert picture.read_text().count(">skip_connect</text>") == 6
    assert ">decision</text>" not in picture.read_text()
