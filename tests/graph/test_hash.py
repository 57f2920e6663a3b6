"""The identity of architectures."""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

from spacelang import Cell, LayerChoice, ModelSpace
from spacelang.graph import architecture_graph
from spacelang.graph.hashing import canonical_numbers

Make = Callable[..., ModelSpace]

FREE = ("index", "paths")  # which of several exchangeable nodes a node is, and which modules stand there


def matched(a: nx.MultiDiGraph, b: nx.MultiDiGraph) -> dict[str, str] | None:
    """An isomorphism that respects every attribute but the number of a cell's node, or None."""

    def node(x: dict[str, Any], y: dict[str, Any]) -> bool:
        free = FREE if x["kind"] == "node" else ()
        return {k: v for k, v in x.items() if k not in free} == {k: v for k, v in y.items() if k not in free}

    def edge(x: dict[str, Any], y: dict[str, Any]) -> bool:
        def plain(bundle: dict[str, Any]) -> list[str]:
            return sorted(str({k: v for k, v in data.items() if k != "paths"}) for data in bundle.values())

        return plain(x) == plain(y)

    matcher = nx.isomorphism.MultiDiGraphMatcher(a, b, node, edge)
    return dict(matcher.mapping) if matcher.is_isomorphic() else None


@pytest.mark.slow
def test_equal_hash_if_and_only_if_isomorphic_and_then_equal_models(
    space: ModelSpace, example: torch.Tensor
) -> None:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for arch in itertools.islice(space.grid(), 200):
        groups[space.hash(arch)].append(arch)
    graphs = {key: architecture_graph(space, group[0]) for key, group in groups.items()}
    some = list(graphs.values())[:40]
    assert not any(matched(a, b) for a, b in itertools.combinations(some, 2))
    for key, group in groups.items():
        models = [space.freeze(arch).eval() for arch in group]
        counts = {sum(p.numel() for p in model.parameters()) for model in models}
        assert len(counts) == 1
        for arch, model in zip(group[1:], models[1:], strict=True):
            mapping = matched(graphs[key], architecture_graph(space, arch))
            assert mapping is not None
            if all(a == b for a, b in mapping.items()):
                assert torch.equal(model(example), models[0](example))


def test_slots_may_be_exchanged_and_inactive_labels_added(make: Make) -> None:
    space = make("SharedCells")
    arch = space.default() | {"cell/op_3_0": "none", "cell/op_3_1": "linear", "cell/input_3_1": 2}
    swapped = dict(arch)
    for name in ("op", "input"):
        swapped[f"cell/{name}_3_0"], swapped[f"cell/{name}_3_1"] = (
            arch[f"cell/{name}_3_1"],
            arch[f"cell/{name}_3_0"],
        )
    assert swapped != arch
    assert space.hash(swapped) == space.hash(arch)
    layers = make("Layers")
    assert layers.hash({"first": "plain", "second": 0, "inner": "tanh"}) == layers.hash(
        {"first": "plain", "second": 0}
    )


def test_arithmetic_that_gives_the_same_layers_is_the_same_model(make: Make) -> None:
    space = make("Widths")
    assert space.hash({"a": 2, "b": 4, "scale": 1.0}) == space.hash({"a": 4, "b": 2, "scale": 1.0})
    assert space.hash({"a": 2, "b": 4, "scale": 1.0}) != space.hash({"a": 2, "b": 4, "scale": 2.0})
    assert space.hash({"a": 2, "b": 4, "scale": 1.0}) != space.hash({"a": 2, "b": 2, "scale": 1.0})


def loose(*slots: tuple[str, int]) -> dict[str, Any]:
    pairs = [(f"cell/op_{n}_0", op, f"cell/input_{n}_0", source) for n, (op, source) in enumerate(slots, 1)]
    return {key: value for a, b, c, d in pairs for key, value in ((a, b), (c, d))}


def test_nodes_nobody_concatenates_may_be_exchanged() -> None:
    space = LooseCell()
    # Node 2 or node 1 is read by the end; the other order of the same two chains.
    one = loose(("a", 0), ("b", 0), ("a", 1), ("b", 2))
    other = loose(("b", 0), ("a", 0), ("a", 2), ("b", 1))
    assert space.hash(one) == space.hash(other)
    # Ends 3 and 4 are concatenated in this order, and that is what the next layer sees.
    assert space.hash(one) != space.hash(loose(("a", 0), ("b", 0), ("b", 2), ("a", 1)))


def test_nodes_are_not_exchanged_when_their_modules_differ() -> None:
    one, other = loose(("a", 0), ("b", 0), ("a", 1), ("b", 2)), loose(("b", 0), ("a", 0), ("a", 2), ("b", 1))
    assert LooseCell(biased_node=2).hash(one) != LooseCell(biased_node=2).hash(other)


class LooseCell(ModelSpace):
    def __init__(self, biased_node: int = -1) -> None:
        super().__init__()
        ops = {
            "a": lambda node, _, source: nn.Linear(2, 2, bias=node == biased_node),
            "b": lambda *_: nn.Tanh(),
        }
        self.cell = Cell(ops, 4, 1, 1, "loose_end", label="cell")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)


def test_in_a_full_concatenation_every_node_has_its_place() -> None:
    class Full(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            ops = {"a": lambda *_: nn.Identity(), "b": lambda *_: nn.Tanh()}
            self.cell = Cell(ops, 2, 1, 1, label="cell")

    assert Full().hash(loose(("a", 0), ("b", 0))) != Full().hash(loose(("b", 0), ("a", 0)))


def test_the_same_names_at_another_place_do_not_collide() -> None:
    class Two(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.x = LayerChoice({"a": nn.Identity(), "b": nn.Tanh()}, label="x")
            self.y = LayerChoice({"a": nn.Identity(), "b": nn.Tanh()}, label="y")

    assert len({Two().hash(arch) for arch in Two().grid()}) == 4


def test_it_does_not_depend_on_widths_or_on_the_object(make: Make) -> None:
    arch = make("LooseEnds").default()
    assert make("LooseEnds").hash(arch) == make("LooseEnds", width=8).hash(arch)


def test_labels_may_be_in_any_script_and_nothing_is_warned() -> None:
    class Greek(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.x = LayerChoice({"α": nn.Identity(), "β": nn.Tanh()}, label="größe")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Greek().hash({"größe": "α"}) != Greek().hash({"größe": "β"})


def cycles(*lengths: int) -> Iterator[tuple[int, int, tuple[()]]]:
    start = 0
    for length in lengths:
        for i in range(length):  # alternately up and down, so that the graph is acyclic
            a, b = start + i, start + (i + 1) % length
            yield (a, b, ()) if i % 2 == 0 else (b, a, ())
        start += length


@pytest.mark.parametrize("shift", [1, 3, 6])
def test_numbering_is_exact_where_refinement_is_not(shift: int) -> None:
    """One circle of eight and two of four look alike to every neighbourhood."""

    def form(arrows: Any) -> list[Any]:
        arrows = list(arrows)
        numbers = canonical_numbers(dict.fromkeys(range(8), 0), arrows)
        assert sorted(numbers.values()) == list(range(8)) or len(set(numbers.values())) == 8
        return sorted((numbers[s], numbers[t], tag) for s, t, tag in arrows)

    moved = [((s * shift + 5) % 8, (t * shift + 5) % 8, tag) for s, t, tag in cycles(8)] if shift % 2 else []
    assert form(cycles(8)) != form(cycles(4, 4))
    if moved:
        assert form(moved) == form(cycles(8))
