"""Modules that are cut as wholes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import SpaceError, listed
from ..language import Primitive, Value
from .alternatives import Adopted
from .atoms import size_of
from .carving import Carved, Cuts, carved
from .couplings import Couplings, Recorded, named_tensors
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
        for width in concerned:
            attention = width.target.attention
            if attention is not None and _is_within(attention, unit):
                found = head_attributes(network.get_submodule(attention), width, couplings)
                prefix = "" if attention == unit else attention.removeprefix(f"{unit}.") + "."
                heads |= {prefix + name: value for name, value in found.items()}
        inputs = _inputs(module, concerned, couplings.calls.get(unit), couplings)
        is_mixable = not any(width.target.atom.is_reduced for width in concerned)
        path = adopted.names.get(id(module), unit)
        cut = carved(module, path, inside, heads=heads, inputs=inputs, is_mixable=is_mixable)
        adopted.replace(module, cut)


def _inputs(
    module: nn.Module, widths: Sequence[ChosenWidth], call: Recorded | None, couplings: Couplings
) -> dict[str, dict[int, Value]]:
    """Return the dimensions of arguments of a module that have the atoms of widths, and their sizes."""
    found: dict[str, dict[int, Value]] = {}
    if call is None:
        return found
    for name, value in inspect.signature(module.forward).bind(*call.args, **call.kwargs).arguments.items():
        for dim, atoms in enumerate(couplings.of(value) if isinstance(value, Tensor) else ()):
            for width in widths:
                if width.target.atom in atoms:
                    rest = size_of(atoms) // width.target.atom.size
                    found.setdefault(name, {})[dim] = width.kept * rest if rest > 1 else width.kept
    return found


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
    kept = (cut.kept for dims in cuts.values() for cut in dims.values())
    return any(decision.label == width.decision.label for value in kept for decision in value.decisions())


def _is_within(path: str, module: str) -> bool:
    return module == "" or path == module or path.startswith(f"{module}.")


def _common(a: str, b: str) -> str:
    """Return the path of the innermost module that holds both."""
    while not (_is_within(a, b) or _is_within(b, a)):
        a = a.rpartition(".")[0]
    return b if _is_within(a, b) else a
