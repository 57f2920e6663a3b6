"""`GraphCells`: the operations in numbers, their two forms, counts of the paper's networks, searches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import SpaceError, hub
from spacelang.hub import GraphCells
from spacelang.hub.graphs import graph_operations as op
from spacelang.hub.graphs.neighbours import Edges, Nearest
from spacelang.hub.graphs.sgas_cells import NodeHead
from spacelang.hub.published import read_entry

DOUBLE: dict[str, Any] = {"dtype": torch.float64}

# The worked example: three nodes, edges j -> i, computed with numpy from the equations.
X = torch.tensor([[1, -2], [0.5, 3], [-1, 0.25]], **DOUBLE)
EDGES = torch.tensor([[1, 2, 0, 2, 1], [0, 0, 1, 1, 2]])
W = torch.tensor([[0.5, -1], [2, 0.25]], **DOUBLE)
W2 = torch.tensor([[1, 0], [0, 1], [0.5, -0.5], [-1, 2]], **DOUBLE)
GRAPH = Edges(EDGES, 3)


def bare(operation: nn.Module) -> nn.Module:
    """The operation without ReLU and batch norm, its matrices those of the example."""
    for module in operation.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.BatchNorm1d):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Linear):
                weight = W2 if child.in_features == 4 else W
                child.weight = nn.Parameter(weight.T.clone())
    return operation.double()


def attention() -> nn.Module:
    made: Any = op.Attention(2, points=False)
    made = bare(made)
    made.own.weight = nn.Parameter(torch.tensor([[0.3, -0.2]], **DOUBLE))
    made.other.weight = nn.Parameter(torch.tensor([[0.1, 0.4]], **DOUBLE))
    return made  # type: ignore[no-any-return]


WORKED: dict[str, tuple[Callable[[], Any], list[tuple[float, float]]]] = {
    "edge_conv": (lambda: bare(op.EdgeConv(2))(X, GRAPH), [(-2.25, 8.25), (5.75, -1.75), (-3, 5)]),
    "mr_conv": (
        lambda: GRAPH.max(GRAPH.other(X) - GRAPH.own(X)),
        [(-0.5, 5), (0.5, -2.75), (1.5, 2.75)],
    ),
    "gin": (lambda: X + GRAPH.sum(GRAPH.other(X)), [(0.5, 1.25), (0.5, 1.25), (-0.5, 3.25)]),
    "sage": (
        lambda: GRAPH.looped.mean(GRAPH.looped.other(X @ W)),
        [(0.9166666667, -0.0625), (0.9166666667, -0.0625), (3.125, 0.65625)],
    ),
    "rel_sage": (
        lambda: GRAPH.looped.mean((GRAPH.looped.other(X) - GRAPH.looped.own(X)) @ W),
        [(4.4166666667, 1.4375), (-5.3333333333, -0.3125), (3.125, -0.40625)],
    ),
    "semi_gcn": (
        lambda: bare(op.SemiGCN(2, points=False))(X, GRAPH),
        [(0.9166666667, 0.0170971420), (0.9166666667, 0.0170971420), (2.5515518154, 0.6333120727)],
    ),
    "gat": (
        lambda: attention()(X, GRAPH),
        [(1.4099254842, 0.0668463785), (2.9014806142, 0.3921719500), (3.5902657301, 0.5957654551)],
    ),
}


@pytest.mark.parametrize("name", WORKED)
def test_operations_of_the_worked_example(name: str) -> None:
    compute, expected = WORKED[name]
    torch.testing.assert_close(compute(), torch.tensor(expected, **DOUBLE), rtol=0, atol=1e-10)


def test_the_readout_appends_the_mean_of_channels() -> None:
    head = NodeHead(2, 3).double()
    seen: list[Tensor] = []
    head.linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    head(X)
    assert seen[0][:, 2].tolist() == [-0.5, 1.75, -0.375]


@pytest.mark.parametrize("relative", [False, True])
def test_sage_normalises_what_it_computes_from_both(relative: bool) -> None:
    operation = bare(op.Sage(2, points=False, relative=relative))
    found = torch.tensor(WORKED["rel_sage" if relative else "sage"][1], **DOUBLE)
    y = torch.cat([X, found], dim=1) @ W2
    torch.testing.assert_close(operation(X, GRAPH), y / y.norm(dim=1, keepdim=True), rtol=0, atol=1e-9)


def test_a_node_that_nobody_reaches_gets_zeros() -> None:
    lonely = Edges(EDGES, 4)
    x = torch.cat([X, torch.ones(1, 2, **DOUBLE)])
    messages = lonely.other(x)
    for reduced in (lonely.sum(messages), lonely.mean(messages), lonely.max(messages)):
        assert reduced[3].tolist() == [0, 0]
    assert attention()(x, lonely)[3].tolist() == pytest.approx((x[3] @ W).tolist())  # itself alone


def test_loops_that_a_graph_has_are_not_doubled() -> None:
    looped = Edges(torch.cat([EDGES, torch.tensor([[0], [0]])], dim=1), 3)
    operation = attention()
    torch.testing.assert_close(operation(X, looped), operation(X, GRAPH), rtol=0, atol=1e-14)


# -- points ------------------------------------------------------------------------------------------------


def test_nearest_points_and_their_dilation() -> None:
    """On a line at 0, 1, 3, 7: the point itself first, then by distance."""
    line = torch.tensor([0.0, 1, 3, 7])[None, :, None]
    assert Nearest.of(line, 3).index[0].tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]]
    assert Nearest.of(line, 2, dilation=2).index[0].tolist() == [[0, 2], [1, 2], [2, 0], [3, 1]]
    twins = torch.zeros(1, 3, 1)
    assert Nearest.of(twins, 2).index[0, :, 0].tolist() == [0, 1, 2]  # a point at the same place is another


def test_both_forms_agree_where_they_compute_the_same() -> None:
    """Points with all others as neighbours, against the complete graph."""
    x = torch.randn(1, 4, 2, **DOUBLE, generator=torch.Generator().manual_seed(0))
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    graph = Edges(pairs[pairs[:, 0] != pairs[:, 1]].T, 4)
    points = Nearest.of(x, 4)
    for make in (op.EdgeConv, op.MaxRelative, op.Isomorphism, op.Conv1x1):
        torch.manual_seed(0)
        operation = make(2).double().eval()
        torch.testing.assert_close(operation(x, points)[0], operation(x[0], graph), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sage", "rel_sage"])
def test_sage_on_points_takes_the_largest(name: str) -> None:
    """Written out for each point; ReLU of messages and of the result, no batch norm."""
    x = torch.randn(1, 4, 2, **DOUBLE, generator=torch.Generator().manual_seed(0))
    operation: Any = op.OPERATIONS[name](2, True).double()
    points = Nearest.of(x, 3)
    for i in range(4):
        others = x[0, points.index[0, i]] - (x[0, i] if name == "rel_sage" else 0)
        largest = operation.first(others).relu().amax(0)
        y = operation.last(torch.cat([x[0, i], largest]))
        torch.testing.assert_close(operation(x, points)[0, i], y / y.norm().clamp(min=1e-12))


# -- networks ----------------------------------------------------------------------------------------------


def closed_form(entry: Any, **overrides: Any) -> int:
    """Parameters by the sizes of the paper's operations alone."""
    given = {"num_cells": 1, "form": "graph", **entry.arguments, **overrides}
    c, cells, points = given["width"], given["num_cells"], given["form"] == "points"
    square, norm = c * c, 0 if points else 2 * c
    sizes = {
        "skip_connect": 0,
        "conv_1x1": square + 2 * c,
        "gin": square + 2 * c,
        "semi_gcn": square + 2 * c,
        "gat": square + 4 * c,
        "edge_conv": 2 * square + 2 * c,
        "mr_conv": 2 * square + 2 * c,
        "sage": 3 * square + norm,
        "rel_sage": 3 * square + norm,
    }
    operations = [value for label, value in entry.architecture.items() if "/op_" in label]
    inputs = [3 * c, 3 * c, *[4 * c] * cells]
    total = (3 if points else 50) * 3 * c + 6 * c
    for older, newer in itertools.pairwise(inputs[:-1]):
        total += (older + newer) * c + 4 * c + sum(sizes[name] for name in operations)
    if not points:
        return int(total + (4 * c + 1) * 121 + 121)
    total += (3 * c + 4 * c * cells) * 1024 + 2 * 1024
    return int(total + 2048 * 512 + 3 * 512 + 512 * 256 + 3 * 256 + 256 * 40 + 40)


ENTRIES = [*hub.list_models("sgas-cri?-ppi-*"), *hub.list_models("sgas-cri?-modelnet-*")]


@pytest.mark.parametrize("name", ENTRIES)
def test_counts_of_published_cells(name: str) -> None:
    entry = read_entry(name)
    for row in entry.counts:
        assert row["parameters"] == closed_form(entry, **row["arguments"])
        with torch.device("meta"):
            model = hub.load(name, **row["arguments"])
        assert sum(p.numel() for p in model.parameters()) == row["parameters"]


def test_counts_of_the_paper_s_networks() -> None:
    """Of the authors' code, instantiated."""
    assert len(ENTRIES) == 40
    expected = {
        "sgas-cri1-ppi-10": [23_175_410, 402_674],
        "sgas-cri2-ppi-2": [28_418_290, 484_594],
        "sgas-cri2-modelnet-4": [8_491_432, 3_857_320],
        "sgas-cri1-modelnet-9": [8_634_280, 3_904_936],
    }
    for name, counts in expected.items():
        assert [row["parameters"] for row in read_entry(name).counts] == counts
    with torch.device("meta"):
        ppi, modelnet = GraphCells(), GraphCells(num_cells=2, form="points", num_classes=10)
    assert ppi.size() == 9_565_938
    assert sum(p.numel() for p in ppi.parameters()) == 161_202
    assert sum(p.numel() for p in modelnet.parameters()) == 1_827_178


def small(**arguments: Any) -> Any:
    torch.manual_seed(0)
    space = GraphCells(**{"width": 4, "in_features": 2, "num_classes": 3, **arguments}).double()
    return space.freeze(space.default() | {"cell/op_2_0": "edge_conv", "cell/op_4_1": "gat"})


def test_nodes_have_no_order() -> None:
    model, order = small().eval(), torch.tensor([2, 0, 1])
    inverse = order.argsort()
    torch.testing.assert_close(model(X[order], inverse[EDGES]), model(X, EDGES)[order], rtol=0, atol=1e-12)


def test_points_have_no_order_and_either_shape() -> None:
    model = small(form="points", in_features=3, num_cells=2, neighbours=3).eval()
    x = torch.randn(2, 3, 8, **DOUBLE, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    assert expected.shape == (2, 3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x[:, :, order]), expected, rtol=0, atol=1e-12)
    assert torch.equal(model(x[..., None]), expected)


def test_data_of_other_libraries() -> None:
    model = small().eval()
    assert torch.equal(model(SimpleNamespace(x=X, edge_index=EDGES)), model(X, EDGES))


def test_data_of_torch_geometric() -> None:
    data = pytest.importorskip("torch_geometric.data")
    model = small().eval()
    one = data.Data(x=X, edge_index=EDGES)
    two = data.Batch.from_data_list([one, one])
    torch.testing.assert_close(model(two), model(X, EDGES).repeat(2, 1), rtol=0, atol=1e-12)


def test_layers_of_torch_geometric() -> None:
    """The same weights in their GATConv, GCNConv and the maximum of EdgeConv."""
    layers = pytest.importorskip("torch_geometric.nn")
    gat, gcn = layers.GATConv(2, 2, bias=False).double(), layers.GCNConv(2, 2, bias=False).double()
    edge = layers.EdgeConv(nn.Linear(4, 2, bias=False)).double()
    ours: Any = attention()
    with torch.no_grad():
        gat.lin.weight.copy_(W.T)
        gat.att_dst.copy_(ours.own.weight[None])
        gat.att_src.copy_(ours.other.weight[None])
        gcn.lin.weight.copy_(W.T)
        edge.nn.weight.copy_(W2.T)
    for theirs, own in ((gat, ours), (gcn, bare(op.SemiGCN(2, False))), (edge, bare(op.EdgeConv(2)))):
        torch.testing.assert_close(theirs(X, EDGES), own(X, GRAPH), rtol=0, atol=1e-12)


def test_what_a_graph_needs() -> None:
    with pytest.raises(SpaceError, match=r"model\(x, edge_index\) .* got x \(3, 2\) and no edges"):
        small()(X)
    with pytest.raises(SpaceError, match=r"operations.*Closest: 'gat'"):
        GraphCells(operations=["gatt"])


def test_drop_path_drops_nodes() -> None:
    """All but the skip connection, which begins every node of this architecture's other slots."""
    model = small(drop_path_prob=0.5)
    assert [type(part).__name__ for part in model.modules()].count("Dropped") == 2
    model.set_drop_path_prob(0.25)
    assert {part.p for part in model.modules() if type(part).__name__ == "DropPath"} == {0.25}
    with pytest.raises(SpaceError, match="without drop path"):
        small().set_drop_path_prob(0.1)
    dropped: Any = op.Dropped(op.Conv1x1(2), 0.5)
    torch.manual_seed(0)
    y = dropped.train()(torch.randn(100, 2), GRAPH)
    assert 20 < (y == 0).all(dim=1).sum() < 80
