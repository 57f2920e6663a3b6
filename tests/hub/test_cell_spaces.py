"""Every cell space: both ways to a model, sizes, published cells, chosen widths and depths, loose ends."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import comb, prod
from typing import Any

import numpy as np
import pytest
import torch

from spacelang import ModelSpace, SpaceError, Supernet, hub, model_context
from spacelang.hub import DARTS, ENAS, PNAS, AmoebaNet, ENASMacro, FairDARTS, NASBench101, NASBench201, NASNet
from spacelang.hub.cells import CellSpace
from spacelang.hub.operations.cell_operations import OPERATIONS, DropPath
from spacelang.hub.operations.concat import ConcatLayer
from spacelang.hub.published import read_entry
from spacelang.language import is_frozen

from ..toys.hub import SMALL, Small, pairs, small_space

pytestmark = pytest.mark.slow

DIGITS = (1, 8, 5)
SPARSE = Small(FairDARTS, {"width": 2, "num_cells": 3, "dataset": DIGITS})


@pytest.mark.parametrize("name", ["ENAS", "FairDARTS", "NASBench101"])
def test_a_selected_path_has_the_gradients_of_its_network(name: str) -> None:
    space = small_space(name)
    supernet = Supernet(space).train()
    arch = space.sample(np.random.default_rng(3))
    frozen = supernet.freeze(arch).train()
    supernet.select(arch)
    stem = "layers.0.0.weight" if isinstance(space, NASBench101) else "stem0.0.weight"
    for model in (supernet, frozen):
        model(*SMALL[name].inputs()).square().sum().backward()
    gradients = [network.get_parameter(stem).grad for network in (supernet.network, frozen)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("space", "operations"), [(NASNet, 13), (ENAS, 5), (AmoebaNet, 8), (PNAS, 8)], ids=lambda x: str(x)[-20:]
)
def test_sizes_of_the_nasnet_family(space: type[ModelSpace], operations: int) -> None:
    with torch.device("meta"):
        declared = space(width=2, num_cells=3)
    assert declared.size() == pairs(operations, 5) ** 2
    assert len(declared.decisions) == 40


def test_published_cells_are_found() -> None:
    assert len(CELLS) > 65
    assert len(PNAS.load_searched_model("pnasnet-5", width=2, num_cells=3).cells) == 3


def test_the_first_block_of_pnas() -> None:
    """136 unordered pairs of 2 inputs and 8 operations, as the paper counts."""
    assert PNAS(width=2, num_cells=1, num_nodes=1).size() == 136


def test_labels_of_chosen_widths_and_depths() -> None:
    labels = [decision.label for decision in small_space("DARTS-sizes").decisions]
    assert labels[:2] == ["width", "num_cells"]


def test_auxiliary_head_of_chosen_widths_and_depths() -> None:
    row = SMALL["DARTS-sizes"]
    space = replace(row, arguments={**row.arguments, "auxiliary_loss": True}).make()
    supernet, rng = Supernet(space), np.random.default_rng(1)
    for arch in (space.sample(rng) for _ in range(5)):
        supernet.select(arch)
        frozen = supernet.freeze(arch)
        torch.testing.assert_close(supernet(*row.inputs()), frozen(*row.inputs()), rtol=0, atol=1e-10)
        assert len(frozen(*row.inputs())) == 2


CELLS = [
    name
    for name in hub.list_models()
    if issubclass(getattr(hub, read_entry(name).space), CellSpace | NASBench201 | ENASMacro)
]


@pytest.mark.parametrize("name", CELLS)
def test_published_cells_train_and_are_valid(name: str) -> None:
    entry = read_entry(name)
    tiny = {"width": 2, "dataset": DIGITS}
    if "num_cells" in entry.arguments:
        tiny |= {"num_cells": 3, "auxiliary_loss": True, "drop_path_prob": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a label that no choice asks for
        model = hub.load(name, **tiny)
    assert type(model).__name__ == entry.space
    assert is_frozen(model)
    outputs = model(torch.randn(4, 1, 8, 8))
    sum(part.sum() for part in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    assert model.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 5)


# -- loose ends ----------------------------------------------------------------------------------------


def test_a_layer_on_loose_ends_has_columns_for_every_node() -> None:
    space = ENAS(width=2, num_cells=3, num_nodes=3, dataset=DIGITS)
    layer = space.cells[2].frame.preprocessor.preprocess1[1]
    assert isinstance(layer, ConcatLayer)
    assert layer.largest.weight.shape == (8, 3 * 4, 1, 1)
    arch = {**space.default(), "reduce/input_4_0": 2, "reduce/input_4_1": 2}  # node 4 reads 2, nobody 3 or 4
    frozen = space.freeze(arch).cells[2].frame.preprocessor.preprocess1[1]
    columns = torch.cat([layer.largest.weight[:, 4:8], layer.largest.weight[:, 8:12]], dim=1)
    assert torch.equal(frozen.weight, columns)
    assert frozen.weight.data_ptr() != layer.largest.weight.data_ptr()


def test_chosen_widths_use_the_first_channels_of_every_node() -> None:
    space = DARTS(width=[2, 4], num_cells=3, num_nodes=2, dataset=DIGITS)
    weight = space.classifier.largest.weight
    assert weight.shape == (5, 2 * 16)
    frozen = space.freeze({**space.default(), "width": 2})
    assert torch.equal(frozen.classifier.weight, torch.cat([weight[:, :8], weight[:, 16:24]], dim=1))
    assert torch.equal(frozen.classifier.bias, space.classifier.largest.bias)


def test_depths_share_cells_where_they_are_alike() -> None:
    space = DARTS(width=2, num_cells=[4, 8], num_nodes=1, operations=["skip_connect"], dataset=DIGITS)
    short, long = (
        space.freeze({**space.default(), "num_cells": 4}),
        space.freeze(space.default() | {"num_cells": 8}),
    )
    assert (len(short.cells), len(long.cells)) == (4, 8)
    # Of 4 cells both reductions, and the cell after the second, read other cells than their like of 8 do.
    assert len(space.cells.cells) == 8 + 3
    weights = [net.cells[0].frame.preprocessor.preprocess1[1].weight for net in (short, long)]
    assert torch.equal(*weights)


def test_depths_must_end_alike() -> None:
    with pytest.raises(SpaceError, match=r"num_cells=\(3, 4\).*at least 4"):
        ENAS(width=2, num_cells=(3, 4))
    with pytest.raises(SpaceError, match=r"'num_cells' is (missing|not known)"), model_context({"width": 2}):
        DARTS(width=[2, 4], num_cells=[4, 5], num_nodes=1)
    for wrong in ([], [0, 4], "8", [4, 4]):
        with pytest.raises(SpaceError, match="num_cells"):
            DARTS(width=2, num_cells=wrong)  # type: ignore[arg-type]


def test_merge_op_may_be_given() -> None:
    with torch.device("meta"):
        space = ENAS(width=2, num_cells=3, merge_op="all")
    assert space.classifier.in_features == 5 * 8
    with pytest.raises(SpaceError, match="merge_op='some'"):
        ENAS(width=2, num_cells=3, merge_op="some")  # type: ignore[arg-type]


def test_imagenet_stems_and_auxiliary_head() -> None:
    model = hub.load(
        "amoebanet-a", width=4, num_cells=3, dataset="imagenet", num_classes=3, auxiliary_loss=True
    )
    logits, auxiliary = model(torch.randn(2, 3, 224, 224))
    assert logits.shape == auxiliary.shape == (2, 3)


def test_drop_path_is_in_every_space_of_cells() -> None:
    for name in ("nasnet-a", "fairdarts-b"):
        model = hub.load(name, width=2, num_cells=3, dataset=DIGITS)
        model.set_drop_path_prob(0.5)
        assert {m.p for m in model.modules() if isinstance(m, DropPath)} == {0.5}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operation_of_the_table(name: str, stride: int) -> None:
    operation = OPERATIONS[name](6, stride, True)
    assert operation(torch.randn(2, 6, 7, 7)).shape == (
        2,
        6,
        7 // stride + (stride > 1),
        7 // stride + (stride > 1),
    )
    c, k = 6, int(name[-1]) if name[-1].isdigit() else 1
    depthwise = k**2 * c + c**2 + 2 * c
    expected = {
        "none": 0,
        "nois": 0,
        "skip": (c**2 + 2 * c) * (stride - 1),
        "sep_": 2 * depthwise,
        "dil_": depthwise,
        "avg_": 0,
        "max_": 0,
    }.get(name[:4], k**2 * c**2 + 2 * c)
    named = {
        "dil_sep_conv_3x3": 2 * depthwise,
        "conv_7x1_1x7": 14 * c**2 + 2 * c,
        "conv_3x1_1x3": 6 * c**2 + 2 * c,
    }
    assert sum(p.numel() for p in operation.parameters()) == named.get(name, expected)


# -- sparse cells --------------------------------------------------------------------------------------


def sparse(**edges: str) -> dict[str, str]:
    """A normal cell with some edges, `_0_2` for 0 -> 2, and a reduction cell of one."""
    cells = {
        f"{cell}/{s}_{n}": "none" for cell in ("normal", "reduce") for n in range(2, 6) for s in range(n)
    }
    return cells | {"reduce/0_2": "skip_connect"} | {f"normal/{k[1:]}": v for k, v in edges.items()}


@pytest.fixture(scope="module")
def fair() -> ModelSpace:
    """A small space of sparse cells, with all four nodes."""
    return SPARSE.make()


def test_size_of_sparse_cells(fair: ModelSpace) -> None:
    """A node with n inputs to choose from takes none, one or two; the first node of a cell takes one."""
    nodes = [1 + 7 * n + 49 * comb(n, 2) for n in range(2, 6)]
    assert fair.size() == ((nodes[0] - 1) * prod(nodes[1:])) ** 2


def test_limits_of_sparse_cells(fair: ModelSpace) -> None:
    three = sparse(_0_2="skip_connect", _0_4="skip_connect", _1_4="skip_connect", _2_4="skip_connect")
    with pytest.raises(SpaceError, match="node 4 of cell 'normal' must have at most 2 edges"):
        fair.validate(three)
    with pytest.raises(SpaceError, match="node 4 of cell 'normal'"):
        SPARSE.build(three, fair)
    with pytest.raises(SpaceError, match="node 2 of cell 'normal' must have an edge"):
        fair.validate(sparse(_0_3="skip_connect"))
    with pytest.raises(SpaceError, match="needs 'none'"):
        FairDARTS(operations=["skip_connect"])


def test_empty_nodes_leave_the_output(fair: ModelSpace) -> None:
    arch = sparse(_0_2="skip_connect", _3_4="sep_conv_3x3", _0_5="max_pool_3x3", _3_5="sep_conv_3x3")
    model: Any = SPARSE.build(arch, fair)
    assert model.cells[0].num_outputs == 2  # node 3 is empty, so node 4 is, too
    (x,) = SPARSE.inputs(2)
    assert model.cells[0]([model.stem0(x), model.stem0(x)]).shape == (2, 2 * 2, 8, 8)
    without = SPARSE.build({**arch, "normal/3_4": "none", "normal/3_5": "none"}, fair)
    shared = {k: v for k, v in model.state_dict().items() if k in without.state_dict()}
    without.load_state_dict(shared)
    torch.testing.assert_close(model.eval()(x), without.eval()(x))  # what reads an empty node reads nothing


@pytest.mark.parametrize("name", ["fairdarts-c", "fairdarts-g"])
def test_published_cells_with_an_empty_node(name: str) -> None:
    model = hub.load(name, width=2, num_cells=4, dataset=DIGITS)
    assert [cell.num_outputs for cell in model.cells] == [3, 4, 4, 3]
