"""NAS-Bench-101 and -201, and the macro space of ENAS: counts, isomorphism, sampling, networks."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spacelang import SpaceError, Supernet, hub, model_context, profile
from spacelang.hub import ENASMacro, NASBench101, NASBench201, from_nasbench101, to_nasbench101
from spacelang.hub.nasbench.matrices import OPERATIONS, CellGraph
from spacelang.hub.nasbench.nasbench201 import OPERATIONS as EDGE_OPERATIONS
from spacelang.hub.nasbench.nasbench201 import unique_name
from spacelang.hub.operations.cell_operations import Zero

from .networks import n_parameters

CONV3, CONV1, POOL = OPERATIONS

# The cell of the benchmark's own example: a 1x1, a 3x3, two stacked 3x3 convolutions and a pool side by side.
INCEPTION_LIKE = (
    [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    ["input", CONV1, CONV3, CONV3, CONV3, POOL, "output"],
)


def wirings(vertices: int, most_edges: int = 9) -> list[tuple[tuple[int, ...], ...]]:
    """Every way to choose the inputs of all vertices such that each but the last is read."""
    subsets = [
        [s for size in range(1, v + 1) for s in itertools.combinations(range(v), size)]
        for v in range(1, vertices)
    ]
    found: list[tuple[tuple[int, ...], ...]] = [()]
    for choices in subsets:
        found = [(*w, s) for w in found for s in choices if sum(map(len, w)) + len(s) <= most_edges]
    return [w for w in found if len(set().union(*w)) == vertices - 1]


def relabelled(vertices: int, graphs: list[tuple[tuple[int, ...], ...]]) -> tuple[np.ndarray, list[Any]]:
    """Every graph as a number under each permutation of inner vertices, (graphs, permutations)."""
    adjacency = np.zeros((len(graphs), vertices, vertices), dtype=bool)
    for k, inputs in enumerate(graphs):
        for vertex, sources in enumerate(inputs, start=1):
            adjacency[k, list(sources), vertex] = True
    weights = (1 << np.arange(vertices**2, dtype=np.int64)).reshape(vertices, vertices)
    inner = range(1, vertices - 1)
    orders = [(0, *order, vertices - 1) for order in itertools.permutations(inner)]
    return np.stack([(adjacency[:, p][:, :, p] * weights).sum((1, 2)) for p in orders], axis=1), orders


def cycles(order: tuple[int, ...]) -> int:
    """Number of cycles of a permutation on inner vertices."""
    left, count = set(order[1:-1]), 0
    while left:
        vertex, count = min(left), count + 1
        while vertex in left:
            left.remove(vertex)
            vertex = order[vertex]
    return count


def classes(vertices: int) -> int:
    """Cells that differ by more than a relabelling, counted with Burnside's lemma."""
    codes, orders = relabelled(vertices, wirings(vertices))
    _, first = np.unique(codes.min(1), return_index=True)
    fixed = codes[first] == codes[first, :1]
    colourings = np.array([len(OPERATIONS) ** cycles(order) for order in orders])
    return int(((fixed * colourings).sum(1) // fixed.sum(1)).sum())


def test_number_of_different_cells() -> None:
    assert sum(map(classes, range(2, 8))) == 423_624


def test_size_counts_isomorphic_cells_apart() -> None:
    counts = {n: len(wirings(n)) * 3 ** (n - 2) for n in range(2, 8)}
    assert NASBench101(width=2, num_cells=1).size() == sum(counts.values())
    for vertices in (2, 3, 4):
        space = NASBench101(width=2, num_cells=1, max_vertices=vertices, max_edges=4)
        expected = sum(len(wirings(n, 4)) * 3 ** (n - 2) for n in range(2, vertices + 1))
        assert space.size() == space.decision_space.size() == len(list(space.grid())) == expected


def test_fingerprints_tell_exactly_the_different_cells_apart() -> None:
    graphs = [
        CellGraph(inputs, operations)
        for n in range(2, 6)
        for inputs in wirings(n)
        for operations in itertools.product(OPERATIONS, repeat=n - 2)
    ]
    assert len(graphs) > 3000
    assert len({graph.fingerprint() for graph in graphs}) == sum(map(classes, range(2, 6)))


def test_hash_is_the_same_for_isomorphic_cells() -> None:
    space, rng = NASBench101(width=2, num_cells=1), np.random.default_rng(0)
    changed = 0
    for _ in range(60):
        arch = space.sample(rng)
        matrix, operations = map(np.array, to_nasbench101(arch))
        inner = rng.permutation(range(1, len(matrix) - 1))
        order = [0, *inner, len(matrix) - 1]
        moved = matrix[order][:, order]
        if (np.tril(moved) == 0).all():
            other = from_nasbench101(moved.tolist(), operations[order].tolist())
            assert space.hash(other) == space.hash(arch)
            changed += other != arch
        else:
            mutant = space.mutate(arch, rng)
            space.validate(mutant)
    assert changed > 3


@pytest.mark.slow
def test_every_architecture_is_equally_likely() -> None:
    space = NASBench101(width=2, num_cells=1, max_vertices=4, max_edges=4)
    rng, size = np.random.default_rng(0), space.size()
    drawn = Counter(repr(sorted(space.sample(rng).items())) for _ in range(100 * size))
    assert len(drawn) == size
    assert max(abs(count - 100) for count in drawn.values()) < 5 * 10


def test_samples_of_the_whole_space_are_valid() -> None:
    space, rng = NASBench101(width=2, num_cells=1), np.random.default_rng(0)
    for _ in range(50):
        arch = space.sample(rng)
        space.validate(arch)
        matrix, _ = to_nasbench101(arch)
        assert sum(map(sum, matrix)) <= 9
        assert all(any(row) for row in matrix[:-1])


def test_limits_of_a_cell() -> None:
    space = NASBench101(width=2, num_cells=1)
    unread = {"cell/num_vertices": 3, "cell/op_1": CONV3, "cell/input_1": [0], "cell/input_2": [0]}
    with pytest.raises(
        SpaceError, match="3 vertices has at most 9 edges, and every vertex but the last is read"
    ):
        space.validate(unread)
    with pytest.raises(SpaceError, match="3 vertices"), model_context(unread):
        space.rebuild()
    full = {f"cell/input_{v}": list(range(v)) for v in range(1, 5)} | {"cell/num_vertices": 5}
    full |= {f"cell/op_{v}": POOL for v in range(1, 4)}
    with pytest.raises(SpaceError, match="at most 9 edges"):
        space.validate(full)
    with pytest.raises(SpaceError, match="max_vertices=8 must be an integer from 2 to 7"):
        NASBench101(max_vertices=8)
    with pytest.raises(SpaceError, match="no stem for 'imagenet'"):
        NASBench101(dataset="imagenet")


def test_parameters_of_the_benchmarks_example() -> None:
    arch = from_nasbench101(*INCEPTION_LIKE)
    assert to_nasbench101(arch) == INCEPTION_LIKE
    with model_context(arch), torch.device("meta"):
        assert n_parameters(NASBench101()) == 2_694_282


def test_channels_are_shared_out_among_what_the_output_reads() -> None:
    graph = CellGraph(((0,), (0, 1), (0,), (1, 2, 3)), (CONV3, CONV3, POOL))
    assert graph.channels(8) == [0, 3, 3, 2, 8]
    deep = CellGraph(((0,), (1,), (0, 1), (2, 3)), (CONV3, CONV3, POOL))
    assert deep.channels(9) == [0, 5, 5, 4, 9]  # the first has as many as the widest that reads it
    assert CellGraph(((0,),), ()).channels(4) == [0, 4]


def test_a_cell_computes_its_graph() -> None:
    """Against sums and concatenations written out."""
    arch = from_nasbench101(
        [[0, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5],
        ["", CONV3, POOL, CONV1, ""],
    )
    with model_context(arch):
        cell: Any = NASBench101(width=8, num_cells=1, dataset=(1, 8, 5)).eval().layers[1]
    x = torch.randn(2, 8, 8, 8)
    into = {v: cell.projections[v](x) for v in "1234"}
    first = cell.operations["1"][CONV3](into["1"])
    second = cell.operations["2"][POOL](into["2"] + first[:, :3])
    third = cell.operations["3"][CONV1](into["3"])
    assert [t.shape[1] for t in (first, second, third)] == [3, 3, 2]
    expected = into["4"] + torch.cat([first, second, third], dim=1)
    torch.testing.assert_close(cell(x), expected)


def test_vertices_without_effect_are_left_out() -> None:
    matrix = [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0] * 5]
    arch = from_nasbench101(matrix, ["", CONV1, CONV3, POOL, ""])
    assert arch == {"cell/num_vertices": 3, "cell/op_1": CONV1, "cell/input_1": [0], "cell/input_2": [1]}


@pytest.mark.parametrize(
    ("matrix", "operations", "expected"),
    [
        ([[0, 0], [0, 0]], ["", ""], "no edges lead from the first vertex to the last"),
        ([[0, 1], [1, 0]], ["", ""], "upper triangular"),
        ([[0, 1]], ["", ""], "need a 2 x 2 matrix"),
        ([[0]], [""], "two at least"),
        (
            [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
            ["", "conv3x3", ""],
            "operation='conv3x3' must .*Closest",
        ),
    ],
)
def test_wrong_matrices(matrix: list[list[int]], operations: list[str], expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        from_nasbench101(matrix, operations)


def test_one_graph_at_a_time() -> None:
    space = NASBench101(width=4, num_cells=1, dataset=(1, 8, 5))
    supernet = Supernet(space)
    assert len(supernet.soft_refusals()) == 3
    with pytest.raises(SpaceError, match=r"one at a time.*call supernet\.select"):
        supernet(torch.randn(2, 1, 8, 8))
    assert profile(space.freeze(space.default()), torch.randn(1, 1, 8, 8)).macs > 0


# -- NAS-Bench-201 -------------------------------------------------------------------------------------

EDGES = [f"cell/{source}_{node}" for node in range(1, 4) for source in range(node)]


def test_number_of_different_edge_cells() -> None:
    every = [
        dict(zip(EDGES, operations, strict=True))
        for operations in itertools.product(EDGE_OPERATIONS, repeat=6)
    ]
    assert len(every) == NASBench201(width=2, num_cells=1).size() == 15_625
    assert len({unique_name(arch) for arch in every}) == 6_466
    assert len({unique_name(arch, zeros=False) for arch in every}) == 12_751


def test_search_networks_of_the_benchmark() -> None:
    space = NASBench201(width=2, num_cells=1, dataset=(1, 8, 5), affine=False)
    norms = [name for name, m in space.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    assert norms == ["stem.1", "head.0"]
    assert [d.label for d in space.decisions] == EDGES
    assert NASBench201(width=2, num_cells=1, dataset=(1, 7, 5))(torch.randn(2, 1, 7, 7)).shape == (2, 5)
    with pytest.raises(SpaceError, match="no stem for 'imagenet'"):
        NASBench201(dataset="imagenet")


# -- ENAS, macro ---------------------------------------------------------------------------------------


def test_size_of_the_macro_space() -> None:
    assert ENASMacro(width=2, num_layers=6).size() == 6**6 * 2**15


def test_the_published_macro_network() -> None:
    arch = hub.architecture("enas-macro-24l")
    assert [arch[f"layer_{i}/op"] for i in range(4)] == ["conv_3x3", "sep_conv_5x5", "conv_3x3", "conv_5x5"]
    assert [arch[f"layer_3/skip_{j}"] for j in range(3)] == [0, 0, 1]
    assert len(arch) == 24 + 24 * 23 // 2
    model = hub.load("enas-macro-24l", width=4)
    skips = sum(not isinstance(skip, Zero) for layer in model.layers for skip in layer.skips)
    assert skips == sum(value for label, value in arch.items() if "skip" in label) == 98
    sizes: list[int] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [32] * 8 + [16] * 8 + [8] * 8


def test_wrong_macro_arguments() -> None:
    for arguments, expected in [
        ({"num_layers": 2}, "at least 3"),
        ({"dataset": "imagenet"}, "no stem"),
        ({"width": 3}, "even"),
        ({"width": 0}, "width"),
    ]:
        with pytest.raises(SpaceError, match=expected):
            ENASMacro(**arguments)  # type: ignore[arg-type]
