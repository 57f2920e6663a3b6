"""The graph of a supernet."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch

from spacelang import ModelSpace, Supernet
from spacelang.graph import architecture_graph

Make = Callable[..., ModelSpace]


def test_a_selected_path_weighs_one(make: Make) -> None:
    for name in ("Layers", "Inputs", "Depths", "SharedCells", "LooseEnds", "NestedCells", "Widths"):
        space = make(name)
        supernet, rng = Supernet(space), np.random.default_rng(0)
        for arch in (space.sample(rng) for _ in range(5)):
            supernet.select(arch)
            graph = supernet.graph
            chosen = architecture_graph(space, arch)
            kept = {(s, t, k): d.get("count", 1) for s, t, k, d in chosen.edges(keys=True, data=True)}
            for s, t, k, data in graph.edges(keys=True, data=True):
                if (s, t, k) in kept:
                    assert data["weight"] == kept[s, t, k], (name, s, t, k)
                elif data["kind"] in ("candidate", "block") and "condition" not in graph.nodes[s]:
                    assert data["weight"] == 0, (name, s, t, k)


def test_the_mixture_is_the_weight(make: Make) -> None:
    supernet = Supernet(make("Depths"))
    supernet.set_mixture(
        {
            "depth": torch.tensor([[0.5, 0.3, 0.2]]),
            "x": torch.tensor([[0.25, 0.75]]),
            "y": torch.tensor([[0.5, 0.5]]),
        }
    )
    graph = supernet.graph
    assert graph["depth/block_0"]["depth/out"]["1"]["weight"] == pytest.approx(0.3)
    assert graph["depth/in"]["depth/block_0"]["block_0"]["weight"] == pytest.approx(0.5)
    assert graph["sum/block_1"]["sum/out"]["2"]["weight"] == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    assert graph["depth/block_0"]["op1/in"]["contains:block_1"]["weight"] == pytest.approx(0.2)


def test_pruned_edges_are_gone_with_what_hangs_on_them(make: Make) -> None:
    supernet = Supernet(make("Layers"))
    assert {"inner/in", "inner/out"} <= set(supernet.graph)
    supernet.prune({"first": [[True, False]]})
    graph = supernet.graph
    assert list(graph["first/in"]["first/out"]) == ["plain"]
    assert not {"inner/in", "inner/out"} & set(graph)
    supernet = Supernet(make("Depths"))
    supernet.prune({"depth": [[True, True, False]]})
    assert "depth/block_1" not in supernet.graph
    assert "op1/in" not in supernet.graph


def test_the_graph_of_the_space_is_not_changed(make: Make) -> None:
    space = make("SharedCells")
    before = space.graph
    supernet = Supernet(space)
    supernet.prune({"cell": [[True, False]] * 5})
    assert supernet.graph.number_of_edges() == before.number_of_edges() - 5
    assert nx.utils.graphs_equal(space.graph, before)
