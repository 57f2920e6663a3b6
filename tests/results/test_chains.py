"""Chains: networks without cells are stages of blocks with depth, kernel and width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from spacelang import LayerChoice, ModelSpace, Repeat, draw, hub, value_choice
from spacelang import nn as space_nn
from spacelang.hub import architecture
from spacelang.results.chain_pictures import chain_of

from ..toys.pictures import boxes, check_nothing_overlaps

CHAINS = ("MobileNetV3Space", "ProxylessNAS", "ENASMacro", "AutoFormer", "ShuffleNetSpace")


def check_texts_are_in_their_boxes(figure: Figure) -> None:
    """Boxes keep apart, and each holds its lines."""
    check_nothing_overlaps(figure)
    outer, inner = dict(boxes(figure, "node:")), boxes(figure, "in:")
    assert inner
    for name, line in inner:
        box = outer[name.replace("in:", "node:")]
        assert box.x0 <= line.x0, name
        assert line.x1 <= box.x1, name


class Stages(ModelSpace):
    """A stem, a stage of 1 to 3 blocks of chosen kernels and one width, and a head."""

    def __init__(self) -> None:
        super().__init__()
        width = value_choice([8, 16], label="width")
        self.stem = space_nn.Conv2d(3, width, 3, padding=1)

        def block(index: int) -> nn.Module:
            kernel = value_choice([3, 5], label=f"s1_i{index}_ks")
            return space_nn.Conv2d(width, width, kernel, padding=kernel // 2)

        self.blocks = Repeat(block, (1, 3), label="s1_depth")
        self.head = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="head")


ARCH = {"width": 16, "s1_depth": 2, "s1_i0_ks": 3, "s1_i1_ks": 5, "head": "tanh"}


def told(chain: Any) -> list[tuple[str, list[tuple[tuple[str, ...], int | None, int | None]]]]:
    return [(s.title, [(b.lines, b.kernel, b.width) for b in s.blocks]) for s in chain.stages]


def test_an_architecture_as_a_chain() -> None:
    chain = chain_of(Stages(), ARCH)
    assert told(chain) == [
        ("stem", [(("width 16",), 3, 16)]),
        ("s1_depth = 2", [(("ks 3",), 3, 16), (("ks 5",), 5, 16)]),
        ("head", [(("tanh",), None, None)]),
    ]
    assert chain is not None
    assert chain.labels == set(ARCH)


def test_labels_that_end_with_the_number_of_their_block_keep_their_name() -> None:
    class Numbered(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            kernels = (value_choice([1, 3], label=f"kernel{i}") for i in range(3))
            self.layers = nn.Sequential(*(space_nn.Conv2d(3, 3, kernel) for kernel in kernels))

    chain = chain_of(Numbered(), {"kernel0": 1, "kernel1": 3, "kernel2": 1})
    assert [lines for _, blocks in told(chain) for lines, _, _ in blocks] == [
        ("kernel 1",),
        ("kernel 3",),
        ("kernel 1",),
    ]


def test_a_space_as_a_chain_writes_like_blocks_once() -> None:
    chain = chain_of(Stages())
    assert chain is not None
    (_, (repeated,), _) = (stage.blocks for stage in chain.stages)
    assert (repeated.lines, repeated.times) == (("ks 3 | 5",), "x 1 | 2 | 3")
    figure = draw(Stages()).figure()
    check_texts_are_in_their_boxes(figure)
    assert "decision" not in {text.get_text() for text in figure.axes[0].texts}


def test_two_choices_are_a_table() -> None:
    class Two(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice([nn.ReLU(), nn.Tanh()], label="a")
            self.b = LayerChoice([nn.ReLU(), nn.Tanh()], label="b")

    assert chain_of(Two()) is None


def test_a_short_network_is_drawn_like_the_others_of_its_space() -> None:
    space = hub.MLP(4, 2, width=[8], hidden=[8], depth=[1, 3])
    chain = chain_of(space, space.canonical(space.default() | {"depth": 1}))
    assert chain is not None
    assert [len(stage.blocks) for stage in chain.stages] == [1, 1]


@pytest.mark.slow
def test_published_chains() -> None:
    """ProxylessNAS-mobile has 21 searched blocks; its last stage one of kernel 7 and 320 channels."""
    with torch.device("meta"):
        space = hub.ProxylessNAS()
    chain = chain_of(space, space.canonical(architecture("proxyless-mobile")))
    assert chain is not None
    assert [stage.title for stage in chain.stages] == [
        f"s{stage}_depth = {depth}" for stage, depth in zip(range(2, 8), (2, 4, 4, 4, 4, 1), strict=True)
    ]
    last = chain.stages[-1].blocks[0]
    assert (last.lines, last.kernel, last.width) == (("k7e6",), 7, 320)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["MobileNetV3Space", "ProxylessNAS", "ENASMacro", "AutoFormer", "ShuffleNetSpace"]
)
def test_chains_of_the_hub_are_readable(name: str) -> None:
    with torch.device("meta"):
        space = getattr(hub, name)()
    for drawing in (draw(space), draw(space.default(), space=space)):
        assert drawing.scene.width < 13
        figure = drawing.figure()
        assert "decision" not in {text.get_text() for text in figure.axes[0].texts}
        check_texts_are_in_their_boxes(figure)


@pytest.mark.slow
def test_outputs_that_skip_layers_are_arcs() -> None:
    with torch.device("meta"):
        space = hub.ENASMacro(num_layers=4)
    arch = {**{f"layer_{i}/op": "conv_3x3" for i in range(4)}}
    arch |= {f"layer_{i}/skip_{j}": int((i, j) in {(2, 0), (3, 1)}) for i in range(4) for j in range(i)}
    arcs = [mark.name for mark in draw(arch, space=space).scene.marks if mark.name.startswith("edge:")]
    assert arcs == ["edge:0->2", "edge:1->3"]
