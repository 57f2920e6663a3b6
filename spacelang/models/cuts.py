"""Dimensions of which some factors keep a chosen number of entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..language import Value
from ..language.values import evaluate
from .atoms import Atom

Length: TypeAlias = "int | Value"


@dataclass(frozen=True, eq=False)
class Kept:
    """A factor that keeps its first entries.

    Args:
        size: Entries there are.
        length: Number of entries that are kept.
    """

    size: int
    length: Length

    def at(self, arch: Mapping[str, Any]) -> Kept:
        """Return it with the length of an architecture."""
        return Kept(self.size, evaluate(self.length, arch))

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """Return a tensor with what is kept of a dimension."""
        return tensor.narrow(dim, 0, int(self.length))


@dataclass(frozen=True, eq=False)
class Joined:
    """Dimensions that lie end to end, as in a concatenation.

    Args:
        pieces: The dimensions in order.
    """

    pieces: tuple[Cut, ...]

    @property
    def size(self) -> int:
        """Entries there are."""
        return sum(piece.size for piece in self.pieces)

    @property
    def length(self) -> Length:
        """Number of entries that are kept."""
        return _added([piece.length for piece in self.pieces])

    def at(self, arch: Mapping[str, Any]) -> Joined:
        """Return it with the lengths of an architecture."""
        return Joined(tuple(piece.at(arch) for piece in self.pieces))

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """Return a tensor with what is kept of a dimension."""
        kept, start = list[Tensor](), 0
        for piece in self.pieces:
            kept.append(piece.of(tensor.narrow(dim, start, piece.size), dim))
            start += piece.size
        return torch.cat(kept, dim)


@dataclass(frozen=True, eq=False)
class Cut:
    """A dimension of which some entries are kept.

    Args:
        factors: Factors of its size, row by row, the outer one first; a number is kept whole.
    """

    factors: tuple[int | Kept | Joined, ...]

    @property
    def size(self) -> int:
        """Entries there are."""
        return math.prod(map(_size, self.factors))

    @property
    def length(self) -> Length:
        """Number of entries that are kept."""
        return _multiplied(map(_length, self.factors))

    def lengths(self) -> Iterator[Length]:
        """Yield the length of each factor, and of each in its pieces."""
        for factor in self.factors:
            if isinstance(factor, Joined):
                for piece in factor.pieces:
                    yield from piece.lengths()
            else:
                yield _length(factor)

    @property
    def is_prefix(self) -> bool:
        """Whether what is kept are the first entries of the dimension."""
        return isinstance(self.factors[0], Kept) and all(isinstance(f, int) for f in self.factors[1:])

    def at(self, arch: Mapping[str, Any]) -> Cut:
        """Return it with the lengths of an architecture."""
        return Cut(tuple(f if isinstance(f, int) else f.at(arch) for f in self.factors))

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """Return a tensor with what is kept of a dimension; a view where that is its first entries."""
        if self.length == tensor.shape[dim]:
            return tensor
        if self.is_prefix:
            return tensor.narrow(dim, 0, int(self.length))
        sizes = [*tensor.shape[:dim], *map(_size, self.factors), *tensor.shape[dim + 1 :]]
        parts = tensor.reshape(sizes)
        for at, factor in enumerate(self.factors, start=dim):
            parts = parts if isinstance(factor, int) else factor.of(parts, at)
        return parts.flatten(dim, dim + len(self.factors) - 1)


def cut_of(atoms: Iterable[Atom], kept: Mapping[Atom, Value]) -> Cut:
    """Return the cut of a dimension.

    Args:
        atoms: Its atoms.
        kept: Numbers of entries that atoms keep; others keep theirs.
    """

    def factor(atom: Atom) -> int | Kept | Joined:
        if atom in kept:
            return Kept(atom.size, kept[atom])
        pieces = tuple(cut_of(piece, kept) for piece in atom.pieces)
        is_cut = any(isinstance(piece.length, Value) for piece in pieces)
        return Joined(pieces) if is_cut else atom.size

    return Cut(tuple(map(factor, atoms)))


def _size(factor: int | Kept | Joined) -> int:
    return factor if isinstance(factor, int) else factor.size


def _length(factor: int | Kept | Joined) -> Length:
    return factor if isinstance(factor, int) else factor.length


def _multiplied(lengths: Iterable[Length]) -> Length:
    """Return the product, the numbers in it multiplied out."""
    every = list(lengths)
    number = math.prod(length for length in every if isinstance(length, int))
    chosen = [length for length in every if isinstance(length, Value)]
    if not chosen:
        return number
    product = math.prod(chosen[1:], start=chosen[0])
    return product * number if number > 1 else product


def _added(lengths: Iterable[Length]) -> Length:
    every = list(lengths)
    number = sum(length for length in every if isinstance(length, int))
    chosen = [length for length in every if isinstance(length, Value)]
    if not chosen:
        return number
    total = sum(chosen[1:], start=chosen[0])
    return total + number if number else total
