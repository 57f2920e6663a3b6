"""Atoms that widths choose, and everything that is cut with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import SpaceError, listed
from ..language import Categorical, Value
from ..language.values import Choice
from .atoms import Atom, size_of, within
from .couplings import Couplings
from .cuts import Cut, cut_of

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
"""Attributes that count the heads of attention."""
_GROUPED_HEADS = ("num_key_value_heads", "num_kv_heads")
_QUERIES = ("num_key_value_groups",)
_HEAD_FEATURES = ("all_head_size", "attn_dim", "split_size", "inner_dim")
_READ = ("in_features", "in_channels", "num_features", "num_channels", "normalized_shape", "nx")


@dataclass(frozen=True, eq=False)
class Target:
    """Size that a width at some place chooses.

    Args:
        atom: The atom that is cut.
        total: Size as the user counts it: channels, or heads.
        maker: Path of the module it was named for.
        step: Entries of that size for one of the atom.
        attention: Path of the module whose heads they are; None for channels.
    """

    atom: Atom
    total: int
    maker: str
    step: int = 1
    attention: str | None = None


@dataclass(frozen=True, eq=False)
class ChosenWidth:
    """A decision on an atom.

    Args:
        decision: Sizes as the user counts them.
        target: Size that it chooses.
    """

    decision: Categorical
    target: Target

    @property
    def kept(self) -> Value:
        """Number of entries of the atom that are kept."""
        chosen = Choice(self.decision)
        return chosen // self.target.step if self.target.step > 1 else chosen


def target_of(module: nn.Module, path: str, attribute: str, couplings: Couplings) -> Target:
    """Return what a width at a place chooses.

    Raises:
        SpaceError: There is no width, or it is not free; says why, and where.
    """
    made = produced(module)
    if attribute in _READ:
        raise SpaceError(
            "it is what the layer reads. Name the layer that makes it, by out_features or out_channels"
        )
    if made is None or attribute in HEADS:
        return heads_of(module, path, couplings, of_queries=attribute in _QUERIES)
    atoms = couplings.dims(f"{path}.{made[0]}")[made[1]]
    if not atoms:
        raise SpaceError("there is only one")
    groups = [atom for atom in atoms if atom.is_group]
    if len(atoms) > 1 and not groups:
        product = " x ".join(str(atom.size) for atom in atoms)
        raise SpaceError(f"{size_of(atoms)} is taken apart as {product}; for heads name the attention module")
    return _free(Target(atoms[-1], size_of(atoms), path, size_of(atoms[:-1])))


def produced(module: nn.Module) -> tuple[str, int] | None:
    """Return the parameter and its dimension that a layer's output has, or None if it is not such a layer."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return ("weight", 1 if module.transposed else 0)
    if isinstance(module, nn.Linear):
        return ("weight", 0)
    if isinstance(module, nn.Embedding):
        return ("weight", 1)
    is_conv1d = type(getattr(module, "nf", None)) is int and "weight" in module._parameters
    return ("weight", 1) if is_conv1d else None  # Conv1D of transformers


def consumed(module: nn.Module) -> tuple[str, int] | None:
    """Return the parameter and its dimension over which a layer sums its input, or None."""
    made = produced(module)
    if made is None or isinstance(module, nn.Embedding):
        return None
    return made[0], 1 - made[1]


def heads_of(module: nn.Module, path: str, couplings: Couplings, *, of_queries: bool = False) -> Target:
    """Return the heads of attention: the outer factor of what its output projection reads.

    Args:
        module: The attention.
        path: Its path.
        couplings: Couplings of the network.
        of_queries: Whether to return the queries that share a key, the next factor, instead.

    Raises:
        SpaceError: It is not attention, or its heads are not free.
    """
    if isinstance(module, nn.MultiheadAttention) and (
        not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn
    ):
        raise SpaceError("attention with added keys or keys of another size keeps its heads")
    made = _projected_to(module, path, couplings)
    found: dict[int, Target] = {}
    factor = 1 if of_queries else 0
    for name, child in module.named_modules():
        read = consumed(child)
        full = ".".join(filter(None, (path, name, read[0]))) if read else ""
        if read is None or full not in couplings.tensors:
            continue
        atoms = couplings.dims(full)[read[1]]
        if len(atoms) > 1 + factor and atoms[0] in made and not any(atom.is_group for atom in atoms):
            atom = atoms[factor]
            found[id(atom)] = Target(atom, atom.size, path, attention=path)
    if len(found) != 1:
        raise SpaceError(
            f"{type(module).__name__} neither returns channels of its own nor is it attention whose heads "
            "can be told. Name a convolution, a linear layer, or the module of the attention"
        )
    return _free(next(iter(found.values())))


def _projected_to(module: nn.Module, path: str, couplings: Couplings) -> set[Atom]:
    """Return the outer factors of what projections in a module return, such as queries to heads."""
    found = set[Atom]()
    for name, child in module.named_modules():
        made = ("in_proj_weight", 0) if isinstance(child, nn.MultiheadAttention) else produced(child)
        full = ".".join(filter(None, (path, name, made[0]))) if made else ""
        if made and full in couplings.tensors:
            found.update(couplings.dims(full)[made[1]][:-1])
    return found


def _free(target: Target) -> Target:
    if target.atom.pieces:
        sizes = listed(str(size_of(piece)) for piece in target.atom.pieces)
        raise SpaceError(
            f"it is added to a concatenation, or scales it. Name the layers that make its pieces of {sizes}"
        )
    if target.atom.reason:
        raise SpaceError(f"it is not free to choose: {target.atom.reason}")
    return target


def sizes_from(given: object, target: Target) -> list[int]:
    """Return the sizes that a width offers, shares as numbers.

    Raises:
        SpaceError: One is impossible; lists those that are possible.
    """
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise SpaceError(f"Width({given!r}) needs a list of sizes, such as Width([0.5, 1.0])")
    return list(dict.fromkeys(_size(size, target) for size in given))


def _size(given: Any, target: Target) -> int:
    known = isinstance(given, int | float) and not isinstance(given, bool)
    exact = given * target.total if isinstance(given, float) else given
    size = round(exact) if known and abs(exact) < 1e9 else 0
    if not known or abs(exact - size) > 1e-6 or not 0 < size <= target.total or size % target.step:
        possible = range(target.step, target.total + 1, target.step)
        raise SpaceError(
            f"{given!r} of {target.total} cannot be had; possible are {listed(possible)}, or such shares"
        )
    return size


def cuts_of(widths: Iterable[ChosenWidth], couplings: Couplings) -> dict[str, dict[int, Cut]]:
    """Return what is cut in every parameter and buffer."""
    kept = {width.target.atom: width.kept for width in widths}
    cuts: dict[str, dict[int, Cut]] = {}
    for name in couplings.tensors:
        for dim, atoms in enumerate(couplings.dims(name)):
            if not kept.keys().isdisjoint(within(atoms)):
                cuts.setdefault(name, {})[dim] = cut_of(atoms, kept)
    return cuts


def head_attributes(
    module: nn.Module, path: str, widths: Sequence[ChosenWidth], couplings: Couplings
) -> dict[str, Any]:
    """Return the attributes of attention that count its heads or their features, and their values.

    Args:
        module: The attention.
        path: Its path.
        widths: Widths that concern it.
        couplings: Couplings of the network.
    """
    kept = {width.target.atom: width.kept for width in widths}
    atoms = _projected(module, path, [w.target.atom for w in widths if w.target.attention == path], couplings)
    counted = (
        (HEADS, atoms[:-1]),
        (_GROUPED_HEADS, atoms[:1]),
        (_QUERIES, atoms[1:-1]),
        (_HEAD_FEATURES, atoms),
    )
    found: dict[str, Any] = {}
    for name, child in module.named_modules():
        prefix = f"{name}." if name else ""
        for names, factors in counted:
            cut = cut_of(factors, kept)
            for attribute in names:
                if isinstance(cut.length, Value) and vars(child).get(attribute) == cut.size:
                    found[prefix + attribute] = cut.length
    return found


def _projected(module: nn.Module, path: str, heads: Sequence[Atom], couplings: Couplings) -> tuple[Atom, ...]:
    """Return the factors of what the output projection of attention reads."""
    for name, child in module.named_modules():
        read = consumed(child)
        if read is not None:
            atoms = couplings.dims(".".join(filter(None, (path, name, read[0]))))[read[1]]
            if heads[0] in atoms and len(atoms) > 1:
                return atoms
    raise AssertionError(path)
