"""The order of channels and heads, and what keeps the function of a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spacelang import Width, searchable
from spacelang.models import FewerHeads
from tests.models.networks import Mobile, randomised


class Pair(nn.Module):
    """Two linear layers with known weights, ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0], [0, 2], [3, 3], [-1, 1]])
        self.first.bias.data = torch.tensor([0, 1, -1, 0.5])
        self.last.weight.data = torch.tensor([[1.0, -5, 0, 2], [1, 1, -3, 2]])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_channels_are_in_the_order_of_the_norms_that_read_them() -> None:
    x = torch.tensor([[1.0, 1], [2, -1]])
    # Columns of the last layer have the L1 norms 2, 6, 3, 4.
    space = searchable(Pair(), {"first": Width([1, 2, 3, 4])}, x)
    whole: Any = space.freeze({"first": 4})
    assert whole.first.weight.tolist() == [[0, 2], [-1, 1], [3, 3], [1, 0]]
    assert whole.first.bias.tolist() == [1, 0.5, -1, 0]
    assert whole.last.weight.tolist() == [[-5, 2, 0, 1], [1, 2, -3, 1]]
    assert whole(x).tolist() == [[-13, -10], [2, -4]]  # whole numbers are added exactly in any order
    narrow: Any = space.freeze({"first": 1})
    assert narrow.last.weight.tolist() == [[-5], [1]]


def test_equal_channels_stay_in_order() -> None:
    model = Pair()
    model.last.weight.data.fill_(1)
    whole: Any = searchable(model, {"first": Width([4])}, torch.ones(1, 2)).freeze({"first": 4})
    assert torch.equal(whole.first.weight, model.first.weight)


def test_gates_do_not_count() -> None:
    model = randomised(Mobile())
    block: Any = model.blocks[0]  # type: ignore[index]
    with torch.no_grad():
        norms = torch.tensor([3.0, 1, 4, 1.5, 9, 2.5, 6, 5])
        block.projection.weight.copy_((norms / 6).view(1, 8, 1, 1).expand(6, 8, 1, 1))
        block.gate.reduce.weight.copy_(100 * (10 - norms).view(1, 8, 1, 1).expand(3, 8, 1, 1))
    images = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    space = searchable(model, {"blocks.0.expansion.0": Width([8])}, images)
    frozen: Any = space.freeze({"blocks.0.expansion.0": 8}).blocks[0]  # type: ignore[index]
    assert torch.allclose(
        frozen.projection.weight.sum((0, 2, 3)), norms.sort(descending=True).values.double()
    )


class Attention(nn.Module):
    """Self-attention of PyTorch with a mask, in a residual sum."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=batch_first)
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor, need_weights: Tensor, padding: Tensor | None = None) -> Any:
        x = self.enter(x)
        causal = nn.Transformer.generate_square_subsequent_mask(4, dtype=x.dtype, device=x.device)
        y, weights = self.attention(
            x, x, x, attn_mask=causal, key_padding_mask=padding, need_weights=need_weights.dim() > 0
        )
        return self.leave(x + y), weights


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_fewer_heads_compute_what_the_others_add_nothing_to(batch_first: bool, need_weights: bool) -> None:
    model = randomised(Attention(batch_first))
    x = torch.randn(4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = torch.zeros(1 if need_weights else ())
    space = searchable(model, {"attention": Width([1, 3, 4])}, (x, given))
    whole: Any = space.freeze({"attention": 4})
    assert type(whole.attention) is nn.MultiheadAttention
    padding = torch.tensor([[False, False, False, True]] * 4)
    for mask in (None, padding.float().masked_fill(padding, -torch.inf).double()):
        assert torch.allclose(whole(x, given, mask)[0], model(x, given, mask)[0], rtol=1e-9)
    with torch.no_grad():
        whole.attention.out_proj.weight[:, 6:] = 0  # of the fourth head
    cut: Any = space.freeze({"attention": 3})
    assert isinstance(cut.attention, FewerHeads)
    assert "3 of 4 heads of 2, in place of MultiheadAttention" in repr(cut.attention)
    assert list(cut.state_dict()) == list(model.state_dict())
    assert cut.attention.in_proj_weight.shape == (18, 8)
    assert torch.allclose(cut(x, given)[0], whole(x, given)[0], rtol=1e-9)
    assert (cut(x, given)[1] is not None) == need_weights


class Fused(nn.Module):
    """Attention with one projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 3, 2
        self.qkv, self.proj = nn.Linear(5, 18), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        heads = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(heads.transpose(1, 2).flatten(2))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Fused()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


def test_heads_of_a_fused_projection_are_cut_in_each_of_its_parts() -> None:
    model, x = randomised(Around()), torch.randn(2, 4, 5, dtype=torch.float64)
    space = searchable(model, {"attn": Width([2, 3])}, x)
    whole: Any = space.freeze({"attn": 3})
    cut: Any = space.freeze({"attn": 2})
    assert (cut.attn.num_heads, cut.attn.head_dim) == (2, 2)
    assert torch.equal(cut.attn.qkv.weight, whole.attn.qkv.weight[[0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15]])
    with torch.no_grad():
        whole.attn.proj.weight[:, 4:] = 0
    assert torch.allclose(cut(x), whole(x), rtol=1e-9)
    assert torch.allclose(space.freeze({"attn": 3})(x), model(x), rtol=1e-9)
