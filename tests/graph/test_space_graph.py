"""The graph of a space as it is declared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
import torch

from spacelang import LayerChoice, ModelSpace, Supernet
from spacelang.graph import architecture_graph, space_graph

Make = Callable[..., ModelSpace]


def edges(graph: nx.MultiDiGraph, kind: str) -> list[tuple[str, str, str]]:
    return [(s, t, k) for s, t, k, d in graph.edges(keys=True, data=True) if d["kind"] == kind]


def test_every_decision_is_in_the_graph(space: ModelSpace) -> None:
    graph = space.graph
    named = {x for _, _, data in graph.edges(data=True) for x in json.loads(data.get("decisions", "[]"))}
    named |= {x for _, data in graph.nodes(data=True) for x in json.loads(data.get("decisions", "[]"))}
    assert named == {decision.label for decision in space.decisions}


def test_networkx_algorithms_work_as_they_are(space: ModelSpace, example: torch.Tensor) -> None:
    for graph in (space.graph, space.trace(example)):
        assert nx.is_directed_acyclic_graph(graph)
        assert len(list(nx.topological_sort(graph))) == len(graph)
        assert nx.is_isomorphic(graph, copy.deepcopy(graph))
        assert set(nx.multipartite_layout(_layered(graph), subset_key="layer")) == set(graph)
        data = json.loads(json.dumps(nx.node_link_data(graph, edges="edges")))
        again = nx.node_link_graph(data, edges="edges")
        assert nx.utils.graphs_equal(again, graph)
        assert nx.parse_gml(list(nx.generate_gml(graph))).number_of_edges() == graph.number_of_edges()


@pytest.mark.parametrize("kind", ["graphml", "gexf"])
def test_networkx_writes_it_in_every_format(
    space: ModelSpace, example: torch.Tensor, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / f"space.{kind}"
    for graph in (space.graph, space.trace(example)):
        getattr(nx, f"write_{kind}")(graph, file)
        text = file.read_text()
        assert text.count("<node ") == len(graph)
        assert text.count("<edge ") == graph.number_of_edges()
    again = nx.read_graphml(file) if kind == "graphml" else None
    assert again is None or {n: again.nodes[n]["type"] for n in again} == dict(graph.nodes(data="type"))


def _layered(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    graph = graph.copy()
    for layer, names in enumerate(nx.topological_generations(graph)):
        for name in names:
            graph.nodes[name]["layer"] = layer
    return graph


def test_so_it_does_with_the_weights_of_a_supernet(make: Make, tmp_path: Path) -> None:
    nx.write_graphml(Supernet(make("Layers")).graph, tmp_path / "supernet.graphml")


def test_layer_choice_is_a_bundle_of_edges(make: Make) -> None:
    graph = make("Layers").graph
    assert edges(graph, "candidate")[:2] == [
        ("first/in", "first/out", "plain"),
        ("first/in", "first/out", "deep"),
    ]
    assert graph["first/in"]["first/out"]["plain"] == {
        "kind": "candidate", "decisions": '["first"]', "candidate": "plain", "groups": '["first"]', "row": 0,
        "columns": "[0]", "paths": '["first.candidates.0"]', "parameters": 20, "condition": "first = 'plain'",
    }  # fmt: skip
    assert [k for _, _, k in edges(graph, "candidate") if k in "01"] == ["0", "1"]
    assert graph["second/in"]["second/out"]["0"]["candidate"] == 0
    assert graph.graph == {"space": "Layers", "parameters": 10}


def test_a_nested_choice_hangs_on_its_candidate(make: Make) -> None:
    graph = make("Layers").graph
    assert graph["first/in"]["inner/in"]["contains:deep"]["condition"] == "first = 'deep'"
    assert graph["inner/in"]["inner/out"]["tanh"]["condition"] == "first = 'deep' and inner = 'tanh'"
    assert graph["first/in"]["first/out"]["deep"]["parameters"] == 20  # without those of the inner choice


def test_input_choice_has_an_edge_per_input(make: Make) -> None:
    graph = make("Inputs").graph
    assert [(s, k) for s, t, k in edges(graph, "candidate") if t == "two/out"] == [
        ("two/in_0", "0"), ("two/in_1", "1"), ("two/in_2", "2"),
    ]  # fmt: skip
    assert graph["two/in_1"]["two/out"]["1"]["condition"] == "two contains 1"
    assert graph["two/in_1"]["two/out"]["1"]["reduction"] == "mean"


def test_repeat_is_a_chain_that_may_end_early(make: Make) -> None:
    graph = make("Depths").graph
    assert [(s, t) for s, t, _ in edges(graph, "block") if t.startswith("depth/")] == [
        ("depth/in", "depth/block_0"), ("depth/block_0", "depth/block_1"),
    ]  # fmt: skip
    ends = [(s, k) for s, t, k in edges(graph, "candidate") if t == "depth/out"]
    assert ends == [("depth/in", "0"), ("depth/block_0", "1"), ("depth/block_1", "2")]
    assert graph["depth/in"]["depth/block_0"]["block_0"]["condition"] == "depth in [1, 2]"
    # x + y = 2 by (1, 1) and by (2, 0)
    end = graph["sum/block_1"]["sum/out"]["2"]
    assert (json.loads(end["groups"]), json.loads(end["columns"])) == (["x", "y"], [0, 1, 1, 0])


def test_cells_with_one_label_share_one_sub_graph(make: Make) -> None:
    graph = make("SharedCells").graph
    assert sorted(graph) == ["cell/in_0", "cell/in_1", "cell/node_2", "cell/node_3", "cell/out"]
    edge = graph["cell/in_1"]["cell/node_3"]["linear"]
    assert json.loads(edge["paths"]) == ["cells.0.edges.3.0", "cells.1.edges.3.0"]
    assert edge["parameters"] == 2 * 20
    assert json.loads(edge["decisions"]) == ["cell/op_3_0", "cell/input_3_0", "cell/op_3_1", "cell/input_3_1"]
    assert graph["cell/node_3"]["cell/out"]["concat"]["position"] == 1


def test_what_shared_cells_contain_is_shared_too(make: Make) -> None:
    graph = make("NestedCells").graph
    assert [n for n in graph if n.startswith("inside")] == ["inside/in", "inside/out"]
    assert json.loads(graph["inside/in"]["inside/out"]["linear"]["paths"]) == [
        "stack.blocks.0.edges.0.0.0.candidates.1", "stack.blocks.1.edges.0.0.0.candidates.1",
    ]  # fmt: skip
    contains = [(s, t, k) for s, t, k in edges(graph, "contains") if t == "cell/in_0"]
    assert contains == [
        ("depth/in", "cell/in_0", "contains:block_0"), ("depth/block_0", "cell/in_0", "contains:block_1"),
    ]  # fmt: skip


def test_values_and_own_primitives_are_edges_that_list_decisions(make: Make) -> None:
    graph = make("Widths").graph
    edge = graph["up/in"]["up/out"]["Linear"]
    assert json.loads(edge["decisions"]) == ["a", "b"]
    assert edge["arguments"] == "Linear(in_features=4, out_features=(a * b))"
    assert graph.nodes["Widths/values"]["arguments"] == "scale=scale"
    graph = make("Custom").graph
    assert json.loads(graph["scaled/in"]["scaled/out"]["Scaled"]["decisions"]) == ["factor"]
    assert ("scaled/in", "inner/in", "contains:Scaled") in edges(graph, "contains")


def test_one_label_at_two_places_gives_two_regions() -> None:
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice([torch.nn.Identity(), torch.nn.Tanh()], label="same")
            self.b = LayerChoice([torch.nn.Identity(), torch.nn.Tanh()], label="same")

    assert sorted(Twice().graph) == ["same@a/in", "same@a/out", "same@b/in", "same@b/out"]


@pytest.mark.parametrize("traced", [False, True])
def test_the_space_is_left_as_it_was(space: ModelSpace, example: torch.Tensor, traced: bool) -> None:
    before = copy.deepcopy(space.state_dict())
    training, generator = space.training, torch.get_rng_state()
    space_graph(space, (example,) if traced else None)
    architecture_graph(space, space.default(), (example,) if traced else None)
    assert torch.equal(torch.get_rng_state(), generator)
    assert space.training == training
    assert all("forward" not in vars(module) for module in space.modules())
    after = space.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
