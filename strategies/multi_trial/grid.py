"""Grid search."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spacelang.trials import Exhausted, History, Proposal

from .stateless import Stateless, drawn_once

_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Grid(Stateless):
    """Try every architecture once, in lexicographic order of candidates or shuffled.

    Each is computed from its place in the grid, which is never held as a whole. If the order is shuffled, the
    place of step i is a keyed permutation of i: a Feistel network on the smallest even number of bits that
    holds all places, applied again while it leads outside. The key is drawn with the first proposal.

    Args:
        shuffle: Whether the order is random.
        points: Number of values of each range without a step; needed where the space has one.
    """

    shuffle: bool = False
    points: int | None = None
    has_end: ClassVar[bool] = True

    def ask(self, history: History, rng: np.random.Generator) -> Proposal:
        """See `Proposer`."""
        space = history.space.on_grid(self.points)
        size = int(space.size())
        step = int(history[len(history) - 1].note.get("step", -1)) + 1 if len(history) else 0
        key = drawn_once("order", history, rng) if self.shuffle else None
        while step < size:
            arch = space.at(step if key is None else permuted(step, size, key))
            if arch not in history:
                return Proposal(arch, note={"step": step} if key is None else {"step": step, "order": key})
            step += 1
        raise Exhausted(f"all {size:,} architectures of the space were proposed")


def permuted(index: int, size: int, key: int) -> int:
    """Return the image of `index` under a pseudo-random permutation of range(size).

    Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains: a Feistel network, cycle walking.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_hashed(key, turn, right) & mask)
        index = left << half | right
        if index < size:
            return index


def _hashed(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode()).digest())
