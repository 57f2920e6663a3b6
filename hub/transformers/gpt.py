"""Decoder language models with chosen width and depth, and heads and MLP of every layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spacelang import ModelSpace, Repeat, value_choice
from spacelang import nn as space_nn
from spacelang.errors import SpaceError, require_integer, require_number
from spacelang.language import to_int

from ..operations.mobile_operations import Size


class GPT(ModelSpace):
    """A decoder language model (GPT-2) whose sizes are chosen; they are slices of shared weights.

    Decisions: `embed_dim` and `depth` of the network, `num_head_{i}` and `mlp_ratio_{i}` of each layer. A
    head has `head_dim` channels at every width. The output layer has a weight of its own, unlike that of
    GPT-2, whose small network is the largest one here by default.

    Args:
        vocabulary: Number of words.
        length: Largest number of words in a text.
        embed_dim: Candidates for the width.
        num_heads: Candidates for the number of heads.
        mlp_ratio: Candidates for the MLP's hidden size, as a multiple of the width.
        depth: Candidates for the number of layers.
        head_dim: Channels of a head.
        dropout: Dropout of embeddings, attention and branches.

    Source: Radford et al., Language models are unsupervised multitask learners, 2019; slices as in
    AutoFormer, arXiv:2107.00651.
    """

    def __init__(
        self,
        vocabulary: int = 50_257,
        length: int = 1024,
        embed_dim: Sequence[int] = (512, 640, 768),
        num_heads: Sequence[int] = (8, 10, 12),
        mlp_ratio: Sequence[float] = (2.0, 3.0, 4.0),
        depth: Sequence[int] = (6, 8, 10, 12),
        *,
        head_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("vocabulary", vocabulary), ("length", length), ("head_dim", head_dim)):
            require_integer(name, value, least=1)
        require_number("dropout", dropout, least=0, below=1)
        width = value_choice(embed_dim, label="embed_dim")

        def layer(index: int) -> DecoderLayer:
            return DecoderLayer(
                width,
                value_choice(num_heads, label=f"num_head_{index}"),
                value_choice(mlp_ratio, label=f"mlp_ratio_{index}"),
                head_dim=head_dim,
                dropout=dropout,
            )

        self.length = length
        self.words = space_nn.Embedding(vocabulary, width)
        self.positions = space_nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = Repeat(layer, depth=value_choice(depth, label="depth"))
        self.norm = space_nn.LayerNorm(width)
        self.head = space_nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next word, (B, T) -> (B, T, vocabulary).

        Raises:
            SpaceError: The text is longer than `length`.
        """
        count = tokens.shape[1]
        if count > self.length:
            raise SpaceError(
                f"a text of {count} words; this network reads at most length={self.length}. Cut the text, or "
                "build the network longer."
            )
        places = torch.arange(count, device=tokens.device)
        x = self.dropout(self.words(tokens) + self.positions(places))  # (B, T, D)
        logits: Tensor = self.head(self.norm(self.layers(x)))
        return logits


class CausalAttention(nn.Module):
    """Self-attention in which no word sees a later one: (B, T, D) -> (B, T, D).

    Args:
        embed_dim: D.
        num_heads: Number of heads, each of `head_dim` channels for every D.
        head_dim: Channels of a head.
        dropout: Dropout of the attention's shares.
    """

    def __init__(self, embed_dim: Size, num_heads: Size, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.dropout = dropout
        inner = num_heads * head_dim
        self.q = space_nn.Linear(embed_dim, inner)
        self.k = space_nn.Linear(embed_dim, inner)
        self.v = space_nn.Linear(embed_dim, inner)
        self.proj = space_nn.Linear(inner, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(layer(x)) for layer in (self.q, self.k, self.v))  # (B, h, T, d)
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        y: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """Split heads, (B, T, h d) -> (B, h, T, d); h follows from the shape, because it may be chosen."""
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: x + attention(norm(x)), then x + mlp(norm(x)); (B, T, D) -> (B, T, D).

    Args:
        embed_dim: D.
        num_heads: Number of heads, each of `head_dim` channels.
        mlp_ratio: The hidden size of the MLP is int(mlp_ratio * D).
        head_dim: Channels of a head.
        dropout: Dropout of the attention's shares and of both branches.
    """

    def __init__(
        self, embed_dim: Size, num_heads: Size, mlp_ratio: Size, *, head_dim: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = to_int(embed_dim * mlp_ratio)
        self.attention_norm = space_nn.LayerNorm(embed_dim)
        self.attention = CausalAttention(embed_dim, num_heads, head_dim, dropout)
        self.mlp_norm = space_nn.LayerNorm(embed_dim)
        self.fc1 = space_nn.Linear(embed_dim, hidden)
        self.fc2 = space_nn.Linear(hidden, embed_dim)
        self.activation = nn.GELU(approximate="tanh")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        y: Tensor = x + self.dropout(self.fc2(self.activation(self.fc1(self.mlp_norm(x)))))
        return y
