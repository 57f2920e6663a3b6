"""Every cell space: both ways to a model, sizes, published cells, chosen widths and depths, loose ends."""

from __future__ import annotations

import warnings
from functools import cache
from math import comb, prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import ModelSpace, SpaceError, Supernet, hub, model_context, profile
from spacelang.hub import (
    DARTS,
    ENAS,
    PNAS,
    AmoebaNet,
    ENASMacro,
    FairDARTS,
    NASBench101,
    NASBench201,
    NASNet,
)
from spacelang.hub._cells import CellSpace
from spacelang.hub._concat import ConcatLayer
from spacelang.hub._entries import read_entry
from spacelang.hub.operations import OPERATIONS, DropPath
from spacelang.language import is_frozen

DIGITS = (1, 8, 5)
TINY: dict[str, tuple[type[ModelSpace], dict[str, Any]]] = {
    "darts": (DARTS, {"width": 2, "num_cells": 3, "num_nodes": 3}),
    "nasnet": (NASNet, {"width": 2, "num_cells": 3, "num_nodes": 2}),
    "enas": (ENAS, {"width": 2, "num_cells": 3, "num_nodes": 3}),
    "amoebanet": (AmoebaNet, {"width": 2, "num_cells": 3, "num_nodes": 3}),
    "pnas": (PNAS, {"width": 2, "num_cells": 3, "num_nodes": 3}),
    "fairdarts": (FairDARTS, {"width": 2, "num_cells": 3}),
    "nasbench101": (NASBench101, {"width": 4, "num_cells": 1}),
    "nasbench201": (NASBench201, {"width": 2, "num_cells": 2}),
    "enas-macro": (ENASMacro, {"width": 2, "num_layers": 6}),
    "darts-sizes": (
        DARTS,
        {"width": [2, 4], "num_cells": [4, 5], "num_nodes": 2, "auxiliary_loss": True},
    ),
    "enas-sizes": (ENAS, {"width": [4, 2], "num_cells": [4, 6], "num_nodes": 2}),
    "fairdarts-sizes": (FairDARTS, {"width": [2, 4], "num_cells": 2, "num_nodes": 3}),
}


@cache
def space_of(name: str) -> ModelSpace:
    space, arguments = TINY[name]
    torch.manual_seed(0)
    return space(**arguments, dataset=DIGITS).double()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rebuilt(space: ModelSpace, arch: dict[str, Any]) -> nn.Module:
    """The same network made under `model_context`: the search network, where there are two."""
    with model_context(arch):
        return space.rebuild(**({"affine": False} if isinstance(space, CellSpace) else {})).double()


@pytest.mark.parametrize("name", TINY)
def test_default_and_random_architectures_train(name: str) -> None:
    space, rng = space_of(name), np.random.default_rng(0)
    count = 5 if name.endswith("sizes") else 20  # these are spaces seen before
    for arch in [space.default(), *(space.sample(rng) for _ in range(count))]:
        model = rebuilt(space, arch)
        assert is_frozen(model)
        logits = model(images())
        sum(part.sum() for part in (logits if isinstance(logits, tuple) else (logits,))).backward()
        assert model.eval()(images()).shape == (2, 5)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model.classifier.weight.grad is not None


def check_mixture(supernet: Supernet, refused: bool) -> None:
    """The supernet computes a mixture, or says why not."""
    assert bool(supernet.soft_refusals()) == refused
    if refused:
        with pytest.raises(SpaceError, match=r"call supernet\.select"):
            supernet(images())
        return
    supernet(images()).sum().backward()
    assert all(p.grad is not None for p in supernet.network.classifier.parameters())


@pytest.mark.parametrize("name", TINY)
def test_frozen_and_selected_are_the_same(name: str) -> None:
    space, rng = space_of(name), np.random.default_rng(1)
    supernet = Supernet(space).eval()
    check_mixture(supernet, refused=name == "nasbench101" or name.endswith("sizes"))
    for arch in [space.default(), *(space.sample(rng) for _ in range(5))]:
        supernet.select(arch)
        expected = supernet(images())
        frozen, from_space = supernet.freeze(arch).eval(), space.freeze(arch).eval()
        torch.testing.assert_close(frozen(images()), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(from_space(images()), expected, rtol=0, atol=1e-10)
        again = rebuilt(space, arch).eval()
        again.load_state_dict(frozen.state_dict())
        torch.testing.assert_close(again(images()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["enas", "fairdarts", "nasbench101"])
def test_a_selected_path_trains_its_own_statistics(name: str) -> None:
    """In training mode too the path is the frozen network: output, gradients and running statistics."""
    space = space_of(name)
    supernet = Supernet(space).train()
    arch = space.sample(np.random.default_rng(3))
    frozen = supernet.freeze(arch).train()
    supernet.select(arch)
    prefix = "layers.0." if isinstance(space, NASBench101) else "stem0."
    paths = [(supernet.network, prefix), (frozen, prefix)]
    outputs = [model(images()) for model in (supernet, frozen)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    for output in outputs:
        output.sum().backward()
    stems = [model.get_parameter(f"{path}0.weight").grad for model, path in paths]
    torch.testing.assert_close(*stems, rtol=0, atol=1e-10)
    after = supernet.freeze(arch).state_dict()
    for key, tensor in frozen.state_dict().items():
        torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TINY)
def test_profiles_and_graphs(name: str) -> None:
    space = space_of(name)
    arch = space.sample(np.random.default_rng(5))
    model = rebuilt(space, arch)
    found = profile(model, images(1))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.macs > 0
    assert space.graph.number_of_nodes() > 0
    assert space.hash(arch) == space.hash(space.canonical(arch))


def size_of_cell(operations: int, nodes: int) -> int:
    """Two slots of a node are a multiset of (operation, input)."""
    return prod(comb(operations * n + 1, 2) for n in range(2, 2 + nodes))


@pytest.mark.parametrize(
    ("space", "operations"), [(NASNet, 13), (ENAS, 5), (AmoebaNet, 8), (PNAS, 8)], ids=lambda x: str(x)[-20:]
)
def test_sizes_of_the_nasnet_family(space: type[ModelSpace], operations: int) -> None:
    with torch.device("meta"):
        declared = space(width=2, num_cells=3)
    assert declared.size() == size_of_cell(operations, 5) ** 2
    assert len(declared.decisions) == 40


def test_published_cells_are_found() -> None:
    assert len(CELLS) > 65
    assert len(PNAS.load_searched_model("pnasnet-5", width=2, num_cells=3).cells) == 3


def test_the_first_block_of_pnas() -> None:
    """136 unordered pairs of 2 inputs and 8 operations, as the paper counts."""
    assert PNAS(width=2, num_cells=1, num_nodes=1).size() == 136


def test_sizes_with_chosen_widths_and_depths() -> None:
    fixed = DARTS(width=2, num_cells=4, num_nodes=2).size()
    assert space_of("darts-sizes").size() == 4 * fixed
    labels = [decision.label for decision in space_of("darts-sizes").decisions]
    assert labels[:2] == ["width", "num_cells"]


CELLS = [n for n in hub.list_models() if read_entry(n).space in {s.__name__ for s, _ in TINY.values()}]


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


def test_size_of_sparse_cells() -> None:
    """A node with n inputs to choose from takes none, one or two; the first node of a cell takes one."""
    nodes = [1 + 7 * n + 49 * comb(n, 2) for n in range(2, 6)]
    assert space_of("fairdarts").size() == ((nodes[0] - 1) * prod(nodes[1:])) ** 2


def test_limits_of_sparse_cells() -> None:
    space = space_of("fairdarts")
    three = sparse(_0_2="skip_connect", _0_4="skip_connect", _1_4="skip_connect", _2_4="skip_connect")
    with pytest.raises(SpaceError, match="node 4 of cell 'normal' takes at most 2 edges"):
        space.validate(three)
    with pytest.raises(SpaceError, match="node 4 of cell 'normal'"):
        rebuilt(space, three)
    with pytest.raises(SpaceError, match="node 2 of cell 'normal' takes an edge"):
        space.validate(sparse(_0_3="skip_connect"))
    with pytest.raises(SpaceError, match="needs 'none'"):
        FairDARTS(operations=["skip_connect"])


def test_empty_nodes_leave_the_output() -> None:
    space = space_of("fairdarts")
    arch = sparse(_0_2="skip_connect", _3_4="sep_conv_3x3", _0_5="max_pool_3x3", _3_5="sep_conv_3x3")
    model = rebuilt(space, arch)
    assert model.cells[0].num_outputs == 2  # node 3 is empty, so node 4 is, too
    x = images()
    assert model.cells[0]([model.stem0(x), model.stem0(x)]).shape == (2, 2 * 2, 8, 8)
    without = rebuilt(space, {**arch, "normal/3_4": "none", "normal/3_5": "none"})
    shared = {k: v for k, v in model.state_dict().items() if k in without.state_dict()}
    without.load_state_dict(shared)
    torch.testing.assert_close(model.eval()(x), without.eval()(x))  # what reads an empty node reads nothing


@pytest.mark.parametrize("name", ["fairdarts-c", "fairdarts-g"])
def test_published_cells_with_an_empty_node(name: str) -> None:
    model = hub.load(name, width=2, num_cells=4, dataset=DIGITS)
    assert [cell.num_outputs for cell in model.cells] == [3, 4, 4, 3]
