"""Layers of vision transformers whose sizes may be value choices. Source: AutoFormer, arXiv:2107.00651."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spacelang import nn as space_nn
from spacelang.language import to_int

from .cell_operations import DropPath
from .mobile_operations import Size


class ClassToken(nn.Module):
    """A learned token before the patches, and a learned position added to each: (B, N, D) -> (B, N + 1, D).

    Args:
        num_patches: N.
        embed_dim: D.
    """

    def __init__(self, num_patches: int, embed_dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.position = nn.Parameter(torch.empty(1, num_patches + 1, embed_dim))
        for parameter in (self.token, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """Return all tokens, the class token first."""
        token = self.token.expand(patches.shape[0], -1, -1)
        return torch.cat([token, patches], dim=1) + self.position


class ElasticClassToken(space_nn.ValueLayer):
    """`ClassToken` whose arguments may be value choices."""

    layer_type = ClassToken
    sizes = space_nn.Sizes({"patches": {-1: "embed_dim"}}, ({-1: "embed_dim"},))


class RelativePosition(nn.Module):
    """Learned vector for every pair of tokens on a grid: a vector for the rows plus one for the columns.

    r_ij = V[row_j - row_i] + H[column_j - column_i]; pairs with the class token have their own vector, index
    0. Source: AutoFormer, arXiv:2107.00651, section 3.

    Args:
        size: Number of rows, and of patches in a row.
        dim: Length of the vectors.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.vertical = nn.Parameter(torch.empty(2 * size + 2, dim))
        self.horizontal = nn.Parameter(torch.empty(2 * size + 2, dim))
        for table in (self.vertical, self.horizontal):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self) -> Tensor:
        """Return the vectors, (size^2 + 1, size^2 + 1, dim)."""
        place = torch.arange(self.size, device=self.vertical.device)
        rows, columns = place.repeat_interleave(self.size), place.repeat(self.size)
        return self.vertical[self._index(rows)] + self.horizontal[self._index(columns)]

    def _index(self, place: Tensor) -> Tensor:
        """Return the table row of every pair of tokens, given the coordinate of each token."""
        distance = place[None, :] - place[:, None] + self.size + 1  # 2 .. 2 * size
        return nn.functional.pad(distance, (1, 0, 1, 0))


class RelativeAttention(nn.Module):
    """Self-attention with relative positions in keys and values.

    a = softmax(q (k + r_k)^T / sqrt(d)), y = W_o a (v + r_v), d = `head_dim`; (B, N, D) -> (B, N, D).

    Args:
        embed_dim: D.
        num_heads: Number of heads, each of `head_dim` channels for every D.
        head_dim: d.
        size: N = size^2 + 1 tokens.
        dropout: Dropout of the output.
    """

    def __init__(self, embed_dim: Size, num_heads: Size, head_dim: int, size: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        inner = num_heads * head_dim
        self.q = space_nn.Linear(embed_dim, inner)
        self.k = space_nn.Linear(embed_dim, inner)
        self.v = space_nn.Linear(embed_dim, inner)
        self.proj = space_nn.Linear(inner, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.rel_pos_embed_k = RelativePosition(size, head_dim)
        self.rel_pos_embed_v = RelativePosition(size, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to all tokens, (B, N, D) -> (B, N, D)."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))  # (B, h, N, d)
        scores = q @ k.transpose(-2, -1) + torch.einsum("bhnd,nmd->bhnm", q, self.rel_pos_embed_k())
        weights = (scores * self.head_dim**-0.5).softmax(dim=-1)  # (B, h, N, N)
        mixed = weights @ v + torch.einsum("bhnm,nmd->bhnd", weights, self.rel_pos_embed_v())
        y: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """Split heads, (B, N, h d) -> (B, h, N, d); h follows from the shape, because it may be chosen."""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Pre-norm encoder layer: x + attention(norm(x)), then x + mlp(norm(x)); (B, N, D) -> (B, N, D).

    Args:
        embed_dim: D.
        num_heads: Number of heads, each of `head_dim` channels.
        mlp_ratio: The hidden size of the MLP is int(mlp_ratio * D).
        head_dim: Channels of a head.
        size: N = size^2 + 1 tokens.
        dropout: Dropout of both branches.
        drop_path: Probability of dropping a branch.
    """

    def __init__(
        self,
        embed_dim: Size,
        num_heads: Size,
        mlp_ratio: Size,
        *,
        head_dim: int,
        size: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = to_int(embed_dim * mlp_ratio)
        self.attn = RelativeAttention(embed_dim, num_heads, head_dim, size, dropout)
        self.attn_layer_norm = space_nn.LayerNorm(embed_dim)
        self.ffn_layer_norm = space_nn.LayerNorm(embed_dim)
        self.fc1 = space_nn.Linear(embed_dim, hidden)
        self.fc2 = space_nn.Linear(hidden, embed_dim)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after attention and MLP, (B, N, D)."""
        x = x + self.drop_path(self.attn(self.attn_layer_norm(x)))
        hidden = self.dropout(self.activation(self.fc1(self.ffn_layer_norm(x))))
        y: Tensor = x + self.drop_path(self.dropout(self.fc2(hidden)))
        return y
