"""Pruning takes candidates away for good: from the computation, the weights and what can be chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn as plain

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet

from ..toys.spaces import CASES


class Net(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({n: plain.Linear(3, 3) for n in "abc"}, label="layer")
        self.blocks = Repeat(lambda i: plain.Linear(3, 3, bias=False), (1, 3), label="depth")
        self.pick = InputChoice(2, label="pick")

    def forward(self, x: Any) -> Any:
        return self.pick(self.blocks(self.layer(x)), x)


def parameters(supernet: Supernet) -> int:
    return sum(p.numel() for p in supernet.parameters())


def test_pruned_candidates_take_their_weights_with_them() -> None:
    supernet = Supernet(Net())
    before = parameters(supernet)
    gone = {id(p) for p in supernet.network.layer.candidates[1].parameters()}
    supernet.prune({"layer": [[True, False, True]]})
    assert parameters(supernet) == before - 12
    assert not gone & {id(p) for p in supernet.parameters()}
    assert not any("candidates.1." in name for name in supernet.state_dict())
    supernet.prune({"depth": [[True, True, False]]})
    assert parameters(supernet) == before - 12 - 9
    supernet.prune({"depth": [[False, True, True]]})  # what was pruned stays pruned
    assert parameters(supernet) == before - 12 - 9
    assert supernet.groups["depth"].alive == [[False, True, False]]


def test_what_is_left_computes_with_its_own_weights() -> None:
    supernet = Supernet(Net())
    x = torch.randn(2, 3)
    a, _, c = supernet.network.layer.candidates
    blocks = list(supernet.network.blocks.blocks)
    supernet.prune({"layer": [[True, False, True]], "depth": [[True, True, False]], "pick": [[True, False]]})
    supernet.set_mixture(
        {"layer": torch.tensor([[0.5, 9.0, 2.0]]), "depth": torch.tensor([[0.25, 3.0, 9.0]])}
    )
    supernet.set_mixture({"pick": torch.tensor([[2.0, 9.0]])})
    y = 0.5 * a(x) + 2 * c(x)
    first = blocks[0](y)
    assert torch.allclose(supernet(x), 2 * (0.25 * first + 3 * blocks[1](first)), atol=1e-6)
    supernet.set_mixture({"layer": torch.ones(1, 3)}, {"layer": [[True, True, False]]})
    assert supernet.groups["layer"].active == ((0,),)  # what is pruned cannot be made active


def test_an_architecture_that_needs_a_pruned_candidate_is_refused_and_changes_nothing() -> None:
    supernet = Supernet(Net())
    supernet.prune({"layer": [[True, False, True]], "depth": [[True, True, False]]})
    good = {"layer": "c", "depth": 2, "pick": 0}
    supernet.select(good)
    x = torch.randn(2, 3)
    expected = supernet(x)
    for bad, message in [
        (good | {"layer": "b"}, "'layer': candidate 'b' was pruned"),
        (good | {"depth": 3, "pick": 1}, "'depth': candidate 3 was pruned"),
    ]:
        for door in (supernet.select, supernet.freeze):
            with pytest.raises(SpaceError, match=message):
                door(bad)
        assert torch.equal(supernet(x), expected)
    assert torch.equal(supernet.freeze(good)(x), expected)


def test_pruned_edges_of_a_cell() -> None:
    case = CASES["cells"]
    space = case.space()
    supernet = Supernet(space)
    before, names = parameters(supernet), supernet.groups["cell"].columns
    alive = [[name != "conv3" for name in names] for _ in supernet.groups["cell"].rows]
    alive[2] = [False] * len(names)  # edge 0->3 goes altogether
    supernet.prune({"cell": alive})
    conv3, conv1 = 4 * 4 * 9 + 8, 4 * 4 + 8
    assert parameters(supernet) == before - 2 * (5 * conv3 + conv1)
    supernet(*case.example())
    arch = {d.label: "skip" if "/op_" in d.label else 1 for d in space.decisions}
    supernet.select(arch)
    assert torch.equal(supernet(*case.example()), supernet.freeze(arch)(*case.example()))
    with pytest.raises(SpaceError, match="'cell': candidate 'skip' on edge 0->3 was pruned"):
        supernet.select(arch | {"cell/input_3_0": 0})
    with pytest.raises(SpaceError, match="'cell': candidate 'conv3' on edge 1->2 was pruned"):
        supernet.freeze(arch | {"cell/op_2_0": "conv3"})


def test_pruning_leaves_the_space_and_other_supernets_alone() -> None:
    space = Net()
    weights = {name: t.clone() for name, t in space.state_dict().items()}
    first, second = Supernet(space), Supernet(space)
    first.prune({"layer": [[False, False, True]]})
    assert second.groups["layer"].alive == [[True, True, True]]
    second.select({"layer": "a", "depth": 1, "pick": 0})
    assert space.state_dict().keys() == weights.keys()
    space.freeze({"layer": "a", "depth": 1, "pick": 0})


@pytest.mark.parametrize(
    ("alive", "message"),
    [
        ({"lager": [[True] * 3]}, r"no group 'lager'.*Closest: 'layer'"),
        ({"layer": [[True] * 2]}, r"alive\['layer'\] must be nested \(rows, candidates\) = \(1, 3\)"),
        ({"layer": [True] * 3}, "must be nested"),
        ({"layer": None}, "must be nested"),
        ({"layer": [[False] * 3]}, r"alive\['layer'\] leaves none of 'a', 'b', 'c'; leave at least one"),
        ({"depth": [[True, False, False]], "layer": [[True]]}, "must be nested"),
    ],
)
def test_what_does_not_fit_is_refused_and_prunes_nothing(alive: Any, message: str) -> None:
    supernet = Supernet(Net())
    before = parameters(supernet)
    with pytest.raises(SpaceError, match=message):
        supernet.prune(alive)
    assert parameters(supernet) == before
    assert all(all(map(all, group.alive)) for group in supernet.groups.values())
