"""Atoms: factors of the dimensions of tensors, some of which are known to be the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias


class Atom:
    """A factor of a dimension: its channels, its heads, the channels of one head.

    Atoms that must be equal are merged, and one may be found to be a product of two; every tensor that has it
    has then the same two.

    Args:
        size: Number of entries.
        reason: Reason why nobody can choose another size, or an empty text.

    Attributes:
        is_group: Whether it counts groups of channels that are treated apart.
        is_reduced: Whether something is computed from all its entries together, such as their mean.
        is_summed: Whether outputs of different layers that have it are added, as in a residual network.
    """

    def __init__(self, size: int, reason: str = "") -> None:
        self.size = size
        self.reason = reason
        self.is_group = False
        self.is_reduced = False
        self.is_summed = False
        self._parts: tuple[Atom, ...] = ()

    def __repr__(self) -> str:
        return f"Atom({self.size}{', ' * bool(self.reason)}{self.reason})"

    def leaves(self) -> list[Atom]:
        """Return the atoms that this one has become: itself, the one it was merged with, or its factors."""
        if not self._parts:
            return [self]
        found = [leaf for part in self._parts for leaf in part.leaves()]
        self._parts = tuple(found)
        return found

    def split(self, outer: int) -> None:
        """Make it a product of `outer` atoms and the rest."""
        self._become(Atom(outer, self.reason), Atom(self.size // outer, self.reason))

    def merge(self, other: Atom) -> None:
        """Make it the same as another of its size."""
        other.reason = other.reason or self.reason
        other.is_group |= self.is_group
        other.is_reduced |= self.is_reduced
        other.is_summed |= self.is_summed
        self._parts = (other,)

    def _become(self, *parts: Atom) -> None:
        for part in parts:
            part.is_reduced, part.is_summed = self.is_reduced, self.is_summed
        self._parts = parts


Dims: TypeAlias = tuple[tuple[Atom, ...], ...]
"""Atoms of each dimension of a tensor, the outer factor first; a dimension of size one has none."""


def fresh(shape: Iterable[int], reason: str = "") -> Dims:
    """Return the dimensions of a tensor of which nothing is known."""
    return tuple((Atom(size, reason),) if size != 1 else () for size in shape)


def current(atoms: Iterable[Atom]) -> tuple[Atom, ...]:
    """Return what atoms have become."""
    return tuple(leaf for atom in atoms for leaf in atom.leaves())


def size_of(atoms: Iterable[Atom]) -> int:
    """Return the product of the sizes of atoms."""
    return math.prod(atom.size for atom in atoms)


def refuse(atoms: Iterable[Atom], reason: str) -> None:
    """Note why nobody can choose the sizes of atoms; the first reason stays."""
    for leaf in current(atoms):
        leaf.reason = leaf.reason or reason


def unify(a: Iterable[Atom], b: Iterable[Atom], reason: str) -> None:
    """Make two products of one size the same; where they are factored otherwise, refuse both for `reason`."""
    left, right = list(current(a)), list(current(b))
    while left and right:
        x, y = left[0], right[0]
        if x is y or x.size == y.size:
            if x is not y:
                x.merge(y)
            left, right = list(current(left[1:])), list(current(right[1:]))
        elif max(x.size, y.size) % min(x.size, y.size) == 0:
            larger = x if x.size > y.size else y
            larger.split(min(x.size, y.size))
            left, right = list(current(left)), list(current(right))
        else:
            break
    refuse([*left, *right], reason)


def regrouped(atoms: Iterable[Atom], sizes: Sequence[int]) -> Dims | None:
    """Hand out the factors of a product to dimensions of other sizes; None where they do not divide so."""
    left, found = list(current(atoms)), list[tuple[Atom, ...]]()
    for size in sizes:
        taken = list[Atom]()
        while size > 1:
            if not left:
                return None
            first = left[0]
            if size % first.size == 0:
                taken.append(left.pop(0))
                size //= first.size
            elif first.size % size == 0:
                first.split(size)
                left = list(current(left))
            else:
                return None
        found.append(tuple(taken))
    return None if left else tuple(current(atoms) for atoms in found)
