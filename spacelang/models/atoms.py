"""Atoms: factors of the dimensions of tensors, some of which are known to be the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias


class Atom:
    """A factor of a dimension: its channels, its heads, the channels of one head.

    Atoms that must be equal are merged, and one may be found to be a product of two; every tensor that has it
    has then the same two. The channels of a concatenation of unlike maps are one atom that knows its pieces.

    Args:
        size: Number of entries.
        reason: Reason why nobody can choose another size, or an empty text.
        pieces: Products of atoms that lie end to end in it; none unless it is of a concatenation.

    Attributes:
        is_group: Whether it counts groups of channels that are treated apart.
        is_reduced: Whether something is computed from all its entries together, such as their mean.
        is_summed: Whether outputs of different layers that have it are added, as in a residual network.
    """

    def __init__(self, size: int, reason: str = "", pieces: Iterable[tuple[Atom, ...]] = ()) -> None:
        self.size = size
        self.reason = reason
        self.is_group = False
        self.is_reduced = False
        self.is_summed = False
        every = tuple(pieces)
        self._pieces = every if any(every) else ()
        self._parts: tuple[Atom, ...] = ()

    def __repr__(self) -> str:
        return f"Atom({self.size}{', ' * bool(self.reason)}{self.reason})"

    @property
    def pieces(self) -> tuple[tuple[Atom, ...], ...]:
        """Atoms that its pieces have become."""
        return tuple(current(piece) for piece in self._pieces)

    def leaves(self) -> list[Atom]:
        """Return the atoms that this one has become: itself, the one it was merged with, or its factors."""
        if not self._parts:
            return [self]
        found = [leaf for part in self._parts for leaf in part.leaves()]
        self._parts = tuple(found)
        return found

    def split(self, outer: int) -> bool:
        """Make it a product of `outer` atoms and the rest, and return whether that can be.

        A concatenation of so many pieces of one size is one of equal pieces.
        """
        pieces = self.pieces
        if not pieces:
            self._become(Atom(outer, self.reason), Atom(self.size // outer, self.reason))
        elif len(pieces) != outer or len({size_of(piece) for piece in pieces}) > 1:
            return False
        else:
            for piece in pieces[1:]:
                unify(pieces[0], piece, "pieces of a concatenation are treated alike")
            self._become(Atom(outer, self.reason or COUNTS_PIECES), *current(pieces[0]))
        return True

    def merge(self, other: Atom) -> bool:
        """Make it the same as another of its size, and return whether that can be."""
        if self.pieces and not other.pieces:
            return other.merge(self)
        if [size_of(piece) for piece in self.pieces] not in ([], [size_of(piece) for piece in other.pieces]):
            return False
        for mine, theirs in zip(self.pieces, other.pieces, strict=False):
            unify(mine, theirs, "pieces of concatenations are factored otherwise")
        self._become(other)
        return True

    def _become(self, *parts: Atom) -> None:
        for atom in within(parts):
            atom.reason = atom.reason or self.reason
            atom.is_group |= self.is_group and len(parts) == 1
            atom.is_reduced |= self.is_reduced
            atom.is_summed |= self.is_summed
        self._parts = parts


COUNTS_PIECES = "it counts the pieces of a concatenation"

Dims: TypeAlias = tuple[tuple[Atom, ...], ...]
"""Atoms of each dimension of a tensor, the outer factor first; a dimension of size one has none."""


def fresh(shape: Iterable[int], reason: str = "") -> Dims:
    """Return the dimensions of a tensor of which nothing is known."""
    return tuple((Atom(size, reason),) if size != 1 else () for size in shape)


def current(atoms: Iterable[Atom]) -> tuple[Atom, ...]:
    """Return what atoms have become."""
    return tuple(leaf for atom in atoms for leaf in atom.leaves())


def within(atoms: Iterable[Atom]) -> Iterator[Atom]:
    """Yield what atoms have become, and what the pieces of concatenations have."""
    for leaf in current(atoms):
        yield leaf
        for piece in leaf.pieces:
            yield from within(piece)


def size_of(atoms: Iterable[Atom]) -> int:
    """Return the product of the sizes of atoms."""
    return math.prod(atom.size for atom in atoms)


def refuse(atoms: Iterable[Atom], reason: str) -> None:
    """Note why nobody can choose the sizes of atoms; the first reason stays."""
    for atom in within(atoms):
        atom.reason = atom.reason or reason


def unify(a: Iterable[Atom], b: Iterable[Atom], reason: str) -> None:
    """Make two products of one size the same; where they are factored otherwise, refuse both for `reason`."""
    left, right = list(current(a)), list(current(b))
    while left and right:
        x, y = left[0], right[0]
        smaller, larger = sorted((x, y), key=lambda atom: atom.size)
        if x is y or (x.size == y.size and x.merge(y)):
            left, right = list(current(left[1:])), list(current(right[1:]))
        elif smaller.size < larger.size and larger.size % smaller.size == 0 and larger.split(smaller.size):
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
            elif first.size % size == 0 and first.split(size):
                left = list(current(left))
            else:
                return None
        found.append(tuple(taken))
    return None if left else tuple(current(atoms) for atoms in found)
