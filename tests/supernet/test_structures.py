"""Candidates that return tuples, lists and dicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import InputChoice, LayerChoice, ModelSpace, Repeat, SpaceError, Supernet

KINDS = ("tuple", "dict")
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


class Split(nn.Module):
    """Returns two tensors and something that is none."""

    def __init__(self, kind: str, note: object = "same") -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.kind = kind
        self.note = note

    def forward(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            x = x[0] if isinstance(x, tuple) else x["a"]
        y = self.linear(x)
        return (y, [y * 2, self.note]) if self.kind == "tuple" else {"a": y, "b": (y * 2, self.note)}


def tensors(output: Any) -> tuple[Tensor, Tensor]:
    return (output[0], output[1][0]) if isinstance(output, tuple) else (output["a"], output["b"][0])


class Net(ModelSpace):
    def __init__(self, kind: str, other: str = "", note: object = "same") -> None:
        super().__init__()
        candidates = [Split(kind), Split(other or kind, note)]
        self.layer = LayerChoice(candidates, label="layer")
        self.blocks = Repeat(lambda index: Split(kind), (1, 2), label="depth")
        self.input = InputChoice(2, label="input")

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return self.input(y, self.blocks(y))


@pytest.mark.parametrize("kind", KINDS)
def test_a_selected_path_is_the_frozen_model(kind: str) -> None:
    space = Net(kind).double()
    supernet, x = Supernet(space), torch.randn(2, 3, **DOUBLE)
    for arch in space.grid():
        supernet.select(arch)
        for ours, theirs in zip(tensors(supernet(x)), tensors(space.freeze(arch)(x)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_is_summed_tensor_by_tensor(kind: str) -> None:
    space = Net(kind).double()
    supernet, x = Supernet(space), torch.randn(2, 3, **DOUBLE)
    weights = {
        "layer": torch.tensor([[0.25, 0.75]], requires_grad=True, **DOUBLE),
        "depth": torch.tensor([[0.5, 0.5]], **DOUBLE),
        "input": torch.tensor([[1.0, 0.0]], **DOUBLE),
    }
    supernet.set_mixture(weights)
    output = supernet(x)
    first, second = (tensors(candidate(x)) for candidate in space.layer.candidates)
    for mixed, a, b in zip(tensors(output), first, second, strict=True):
        torch.testing.assert_close(mixed, 0.25 * a + 0.75 * b)
    sum(tensor.sum() for tensor in tensors(output)).backward()  # type: ignore[union-attr]
    assert weights["layer"].grad is not None
    note = output[1][1] if kind == "tuple" else output["b"][1]
    assert note == "same"


def test_what_cannot_be_summed_is_named() -> None:
    with pytest.raises(SpaceError, match="'layer': candidates must return the same structure of tensors"):
        Supernet(Net("tuple", "dict"))(torch.randn(2, 3))
    with pytest.raises(SpaceError, match="'layer': 0, 1 returned different things, which are no tensors"):
        Supernet(Net("tuple", note="other"))(torch.randn(2, 3))
