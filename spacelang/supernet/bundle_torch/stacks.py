"""Chains of the same shapes, which run as one on all their channels as long as these fit into the cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..bundles import Bundle, Wiring, channels_last

JOINED_BYTES = 2**21  # of the feature maps of chains that run as one; larger ones leave the cache


@dataclass(frozen=True)
class Stack:
    """Chains of the same shapes, which run as one on all their channels.

    Args:
        chains: The chains.
        levels: First block of each chain, second block of each, and so on.
        first: Number of levels that run before.
    """

    chains: list[int]
    levels: list[list[int]]
    first: int


@cache
def stacks(wiring: Wiring, most: int) -> list[Stack]:
    """Return all chains in stacks of at most `most`."""
    alike: dict[object, list[int]] = defaultdict(list)
    for j, silent in enumerate(wiring.silent):
        alike[silent, *((wiring.shapes[b], wiring.eps[b]) for b in wiring.blocks(j))].append(j)
    stacks, first = [], 0
    for all_chains in alike.values():
        for start in range(0, len(all_chains), most):
            chains = all_chains[start : start + most]
            levels = [list(level) for level in zip(*map(wiring.blocks, chains), strict=True)]
            stacks.append(Stack(chains, levels, first))
            first += len(levels)
    return stacks


class Run:
    """A bundle in stacks, and what both directions ask of it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.wiring = bundle.wiring
        self.channels = bundle.x.shape[1]
        self.by_sample = bundle.mix.shape[1] > 1
        self.stacks = stacks(
            self.wiring, max(1, JOINED_BYTES // (bundle.x.numel() * bundle.x.element_size()))
        )
        self.relu = F.relu(bundle.x)
        self._repeated = {1: self.relu}

    def order(self) -> Tensor:
        """Return the blocks in the order in which they run, (blocks,)."""
        return torch.tensor([b for stack in self.stacks for level in stack.levels for b in level])

    def read(self, stack: Stack) -> Tensor:
        """Return what the chains of a stack read, (N, chains C, H, W)."""
        count = len(stack.chains)
        if count not in self._repeated:
            self._repeated[count] = channels_last(self.relu.repeat(1, count, 1, 1))
        return self._repeated[count]

    def depthwise(self, level: Sequence[int]) -> Tensor:
        """Return the depthwise weights of a level, (chains C, 1, k, k)."""
        return torch.cat([self.bundle.weights[2 * b] for b in level])

    def pointwise(self, level: Sequence[int]) -> Tensor:
        """Return the 1x1 weights of a level, (chains, C out, C in)."""
        return torch.stack([self.bundle.weights[2 * b + 1].flatten(1) for b in level])

    def weights(self, stack: Stack) -> Tensor:
        """Return the weights of chains for each of their channels, (chains C,), or (N, chains C, 1, 1)."""
        weights = self.bundle.mix[stack.chains].repeat_interleave(self.channels, 0)
        return weights.T[:, :, None, None] if self.by_sample else weights[:, 0].contiguous()

    def places(self, stack: Stack) -> list[slice]:
        """Return the channels of the edge of each chain among those of all; one slice if they are all."""
        edges = [self.wiring.edge_of[j] for j in stack.chains]
        if edges == list(range(self.wiring.edges)):
            return [slice(None)]
        return [slice(e * self.channels, (e + 1) * self.channels) for e in edges]
