"""Channels in the order of their importance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..supernet.channel_order import channel_order, entry_norms
from .atoms import Atom, size_of
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
            _norms(tensors[name], dim, _places(couplings.dims(name)[dim], atom))
            for name, dim in _consumers(network, members, width.target.maker)
        ]
        if scores:
            order = channel_order(torch.stack(scores).sum(0))
            seen = set[tuple[int, int]]()
            for name, dim in members:
                tensor = tensors[name]
                if (id(tensor), dim) not in seen:
                    seen.add((id(tensor), dim))
                    tensor.data = _permuted(tensor.data, dim, _places(couplings.dims(name)[dim], atom), order)


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


def _norms(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    """Return the L1 norm of each entry of an atom, (entries,)."""
    return entry_norms(tensor, dim)[places.to(tensor.device)].sum(1)


def _permuted(tensor: Tensor, dim: int, places: Tensor, order: Tensor) -> Tensor:
    """Return a tensor with the entries of an atom in another order."""
    index = torch.arange(tensor.shape[dim])
    index[places] = places[order.cpu()]
    return tensor.index_select(dim, index.to(tensor.device))


def _places(atoms: Sequence[Atom], atom: Atom) -> Tensor:
    """Return where the entries of an atom are in a dimension, (entries, times each is there)."""
    found = [torch.empty(atom.size, 0, dtype=torch.long)]
    for at, factor in enumerate(atoms):
        grid = torch.arange(size_of(atoms)).view(
            size_of(atoms[:at]), factor.size, -1
        )  # (before, size, after)
        inner = [torch.arange(factor.size)[:, None]] if factor is atom else []
        start = 0
        for piece in factor.pieces:
            inner.append(start + _places(piece, atom))
            start += size_of(piece)
        found += [grid[:, rows].movedim(1, 0).flatten(1) for rows in inner]
    return torch.cat(found, 1)
