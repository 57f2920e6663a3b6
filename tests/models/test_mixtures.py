"""Mixtures of widths in existing models: padded, computed choice by choice, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from spacelang import ModelSpace, Supernet, Width, searchable
from tests.models.networks import randomised
from tests.models.test_importance import Attention

X = torch.randn(4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(1, 50, (2, 6), generator=torch.Generator().manual_seed(1))


def mixed(space: ModelSpace, shares: Mapping[str, Mapping[Any, float]]) -> Supernet:
    """Return a supernet with a mixture of the choices of some decisions."""
    supernet = Supernet(space, memory_format=None).eval().double()
    assert supernet.soft_refusals() == []
    mixture = {}
    for label, group in supernet.groups.items():
        row = [shares[label].get(column, 0.0) for column in group.columns]
        mixture[label] = torch.tensor([row], dtype=torch.float64)
    supernet.set_mixture(mixture)
    return supernet


def test_heads_are_mixed_choice_by_choice() -> None:
    model = randomised(Attention(batch_first=True))
    given = torch.zeros(())
    space: Any = searchable(model, {"attention": Width([1, 2, 4])}, (X, given))
    supernet = mixed(space, {"attention": {1: 0.25, 4: 0.75}})
    x, causal = model.enter(X), nn.Transformer.generate_square_subsequent_mask(4, dtype=X.dtype)
    y = sum(
        share * space.freeze({"attention": heads}).attention(x, x, x, attn_mask=causal, need_weights=False)[0]
        for heads, share in {1: 0.25, 4: 0.75}.items()
    )
    assert torch.allclose(supernet(X, given)[0], model.leave(x + y), rtol=1e-9)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=8,
        n_layer=1,
        n_head=2,
        vocab_size=50,
        n_positions=8,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


class Gated(nn.Module):
    """A norm of another class, which has channels as its inputs and outputs."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(3, 6), self.Norm(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.norm(self.enter(x))))


@pytest.mark.parametrize(
    ("make", "inputs", "choices"),
    [
        (gpt2, TOKENS, {"transformer.h.0.mlp.c_fc": Width([8, 32]), "transformer.h.0.attn": Width([1, 2])}),
        (Gated, X, {"enter": Width([2, 4, 6])}),
    ],
    ids=["Conv1D and heads", "norm"],
)
def test_a_mixture_of_one_is_that_choice(
    make: Callable[[], nn.Module], inputs: Tensor, choices: dict[str, Any]
) -> None:
    space = searchable(randomised(make()), choices, inputs)
    for arch in ({d.label: d.candidates[i] for d in space.decisions} for i in (0, -1)):
        supernet = mixed(space, {label: {value: 1.0} for label, value in arch.items()})
        expected, found = space.freeze(arch)(inputs), supernet(inputs)
        if not isinstance(expected, Tensor):
            expected, found = expected["logits"], found["logits"]
        assert torch.allclose(found, expected, rtol=1e-9)


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.leave(y - y.mean(-1, keepdim=True))


def test_channels_that_are_averaged_are_refused_with_the_place() -> None:
    supernet = Supernet(searchable(randomised(Averaged()), {"enter": Width([3, 6])}, X))
    first, second = supernet.soft_refusals()
    assert "something is computed from all of its channels together" in first
    assert first.endswith("(at model.enter)")
    assert second.endswith("(at model.leave)")
