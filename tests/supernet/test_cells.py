"""Cells of every form: what they compute, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacelang import Cell, ModelSpace, SpaceError, Supernet, model_context, profile
from spacelang.costs import expected_cost
from spacelang.results.cell_pictures import (
    picture_of_architecture,
    picture_of_space,
    picture_of_supernet,
)

from ..toys.cells import TRIANGLE, C, EdgeConv, Edges, Gin, GraphNet, Recurrent, States
from ..toys.spaces import architectures

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def _features(count: int = 1, width: int = C) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, width, generator=generator, **DOUBLE) for _ in range(count))


SPACES: dict[str, tuple[Callable[[], ModelSpace], tuple[Tensor, ...]]] = {
    "edges": (Edges, _features()),
    "list": (lambda: Edges([3, 1], distinct_inputs=True), _features()),
    "loose ends": (lambda: Edges("loose_end"), _features()),
    "graph": (GraphNet, (_features(width=3)[0][:3], TRIANGLE)),
    "recurrent": (Recurrent, _features(2)),
    "normalised": (lambda: Recurrent(norm=True), _features(2)),
    "tuples": (States, _features()),
    "dicts": (lambda: States(dict, "mean"), _features()),
    "joined dicts": (lambda: States(dict, "all"), _features()),
}


@pytest.mark.parametrize("name", SPACES)
def test_selected_frozen_and_built_they_are_one_model(name: str) -> None:
    make, inputs = SPACES[name]
    space = make().double()
    supernet = Supernet(space)
    costs = {metric: expected_cost(space, metric, inputs) for metric in ("params", "flops")}
    for arch in architectures(space, 4):
        supernet.select(arch)
        output = supernet(*inputs)
        frozen = supernet.freeze(arch)
        with model_context(arch):
            built = make().double()
        built.load_state_dict(frozen.state_dict())
        for model in (frozen, space.freeze(arch), built):
            assert torch.equal(model(*inputs), output)
        assert costs["params"].of(arch) == sum(p.numel() for p in frozen.parameters())
        assert costs["flops"].of(arch) == profile(frozen, inputs).flops


# -- graphs ------------------------------------------------------------------------------------------------


def test_operations_on_a_graph_are_those_worked_by_hand() -> None:
    x = torch.tensor([[1, -2], [0.5, 3], [-1, 0.25]], **DOUBLE)
    gin, edge = Gin(2).double(), EdgeConv(2).double()
    with torch.no_grad():
        gin.linear.weight.copy_(torch.eye(2))
        edge.linear.weight.copy_(torch.tensor([[1, 0, 0.5, -1], [0, 1, -0.5, 2]]))
    assert gin(x, TRIANGLE).tolist() == [[0.5, 1.25], [0.5, 1.25], [-0.5, 3.25]]
    assert edge(x, TRIANGLE).tolist() == [[-2.25, 8.25], [5.75, -1.75], [-3, 5]]


def test_a_cell_of_a_graph_joins_an_input_and_its_nodes() -> None:
    space = GraphNet().double()
    assert space.size() == 1 * 9 * 3 * 9 * 6 * 9  # two of 2, 3, 4 inputs, each with one of 3 operations
    assert space.cell.num_outputs == 4
    x, arch = torch.randn(3, 3, **DOUBLE), space.default()
    stem = space.stem(x)
    first, second = stem, stem.tanh()
    node = first + second  # every node skips from both inputs
    expected = space.head(torch.cat([second, node, node, node], dim=1))
    assert torch.equal(space.freeze(arch)(x, TRIANGLE), expected)
    into = [(s, edge["position"]) for s, t, edge in space.graph.edges(data=True) if t == "cell/out"]
    assert into == [("cell/in_1", 0), ("cell/node_2", 1), ("cell/node_3", 2), ("cell/node_4", 3)]
    traced = space.trace(x, TRIANGLE)
    assert {"cell/in_0", "cell/in_1"} <= set(traced.successors("input_1"))


def test_every_candidate_of_a_graph_runs_apart_and_says_why() -> None:
    plan = Supernet(GraphNet()).plan
    assert "apart   edge: 0 -> 2, 3, 4 (it is a EdgeConv)" in plan


def test_an_operation_that_takes_no_further_arguments_fails_in_every_form() -> None:
    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell({"skip": nn.Identity(), "relu": nn.ReLU()}, 1, label="cell")

        def forward(self, x: Tensor) -> Any:
            return self.cell(x, x)

    space, x = Net(), torch.ones(2, 3)
    supernet = Supernet(space)
    for model in (space, supernet, space.freeze(space.default())):
        with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
            model(x)


# -- recurrent cells ---------------------------------------------------------------------------------------


def _worked(num_nodes: int, norm: bool = False) -> tuple[Recurrent, tuple[Tensor, Tensor]]:
    """Return the cell and the inputs of a worked example: weights (r, c) of .1 sin(1 + s + 3i + 7j)."""

    def weights(rows: int, columns: int, s: int) -> Tensor:
        i, j = torch.arange(rows, **DOUBLE)[:, None], torch.arange(columns, **DOUBLE)
        return 0.1 * torch.sin(1 + s + 3 * i + 7 * j)

    space = Recurrent(num_nodes, width=2, norm=norm).double()
    projection: Any = space.cell.frame.projection
    with torch.no_grad():
        space.first.weight.copy_(weights(4, 4, 0).T)
        for node, halves in enumerate(projection, start=1):
            halves.linear.weight.copy_(weights(2, 4, node).T)
    return space, (torch.tensor([[0.5, -1]], **DOUBLE), torch.tensor([[0.2, 0.4]], **DOUBLE))


def _genotype(text: str) -> dict[str, Any]:
    arch: dict[str, Any] = {}
    for node, gene in enumerate(text.split(), start=1):
        arch[f"cell/op_{node}_0"], arch[f"cell/input_{node}_0"] = gene[:-1], int(gene[-1])
    return arch


# Numbers: the recurrent cell of DARTS (arXiv:1806.09055, appendix), computed with numpy from its equations.
GENOTYPES = {
    "relu0 relu1 tanh2 relu3 relu4 identity1 relu5 relu1": (0.0265548013, 0.0358835868),
    "sigmoid0 relu1 relu1 identity1 tanh2 sigmoid5 tanh3 relu5": (0.1618905911, 0.1717441392),
}


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_recurrent_cells_of_the_paper(genotype: str) -> None:
    space, inputs = _worked(8)
    assert space.size() == 40320 * 4**8  # 8! predecessors, 4 activations each
    arch = _genotype(genotype)
    assert space.freeze(arch)(*inputs)[0].tolist() == pytest.approx(GENOTYPES[genotype], abs=1e-10)


def test_a_mixture_of_recurrent_cells() -> None:
    """With the zero operation in the softmax, alpha[e, k] = 2 sin(1 + e + 4k + 3ek), 36 edges, 5 columns."""
    space, inputs = _worked(8)
    e, k = torch.arange(36, **DOUBLE)[:, None], torch.arange(5, **DOUBLE)
    weights = (2 * torch.sin(1 + e + 4 * k + 3 * e * k)).softmax(dim=1)[:, 1:]
    supernet = Supernet(space)
    supernet.set_mixture({"cell": weights})
    assert supernet(*inputs)[0].tolist() == pytest.approx((0.8180916765, 0.8786809906), abs=1e-10)


def test_a_node_is_projected_once_for_all_candidates_of_an_edge() -> None:
    space, inputs = _worked(2)
    supernet, calls = Supernet(space), list[int]()
    cell: Any = supernet.network.cell
    for node, halves in enumerate(cell.frame.projection, start=1):
        halves.register_forward_hook(lambda *_, node=node: calls.append(node))
    supernet(*inputs)
    assert calls == [1, 2, 2]
    assert "tanh: 0 -> 1, 2 (each node projects what it reads)" in supernet.plan


def test_a_batch_norm_given_as_a_module_is_one_for_all_nodes() -> None:
    space, _ = _worked(3, norm=True)
    supernet = Supernet(space)
    cell: Any = supernet.network.cell
    supernet.train()(*_features(2, width=2))
    (norm,) = cell.frame.node_postprocessor
    assert norm.num_batches_tracked == 3  # one module, once for each of three nodes


def test_nodes_of_a_mean_may_be_exchanged_and_those_of_a_concatenation_not() -> None:
    one = _genotype("tanh0 relu0 sigmoid2")
    other = _genotype("relu0 tanh0 sigmoid1")
    mean = Recurrent(3)
    assert mean.hash(one) == mean.hash(other)
    assert mean.hash(one) != mean.hash(_genotype("relu0 tanh0 sigmoid2"))
    space = GraphNet()
    arch = space.default()
    swapped = arch | {"cell/op_2_0": "gin"}, arch | {"cell/op_3_0": "gin"}
    assert space.hash(swapped[0]) != space.hash(swapped[1])


# -- edges with candidates of their own --------------------------------------------------------------------


def test_each_edge_has_its_candidates() -> None:
    space = Edges()
    # Two slots of 4 (input, operation) pairs each, in any order, for both nodes: 10 * 10.
    assert space.size() == sum(1 for _ in space.grid()) == 100
    assert Edges(distinct_inputs=True).size() == 4 * 4
    operations = {d.label: d.candidates for d in space.decisions}
    assert operations["cell/op_2_0"] == ("linear", "skip", "tanh")
    edges = {(s, t): k for s, t, k in space.graph.edges(keys=True) if t == "cell/node_3"}
    assert set(edges) == {("cell/in_1", "cell/node_3"), ("cell/node_2", "cell/node_3")}
    group = Supernet(space).groups["cell"]
    assert group.columns == ("linear", "skip", "tanh")
    assert [sum(row) for row in group.alive] == [2, 2, 0, 2, 2]
    with pytest.raises(
        SpaceError, match="'cell/op_3_0' must be a candidate of the edge from 'cell/input_3_0'; 0: "
    ):
        space.validate(space.default() | {"cell/input_3_0": 0})
    with (
        model_context(space.default() | {"cell/op_2_0": "tanh"}),
        pytest.raises(SpaceError, match="cell/op_2_0"),
    ):
        Edges()


def test_what_an_edge_lacks_stays_away_when_others_are_pruned() -> None:
    space, (x,) = Edges().double(), _features()
    supernet = Supernet(space)
    supernet.prune({"cell": [[True, True, False], [True, True, True], *[[True] * 3] * 3]})  # tanh on 0 -> 2
    assert [sum(row) for row in supernet.groups["cell"].alive] == [2, 2, 0, 2, 2]
    supernet.prune({"cell": [[True] * 3, [True, False, True], *[[True] * 3] * 3]})  # skip on 1 -> 2
    assert [sum(row) for row in supernet.groups["cell"].alive] == [2, 1, 0, 2, 2]
    assert supernet(x).shape == (5, 2 * C)
    edges = Counter(target for _, target, kind in supernet.graph.edges(data="kind") if kind == "candidate")
    assert edges == {"cell/node_2": 3, "cell/node_3": 4}
    with pytest.raises(SpaceError, match="candidate 'skip' on edge 1->2 was pruned"):
        supernet.select(space.default() | {"cell/op_2_0": "skip", "cell/input_2_0": 1})


class Apart(ModelSpace):
    """Two edges into one node that have no candidate in common."""

    def __init__(self) -> None:
        super().__init__()
        offered = {0: ["a", "b"], 1: ["c", "d", "e"]}
        self.cell = Cell(
            lambda node, source: {name: nn.Identity() for name in offered[source]}, 1, 1, 2, label="cell"
        )


def test_an_operation_gives_way_where_its_slot_reads_another_edge() -> None:
    space, rng = Apart(), np.random.default_rng(0)
    found = {tuple(near.values()) for near in space.neighbours({"cell/op_2_0": "a", "cell/input_2_0": 0})}
    assert found == {("b", 0), ("c", 1)}
    arch, seen = space.default(), set()
    for _ in range(60):
        arch = space.mutate(arch, rng)
        seen.add(tuple(arch.values()))
    assert len(seen) == space.size() == 5
    for _ in range(20):
        child = space.crossover(
            {"cell/op_2_0": "a", "cell/input_2_0": 0}, {"cell/op_2_0": "e", "cell/input_2_0": 1}, rng
        )
        space.validate(child)


def test_candidates_are_made_for_the_edge_alone_that_a_model_has() -> None:
    made: list[tuple[int, int | None, int]] = []

    def layer(node: int, slot: int | None, source: int) -> nn.Module:
        made.append((node, slot, source))
        return nn.Identity()

    def cell() -> Any:
        return Cell(lambda node, source: {f"from_{source}": layer}, 2, 1, 1, label="cell")

    arch = {"cell/op_1_0": "from_0", "cell/input_1_0": 0, "cell/op_2_0": "from_1", "cell/input_2_0": 1}
    with model_context(arch):
        cell()
    assert made == [(1, 0, 0), (2, 0, 1)]


def test_merges_and_candidates_that_cannot_be_are_refused() -> None:
    operations = {"skip": nn.Identity()}
    for merge_op in ([], [0, 0], [4], ["1"], "middle", 3):
        with pytest.raises(SpaceError, match="merge_op"):
            Cell(operations, 2, 1, 2, merge_op=merge_op, label="cell")  # type: ignore[arg-type]
    with pytest.raises(
        SpaceError, match="op_candidates gives 0 of the edges into node 2 candidates; at least 1"
    ):
        Cell(lambda node, source: operations if node == 1 else {}, 2, label="cell")
    with pytest.raises(
        SpaceError, match=r"op_candidates of the edge 0->1 is <lambda>\(node\), but a factory gets 2"
    ):
        Cell(lambda node: operations, 2, label="cell")  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(("merge_op", "joined"), [("mean", [2, 3]), ("sum", [2, 3]), ([2, 0], [0, 2])])
def test_what_a_cell_joins_is_drawn(merge_op: Any, joined: list[int]) -> None:
    space = Edges(merge_op, distinct_inputs=True)
    chosen = picture_of_architecture(space.default(), space)
    for picture in (picture_of_space(space), picture_of_supernet(Supernet(space)), chosen):
        (cell,) = picture.cells
        output = [node.kind for node in cell.nodes].index("output")
        assert sorted(edge.source for edge in cell.edges if edge.target == output) == joined


# -- calls -------------------------------------------------------------------------------------------------


def test_inputs_come_one_by_one_or_as_a_list_and_a_tuple_may_be_a_state() -> None:
    x, shift = torch.ones(1, C), torch.zeros(1, C)
    cell: Any = States().cell
    state = (x, x)
    for output in (cell(state, shift), cell([state], shift), cell(state, shift=shift)):
        assert [tuple(part.shape) for part in output] == [(1, C), (1, C)]
    two = Edges().cell
    assert torch.equal(two(x, x), two([x, x]))
    assert torch.equal(two(x, x), two((x, x)))
    with pytest.raises(SpaceError, match="cell 'cell' takes 2 inputs; got 1"):
        two(x)
