"""Modules that stand for those whose class cannot run when it is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FewerHeads(nn.Module):
    """Stand-in for an `nn.MultiheadAttention` with fewer heads than its class can have.

    That class computes the size of a head from the width of its inputs. This one keeps it; it has the same
    parameters under the same names and takes the same calls:

        y = concat_h softmax(q_h k_h^T / sqrt(head_dim) + mask) v_h W_out^T + b_out.

    Args:
        attention: Module whose weights are already cut, with `num_heads` as it is to be.
        head_dim: Features of one head.
    """

    in_proj_weight: Tensor
    in_proj_bias: Tensor | None

    def __init__(self, attention: nn.MultiheadAttention, head_dim: int) -> None:
        super().__init__()
        for name, parameter in attention._parameters.items():
            self.register_parameter(name, parameter)
        self.out_proj = attention.out_proj
        self.num_heads, self.head_dim = attention.num_heads, head_dim
        self.embed_dim, self.dropout = attention.embed_dim, attention.dropout
        self.batch_first = attention.batch_first
        self.training = attention.training
        self._qkv_same_embed_dim = False  # so that nn.TransformerEncoderLayer calls it

    def extra_repr(self) -> str:
        whole = self.embed_dim // self.head_dim
        return f"{self.num_heads} of {whole} heads of {self.head_dim}, in place of MultiheadAttention"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        given = [x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, w, b).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for x, w, b in zip(given, weights, biases, strict=True)
        )  # each (B, heads, length, head_dim)
        mask = _joint_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            shares = functional.softmax(scores if mask is None else scores + mask, dim=-1)
            heads = functional.dropout(shares, dropout) @ v
            returned = shares.mean(1) if average_attn_weights else shares
        else:
            heads = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
            returned = None
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), returned


def _joint_mask(mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Return what is added to the scores, (B or 1, heads or 1, L, S)."""
    joint = None
    if mask is not None:
        joint = _added(mask, like)
        joint = joint.view(like.shape[0], -1, *joint.shape[1:]) if joint.dim() == 3 else joint
    if padding is not None:
        hidden = _added(padding, like)[:, None, None]
        joint = hidden if joint is None else joint + hidden
    return joint


def _added(mask: Tensor, like: Tensor) -> Tensor:
    return (
        torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)
        if mask.dtype == torch.bool
        else mask
    )


class FewerWindowHeads(nn.Module):
    """Stand-in for the shifted window attention of torchvision's Swin with fewer heads.

    Its class computes the size of a head from the width of its input. This one keeps it; it has the same
    parameters under the same names. In each window of a map that is shifted by a part of one,

        y = concat_h softmax(q_h k_h^T / sqrt(head_dim) + bias_h + mask) v_h W_proj^T + b_proj.

    Args:
        attention: Module whose weights are already cut, with `num_heads` as it is to be.
        head_dim: Features of one head.

    Source: Swin Transformer, arXiv:2103.14030, section 3.2.
    """

    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def __init__(self, attention: Any, head_dim: int) -> None:
        super().__init__()
        self.window_size: Sequence[int] = attention.window_size
        self.shift_size: Sequence[int] = attention.shift_size
        self.num_heads, self.head_dim = int(attention.num_heads), head_dim
        self.attention_dropout, self.dropout = float(attention.attention_dropout), float(attention.dropout)
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", attention.relative_position_index)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.training = attention.training

    def extra_repr(self) -> str:
        whole = self.proj.out_features // self.head_dim
        return f"{self.num_heads} of {whole} heads of {self.head_dim}, in place of ShiftedWindowAttention"

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, (B, H, W, C), of a map (B, H, W, C)."""
        height, width = x.shape[1:3]
        tall, wide = self.window_size
        x = functional.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        size = x.shape[1:3]
        sides = zip(size, self.window_size, self.shift_size, strict=True)
        shifts = [0 if window >= length else shift for length, window, shift in sides]
        x = self._windows(x.roll([-shift for shift in shifts], (1, 2)))
        qkv = self.qkv(x).view(*x.shape[:3], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.movedim(-3, 0).transpose(-3, -2)  # each (B, windows, heads, entries, head_dim)
        mask = (self._bias() + self._mask(size, shifts, x)).expand(*q.shape[:-1], -1)
        dropout = self.attention_dropout if self.training else 0.0
        q, k, v, mask = (tensor.flatten(0, 1) for tensor in (q, k, v, mask))  # ONNX has four dimensions here
        heads = functional.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(-3, -2)
        y = functional.dropout(self.proj(heads.reshape(*x.shape[:3], -1)), self.dropout, self.training)
        y = y.view(x.shape[0], size[0] // tall, -1, tall, wide, y.shape[-1]).transpose(2, 3)
        y = y.reshape(x.shape[0], *size, -1).roll(shifts, (1, 2))
        return y[:, :height, :width].contiguous()

    def _windows(self, x: Tensor) -> Tensor:
        """Return a map by windows, (B, windows, entries, C)."""
        batch, height, width, channels = x.shape
        tall, wide = self.window_size
        x = x.reshape(batch, height // tall, tall, width // wide, wide, channels).transpose(2, 3)
        return x.reshape(batch, -1, tall * wide, channels)

    def _bias(self) -> Tensor:
        """Return what the relative positions in a window add, (heads, entries, entries)."""
        entries = math.prod(self.window_size)
        bias = self.relative_position_bias_table[self.relative_position_index]
        return bias.T.reshape(self.num_heads, entries, entries)

    def _mask(self, size: Sequence[int], shifts: Sequence[int], like: Tensor) -> Tensor:
        """Return -100 between entries that only the shift made neighbours, (windows, 1, entries, entries)."""
        regions = []
        for length, window, shift in zip(size, self.window_size, shifts, strict=True):
            place = torch.arange(length, device=like.device)
            is_last, is_moved = place >= length - window, place >= length - shift
            regions.append(is_last.long() + is_moved if shift else torch.zeros_like(place))
        kinds = self._windows((3 * regions[0][:, None] + regions[1])[None, :, :, None])[0, ..., 0]
        apart = kinds[:, None, :, None] != kinds[:, None, None, :]
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, -100.0)


def has_own_class(attention: nn.Module) -> bool:
    """Return whether attention with fewer heads is of its class; for some another module stands then."""
    is_windowed = type(attention).__name__ == "ShiftedWindowAttention"  # of torchvision, maybe not installed
    return not is_windowed and not isinstance(attention, nn.MultiheadAttention)


def runnable(module: nn.Module, whole: Any) -> nn.Module:
    """Return a cut module, or what stands for it because its class cannot run so.

    Args:
        module: Cut module.
        whole: The module before.
    """
    for name, child in list(module.named_children()):
        setattr(module, name, runnable(child, whole.get_submodule(name)))
    if has_own_class(module) or module.num_heads == whole.num_heads:
        return module
    if isinstance(module, nn.MultiheadAttention):
        return FewerHeads(module, whole.head_dim)
    return FewerWindowHeads(module, whole.proj.in_features // whole.num_heads)
