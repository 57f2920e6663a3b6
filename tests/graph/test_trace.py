"""The data flow between choices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from spacelang import Cell, InputChoice, LayerChoice, ModelSpace, SpaceError, value_choice
from spacelang import nn as space_nn
from spacelang.costs import profile
from spacelang.graph import architecture_graph
from spacelang.language import Choice, Condition, Decision, Is, Primitive, Value

Make = Callable[..., ModelSpace]


def flow(graph: nx.MultiDiGraph) -> list[tuple[str, str]]:
    return sorted((s, t) for s, t, d in graph.edges(data=True) if d["kind"] == "data")


def total(graph: nx.MultiDiGraph, what: str) -> int:
    return int(graph.graph[what] + sum(d.get(what, 0) for _, _, d in graph.edges(data=True)))


def test_residual_code_and_nested_choices(make: Make, example: torch.Tensor) -> None:
    graph = make("Layers").trace(example)
    assert flow(graph) == [
        ("first/in", "inner/in"), ("first/out", "output"), ("first/out", "second/in"),
        ("inner/out", "first/out"), ("input_0", "first/in"), ("input_0", "output"), ("second/out", "output"),
    ]  # fmt: skip
    assert graph["inner/out"]["first/out"]["data:deep"]["condition"] == "first = 'deep'"
    assert json.loads(graph.nodes["inner/out"]["shape"]) == [3, 4]
    assert json.loads(graph.nodes["output"]["shape"]) == [3, 2]
    assert graph["first/in"]["first/out"]["deep"]["flops"] == 2 * 3 * 4 * 4
    assert graph["inner/in"]["inner/out"]["linear"]["flops"] == 2 * 3 * 4 * 4  # though tanh is the default
    assert graph.graph["flops"] == 2 * 3 * 4 * 2


def test_every_call_of_shared_cells_is_a_region(make: Make, example: torch.Tensor) -> None:
    graph = make("SharedCells").trace(example)
    assert flow(graph) == [
        ("cell@cells.0/out", "cell@cells.1/in_1"), ("cell@cells.1/out", "output"),
        ("input_0", "cell@cells.0/in_0"), ("input_0", "cell@cells.0/in_1"), ("input_0", "cell@cells.1/in_0"),
    ]  # fmt: skip
    assert json.loads(graph.nodes["cell@cells.0/out"]["shape"]) == [3, 8]


def test_a_choice_called_twice_is_two_regions(example: torch.Tensor) -> None:
    class Recurrent(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.step = LayerChoice({"linear": nn.Linear(4, 4), "tanh": nn.Tanh()}, label="step")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.step(self.step(x))

    graph = Recurrent().trace(example)
    assert flow(graph) == [("input_0", "step/in"), ("step#2/out", "output"), ("step/out", "step#2/in")]
    assert total(graph, "parameters") == 20


@pytest.mark.slow
def test_what_is_selected_costs_what_its_model_costs(space: ModelSpace, example: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    for arch in itertools.islice(space.grid(), 60):
        wanted = sum(parameter.numel() for parameter in space.freeze(arch).parameters())
        assert total(architecture_graph(space, arch), "parameters") == wanted
    for arch in [space.default(), *(space.sample(rng) for _ in range(6))]:
        wanted = profile(space.freeze(arch), example)
        traced = architecture_graph(space, arch, (example,))
        assert total(traced, "flops") == wanted.flops
        assert tuple(json.loads(traced.nodes["output"]["shape"])) == wanted.output_shape
        assert nx.has_path(traced, "input_0", "output")


def test_a_choice_in_an_operation_taken_twice_counts_twice(example: torch.Tensor) -> None:
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            inner = LayerChoice({"linear": nn.Linear(4, 4), "tanh": nn.Tanh()}, label="inner")
            self.cell = Cell({"choice": nn.Sequential(inner), "none": nn.Identity()}, 1, 2, label="cell")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cell(x)

    slots = {"cell/op_1_0": "choice", "cell/input_1_0": 0, "cell/op_1_1": "choice", "cell/input_1_1": 0}
    graph = architecture_graph(Twice(), slots | {"inner": "linear"}, (example,))
    assert graph["cell/in_0"]["cell/node_1"]["choice"]["count"] == 2
    assert total(graph, "parameters") == 2 * 20
    assert total(graph, "flops") == profile(Twice().freeze(slots | {"inner": "linear"}), example).flops


def test_code_in_place_on_views_and_of_own_functions(example: torch.Tensor) -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    class Tricky(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice([nn.Identity(), nn.Tanh()], label="a")
            self.b = LayerChoice([nn.Identity(), nn.ReLU(inplace=True)], label="b")
            self.c = LayerChoice([nn.Identity(), nn.Tanh()], label="c")
            self.join = InputChoice(2, label="join")

        def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> dict[str, torch.Tensor]:
            buffer = torch.zeros(x.shape)
            buffer[:, :2] = self.a(x)[:, :2]
            buffer[:, 2:].add_(self.b(x)[:, 2:])
            return {"y": self.c(Double.apply(buffer)), "z": self.join([x, buffer])}

    graph = Tricky().trace(example)
    assert [s for s, t in flow(graph) if t == "c/in"] == ["a/out", "b/out"]
    assert [s for s, t in flow(graph) if t == "join/in_1"] == ["a/out", "b/out"]
    assert [(s, t) for s, t in flow(graph) if t == "join/in_0"] == [("input_0", "join/in_0")]
    assert json.loads(graph.nodes["output"]["shapes"]) == ["3x4", "3x4"]


def test_code_that_looks_at_values_runs_on_real_tensors(example: torch.Tensor) -> None:
    class Looks(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.a = LayerChoice([nn.Linear(4, 4), nn.Tanh()], label="a")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if float(x.sum()) > -1e9 else x

    assert flow(Looks().trace(example)) == [("a/out", "output"), ("input_0", "a/in")]


def test_a_value_that_a_choice_keeps_for_itself_is_that_of_the_run(example: torch.Tensor) -> None:
    class Stack(Primitive):
        """Layers of which its owner runs as many as are chosen."""

        def __init__(self, depth: Value) -> None:
            super().__init__()
            (self.decision,) = depth.decisions()
            self._depth = depth
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def decisions(self) -> tuple[Decision, ...]:
            return (self.decision,)

        def branches(self) -> Iterator[tuple[Condition, str, nn.Module]]:
            for i, layer in enumerate(self.layers):
                yield Is(Choice(self.decision), tuple(range(i + 1, 4))), f"layers.{i}", layer

        def freeze(self, arch: Mapping[str, Any]) -> nn.Module:
            return self.layers[: arch["depth"]]

        def __iter__(self) -> Iterator[nn.Module]:
            return iter(self.layers[: 1 if isinstance(self._depth, Value) else self._depth])

    class Net(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.stack = Stack(value_choice([1, 2, 3], label="depth"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.stack:
                x = layer(x)
            return x

    for depth in (1, 2, 3):
        graph = architecture_graph(Net(), {"depth": depth}, (example,))
        assert total(graph, "flops") == depth * 2 * 3 * 4 * 4


def test_candidates_that_constraints_couple_to_their_surroundings(example: torch.Tensor) -> None:
    class Coupled(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            width = value_choice([2, 6], label="width")
            kind = value_choice(["narrow", "wide"], label="kind")
            self.up = space_nn.Linear(4, width)
            self.layer = LayerChoice({"narrow": nn.Linear(2, 2), "wide": nn.Linear(6, 2)}, label="kind")
            self.constrain((width == 2) == (kind == "narrow"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.up(x))

    graph = Coupled().trace(example)
    assert graph["kind/in"]["kind/out"]["narrow"]["flops"] == 2 * 3 * 2 * 2
    assert "flops" not in graph["kind/in"]["kind/out"]["wide"]  # does not exist next to width 2
    wide = architecture_graph(Coupled(), {"width": 6, "kind": "wide"}, (example,))
    assert wide["kind/in"]["kind/out"]["wide"]["flops"] == 2 * 3 * 6 * 2


def test_errors_name_the_candidate_or_the_shapes(make: Make) -> None:
    with pytest.raises(SpaceError, match=r"'plain' of 'first' does not run on the example input: .*shape"):
        make("Layers").trace(torch.zeros(3, 5))
    with pytest.raises(
        SpaceError, match=r"Inputs cannot be traced: it fails for example inputs of shape \(3, 5\)"
    ):
        make("Inputs").trace(torch.zeros(3, 5))


@pytest.mark.slow
def test_the_darts_space() -> None:
    hub = pytest.importorskip("spacelang.hub")
    space = hub.DARTS(width=4, num_cells=3, num_nodes=2)
    images = torch.zeros(1, 3, 32, 32)
    graph = space.trace(images)
    assert nx.is_directed_acyclic_graph(graph)
    assert ("normal/out", "reduce@cells.2/in_0") in flow(graph)
    assert json.loads(graph.nodes["reduce@cells.2/out"]["shape"]) == [1, 32, 8, 8]
    arch = space.sample(np.random.default_rng(0))
    wanted = profile(space.freeze(arch), images)
    assert total(architecture_graph(space, arch), "parameters") == wanted.parameters
