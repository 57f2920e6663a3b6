"""Channels in the order of their importance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .atoms import Atom, size_of
from .carving import parted
from .couplings import Couplings, named_tensors
from .widths import ChosenWidth, consumed, produced


def sort_by_importance(network: nn.Module, widths: Sequence[ChosenWidth], couplings: Couplings) -> None:
    """Put the entries of every width in the order of their importance, the highest first.

    The importance of channel j is the L1 norm of the weights by which the next layers read it,

        I_j = sum over consumers W of sum_o |W[o, j, ...]|,

    of a head the sum over its features. A gate (squeeze and excitation), which reads the channels to scale
    them, does not count. Everything that has the channels is permuted alike, so the network computes what it
    did, but for the order in which it adds. Equal ones stay in order.

    Source: Once-for-all, arXiv:1908.09791, section 3.3.
    """
    tensors = dict(named_tensors(network))
    if any(tensor.is_meta for tensor in tensors.values()):
        return
    for width in widths:
        atom = width.target.atom
        members = list(couplings.members(atom))
        scores = [
            _norms(tensors[name], dim, couplings.dims(name)[dim], atom)
            for name, dim in _consumers(network, members, width.target.maker)
        ]
        if scores:
            order = torch.stack(scores).sum(0).argsort(descending=True, stable=True)
            seen = set[tuple[int, int]]()
            for name, dim in members:
                tensor = tensors[name]
                if (id(tensor), dim) not in seen:
                    seen.add((id(tensor), dim))
                    tensor.data = _permuted(tensor.data, dim, couplings.dims(name)[dim], atom, order)


def _consumers(network: nn.Module, members: Sequence[tuple[str, int]], maker: str) -> list[tuple[str, int]]:
    """Return the members over which a layer sums, without those of gates if there are others."""
    reading, making = list[tuple[str, int]](), list[str]()
    for name, dim in members:
        owner, _, tensor = name.rpartition(".")
        layer = network.get_submodule(owner)
        if consumed(layer) == (tensor, dim) or (tensor == "in_proj_weight" and dim == 1):
            reading.append((name, dim))
        elif produced(layer) == (tensor, dim):
            making.append(owner)
    plain = [(name, dim) for name, dim in reading if not _is_gate(name, making, maker)]
    return plain or reading


def _is_gate(name: str, making: Sequence[str], maker: str) -> bool:
    """Return whether the module that reads channels also makes them, and is not where they come from."""
    around = name.rpartition(".")[0].rpartition(".")[0] + "."
    return not maker.startswith(around) and any(path.startswith(around) for path in making)


def _norms(tensor: Tensor, dim: int, atoms: Sequence[Atom], atom: Atom) -> Tensor:
    """Return the L1 norm of each entry of an atom, (entries,)."""
    parts = parted(tensor.detach(), dim, _sizes(atoms, atom)).abs()
    return parts.movedim(dim + 1, 0).flatten(1).sum(1)


def _permuted(tensor: Tensor, dim: int, atoms: Sequence[Atom], atom: Atom, order: Tensor) -> Tensor:
    parts = parted(tensor, dim, _sizes(atoms, atom)).index_select(dim + 1, order.to(tensor.device))
    return parts.flatten(dim, dim + 2)


def _sizes(atoms: Sequence[Atom], atom: Atom) -> tuple[int, int, int]:
    """Return the sizes of what is outside an atom, of the atom, and of what is inside it."""
    at = atoms.index(atom)
    return size_of(atoms[:at]), atom.size, size_of(atoms[at + 1 :])
