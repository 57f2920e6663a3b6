"""Modules that are cut as wholes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import SpaceError, listed
from ..graph.tensors import tensors_in
from ..language import Primitive, Value
from ..language.values import decisions_of
from .alternatives import Adopted
from .carving import Borders, Carved, Cuts, carved
from .couplings import Couplings, Recorded, named_tensors
from .cuts import Cut, cut_of
from .widths import ChosenWidth, cuts_of, head_attributes


def carve(adopted: Adopted, widths: Sequence[ChosenWidth], couplings: Couplings) -> None:
    """Put carved modules in place of everything that chosen widths concern.

    Raises:
        SpaceError: A width would cut what is not inside one module, or what holds a choice itself.
    """
    network = adopted.network
    cuts = cuts_of(widths, couplings)
    units = _units(network, cuts, widths, couplings)
    for unit in units:
        module = network.get_submodule(unit)
        if isinstance(module, Carved):  # one module at two places
            continue
        inside = {name.removeprefix(f"{unit}."): cuts[name] for name in cuts if _is_within(name, unit)}
        concerned = [width for width in widths if _concerns(width, inside)]
        heads: dict[str, Any] = {}
        for attention in dict.fromkeys(width.target.attention for width in concerned):
            if attention is not None and _is_within(attention, unit):
                found = head_attributes(network.get_submodule(attention), attention, concerned, couplings)
                prefix = "" if attention == unit else attention.removeprefix(f"{unit}.") + "."
                heads |= {prefix + name: value for name, value in found.items()}
        path = adopted.names.get(id(module), unit)
        borders = _borders(module, concerned, couplings.calls.get(unit), couplings)
        adopted.replace(module, carved(module, path, inside, heads=heads, borders=borders))


def _borders(
    module: nn.Module, widths: Sequence[ChosenWidth], call: Recorded | None, couplings: Couplings
) -> Borders:
    """Return the dimensions of what a module reads and returns that have the atoms of widths."""
    kept = {width.target.atom: width.kept for width in widths}
    is_reduced = any(atom.is_reduced for atom in kept)
    if call is None:
        return Borders({}, [], is_reduced)

    def cuts(value: Any) -> dict[int, Cut]:
        dims = couplings.of(value) if isinstance(value, Tensor) else ()
        every = {dim - len(dims): cut_of(atoms, kept) for dim, atoms in enumerate(dims)}
        return {dim: cut for dim, cut in every.items() if isinstance(cut.length, Value)}

    given = inspect.signature(module.forward).bind(*call.args, **call.kwargs).arguments
    read = {name: cuts(value) for name, value in given.items()}
    return Borders(read, [cuts(tensor) for tensor in tensors_in(call.output)], is_reduced)


def _units(network: nn.Module, cuts: Cuts, widths: Sequence[ChosenWidth], couplings: Couplings) -> list[str]:
    """Return the paths of the modules that are cut as wholes.

    It is the layer that a tensor belongs to; or what reads the tensor in its place, or counts its heads.
    """
    units = {width.target.attention for width in widths if width.target.attention is not None}
    for name in cuts:
        unit = name.rpartition(".")[0]
        for reader in couplings.readers.get(name, ()):
            unit = _common(unit, reader)
        if unit == "":
            raise _uncut(widths, {name: cuts[name]}, f"{name} belongs to the network itself")
        units.add(unit)
    outer = sorted(u for u in units if not any(u != other and _is_within(u, other) for other in units))
    for unit in outer:
        chosen = [
            p for p, child in network.get_submodule(unit).named_modules() if isinstance(child, Primitive)
        ]
        if chosen:
            inside = {name: cuts[name] for name in cuts if _is_within(name, unit)}
            raise _uncut(
                widths, inside, f"{unit!r} is cut as a whole, and has choices in it: {listed(chosen, 4)}"
            )
    _refuse_tied(network, cuts, outer)
    return outer


def _uncut(widths: Sequence[ChosenWidth], cuts: Cuts, reason: str) -> SpaceError:
    labels = listed(repr(width.decision.label) for width in widths if _concerns(width, cuts))
    return SpaceError(f"the width {labels} cannot be chosen: {reason}.")


def _refuse_tied(network: nn.Module, cuts: Cuts, units: Sequence[str]) -> None:
    """Raise if one tensor is cut in two modules, which would then have each its own."""
    names: dict[int, list[str]] = {}
    for name, tensor in named_tensors(network):
        if name in cuts:
            names.setdefault(id(tensor), []).append(name)
    for tied in names.values():
        owners = {
            id(network.get_submodule(unit)) for unit in units for name in tied if _is_within(name, unit)
        }
        if len(owners) > 1:
            raise SpaceError(f"{listed(tied)} are one tensor, which cannot be cut in several modules.")


def _concerns(width: ChosenWidth, cuts: Cuts) -> bool:
    lengths = [cut.length for dims in cuts.values() for cut in dims.values()]
    return width.decision.label in {decision.label for decision in decisions_of(lengths)}


def _is_within(path: str, module: str) -> bool:
    return module == "" or path == module or path.startswith(f"{module}.")


def _common(a: str, b: str) -> str:
    """Return the path of the innermost module that holds both."""
    while not (_is_within(a, b) or _is_within(b, a)):
        a = a.rpartition(".")[0]
    return b if _is_within(a, b) else a
